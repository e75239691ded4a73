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
    def peaks(m: DeployedGPT) -> torch.Tensor:
        seen = []
        hook = m.blocks[1].attention.qkv.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
        logits(m)
        hook.remove()
        return seen[0].flatten(0, 1).abs().amax(0).sort().values

    def ratio(p: torch.Tensor) -> float:
        return float(p[-1] / p[-2])

    assert ratio(peaks(model)) > 3 > ratio(peaks(rotate(model)))
