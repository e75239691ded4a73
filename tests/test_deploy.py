"""The rewrites for deployment: the same function, with the head untied and the outliers gone."""

from __future__ import annotations

from typing import Callable

import pytest
import torch

from lib.deploy import DeployedGPT, _orthogonal, deploy, equalise, fold_norms, linears, rotate
from lib.gpt import GPT, GPTConfig


@pytest.fixture
def model() -> DeployedGPT:
    """A small model whose LayerNorms have gains and biases of their own, one gain far out."""
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=16, block=12, vocab=11))
    with torch.no_grad():
        for name, parameter in gpt.named_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        gpt.blocks[1].norm1.weight[5] = 20
    return deploy(gpt)


def logits(model: DeployedGPT) -> torch.Tensor:
    tokens = torch.arange(24).view(2, 12) % 11
    with torch.no_grad():
        return model.double()(tokens)


def equalised(model: DeployedGPT) -> DeployedGPT:
    peaks = {name: torch.linspace(0.1, 9, layer.in_features) for name, layer in linears(model).items()}
    return equalise(model, peaks, 0.5)


@pytest.mark.parametrize("rewrite", [deploy, fold_norms, equalised, rotate])
def test_a_rewrite_leaves_the_function_and_the_original_alone(
    rewrite: Callable[[DeployedGPT], DeployedGPT], model: DeployedGPT
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rewritten = rewrite(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    error = (logits(rewritten) - logits(model)).abs().max()
    assert error < 1e-4  # the rewritten weights are stored in single precision


def test_the_step_path_is_rewritten_too(model: DeployedGPT) -> None:
    turned = rotate(model)
    cache, token, position = model.empty_cache(), torch.tensor([3]), torch.tensor(0)
    with torch.no_grad():
        expected, found = (m.step(token, position, cache)[0] for m in (model, turned))
    assert (expected - found).abs().max() < 1e-4


def test_the_head_is_a_linear_of_its_own(model: DeployedGPT) -> None:
    assert len(linears(model)) == 4 * 2 + 1
    with torch.no_grad():
        model.unembed.weight.zero_()
    assert model.token.weight.abs().max() > 0


def test_the_rotation_is_orthogonal_and_keeps_the_mean() -> None:
    q = _orthogonal(32, torch.Generator().manual_seed(1), fixes_mean=True)
    assert (q @ q.T - torch.eye(32)).abs().max() < 1e-12
    assert (q @ torch.ones(32, dtype=torch.float64) - 1).abs().max() < 1e-12
    assert (q - torch.eye(32)).abs().max() > 0.1


def test_a_rotation_spreads_an_outlier(model: DeployedGPT) -> None:
    """One channel of the stream and one of a head's values stand out; folding leaves both, turning neither."""
    with torch.no_grad():
        model.token.weight[:, 3] = 40
        model.blocks[1].attention.qkv.weight[2 * 16 + 5] *= 40

    def ratio(m: DeployedGPT, name: str) -> float:
        seen = []
        hook = m.get_submodule(name).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
        logits(m)
        hook.remove()
        peaks = seen[0].flatten(0, 1).abs().amax(0).sort().values
        return float(peaks[-1] / peaks[-2])

    for name in ("blocks.0.attention.qkv", "blocks.1.attention.out"):
        assert ratio(fold_norms(model), name) > 3 > ratio(rotate(model), name)  # 10.2, 1.0; 11.8, 1.3


def test_equalising_goes_half_the_way_between_input_and_weight(model: DeployedGPT) -> None:
    peaks = {name: torch.linspace(0.1, 9, layer.in_features) for name, layer in linears(model).items()}
    before, after = linears(model), linears(equalised(model))
    for name in ("blocks.1.attention.out", "blocks.0.feed_forward.up", "unembed"):
        scale = (after[name].weight / before[name].weight)[0]
        torch.testing.assert_close(peaks[name] / scale, after[name].weight.abs().amax(0))
