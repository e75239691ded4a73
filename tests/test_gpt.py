"""The model: what it computes, on both paths, how it writes, and what it costs."""

from __future__ import annotations

from typing import Callable

import pytest
import torch
import torch.nn as nn
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from lib.errors import BookError
from lib.gpt import (
    CONFIGS,
    GPT,
    GPTConfig,
    Stepper,
    attention_macs,
    block_weights,
    generate,
    inventory,
    kv_cache_bytes,
    window_start,
)

SMALL = GPTConfig(n_layer=3, n_head=2, n_embd=32, block=16)
Make = Callable[..., GPT]


def tokens(config: GPTConfig, count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(config.vocab, (count,), generator=torch.Generator().manual_seed(seed))


# ---- What it computes. ----


@torch.no_grad()
def test_forward_is_that_of_torchs_own_layers(random_model: Make) -> None:
    """Attention, its mask and scale, the exact GELU and the pre-norm residuals, against nn.TransformerEncoderLayer."""
    model = random_model(SMALL)
    ids = tokens(SMALL, 2 * SMALL.block).view(2, SMALL.block)
    x = model.token.weight[ids] + model.position.weight
    mask = nn.Transformer.generate_square_subsequent_mask(SMALL.block)
    for block in model.blocks:
        layer = nn.TransformerEncoderLayer(
            SMALL.n_embd, SMALL.n_head, 4 * SMALL.n_embd, 0.0, "gelu", batch_first=True, norm_first=True
        ).eval()
        parts = (
            (layer.norm1, block.norm1),
            (layer.norm2, block.norm2),
            (layer.self_attn.out_proj, block.attention.out),
            (layer.linear1, block.feed_forward.up),
            (layer.linear2, block.feed_forward.down),
        )
        for theirs, ours in parts:
            theirs.load_state_dict(ours.state_dict())
        layer.self_attn.in_proj_weight.copy_(block.attention.qkv.weight)
        layer.self_attn.in_proj_bias.copy_(block.attention.qkv.bias)
        x = layer(x, src_mask=mask)
    expected = model.norm(x) @ model.token.weight.T
    assert (model(ids) - expected).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("config", [SMALL, CONFIGS["nano"]], ids=["small", "nano"])
def test_steps_give_the_logits_of_the_full_pass(random_model: Make, config: GPTConfig) -> None:
    """A step writes its own slot of the cache, and what the later slots hold is neither seen nor changed."""
    model = random_model(config)
    ids = tokens(config, 2 * config.block).view(2, config.block)
    full, cache = model(ids), torch.randn_like(model.empty_cache(batch=2))
    for position in range(config.block):
        before = cache
        step, cache = model.step(ids[:, position], torch.tensor(position), cache)
        assert (cache != before).nonzero()[:, 4].unique().tolist() == [position]
        assert (step - full[:, position]).abs().max() < 1e-5


@torch.no_grad()
def test_a_later_token_leaves_earlier_logits_as_they_are(random_model: Make) -> None:
    model = random_model(CONFIGS["nano"])
    ids = tokens(model.config, 64)[None]
    before = model(ids)
    for position in (1, 31, 63):
        changed = ids.clone()
        changed[0, position] = (changed[0, position] + 1) % 97
        after = model(changed)
        assert torch.equal(after[:, :position], before[:, :position])
        assert not torch.isclose(after[:, position:], before[:, position:]).all(dim=2).any()


def test_initial_weights_are_gpt2s() -> None:
    torch.manual_seed(0)
    model = GPT(CONFIGS["nano"])
    for name, expected in (("token", 0.02), ("position", 0.02), ("blocks.1.attention.qkv", 0.02)):
        assert model.get_parameter(f"{name}.weight").std().item() == pytest.approx(expected, rel=0.05)
    for name in ("attention.out", "feed_forward.down"):  # two layers, two projections each
        assert model.get_parameter(f"blocks.0.{name}.weight").std().item() == pytest.approx(0.02 / 4**0.5, rel=0.05)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert torch.equal(parameter, torch.full_like(parameter, name.endswith("weight")))


@pytest.mark.parametrize(
    "changes, complaint",
    [
        *(({n: 0}, f"{n} is 0; it must be at least 1") for n in ("n_layer", "n_head", "n_embd", "block", "vocab")),
        ({"n_head": 3}, "32 does not divide into 3 heads"),
        ({"block": 15}, "block 15 is odd"),
        ({"dropout": 1.0}, r"dropout 1.0 is outside \[0, 1\)"),
        ({"dropout": -0.1}, "dropout -0.1"),
    ],
)
def test_an_impossible_shape_is_told(changes: dict[str, float], complaint: str) -> None:
    with pytest.raises(BookError, match=complaint):
        GPTConfig(**({"n_layer": 3, "n_head": 2, "n_embd": 32, "block": 16} | changes))


# ---- Generation. ----


@given(st.integers(0, 100_000), st.integers(1, 200).map(lambda half: 2 * half))
def test_window_start_moves_by_half_a_block_and_keeps_half(n: int, block: int) -> None:
    start, previous = window_start(n, block), window_start(max(0, n - 1), block)
    position = n - start
    assert 0 <= position < block
    assert start - previous in (0, block // 2)
    assert position >= block // 2 if n >= block else start == 0


def test_window_start_by_hand() -> None:
    assert [window_start(n, 4) for n in range(11)] == [0, 0, 0, 0, 2, 2, 4, 4, 6, 6, 8]


@torch.no_grad()
@pytest.mark.parametrize("config, count", [(SMALL, 60), (CONFIGS["nano"], 140)], ids=["small", "nano"])
def test_stepper_equals_the_full_pass_over_its_window(random_model: Make, config: GPTConfig, count: int) -> None:
    """Through more than two blocks, at every character: the refilled cache holds what the rule says."""
    model = random_model(config)
    ids, stepper = tokens(config, count), Stepper(model)
    for n in range(count):
        logits = stepper.feed(int(ids[n]))
        window = ids[window_start(n, config.block) : n + 1]
        assert (logits - model(window[None])[0, -1]).abs().max() < 1e-5


@torch.no_grad()
def test_greedy_takes_the_likeliest_and_never_varies(random_model: Make) -> None:
    model = random_model(SMALL)
    written = list(generate(model, [1, 2, 3], 40))
    assert list(generate(model, [1, 2, 3], 40, seed=9)) == written
    assert list(generate(model, [1, 2, 3], 40, temperature=1.0, top_k=1)) == written
    history = [1, 2, 3, *written]
    for n in range(2, len(history) - 1):
        logits = model(torch.tensor([history[window_start(n, SMALL.block) : n + 1]]))[0, -1]
        assert history[n + 1] == logits.argmax()


def test_sampling_repeats_with_its_seed_and_follows_the_distribution(random_model: Make) -> None:
    model = random_model(SMALL)
    runs = [list(generate(model, [5], 40, temperature=1.0, seed=seed)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    model.token.weight.data *= 4  # a distribution with a peak
    with torch.no_grad():
        logits = model(torch.tensor([[5]]))[0, -1]
    for temperature, top_k in ((1.0, None), (2.0, 3)):
        kept = logits.topk(top_k or 97)
        expected = torch.zeros(97).scatter(0, kept.indices, (kept.values / temperature).softmax(0))
        drawn = [next(generate(model, [5], 1, temperature, top_k, seed)) for seed in range(400)]
        found = torch.bincount(torch.tensor(drawn), minlength=97) / 400
        assert (found - expected).abs().max() < 0.1  # four standard deviations
        assert (found[expected == 0] == 0).all()


@pytest.mark.parametrize(
    "prompt, options, complaint",
    [
        ([], {}, "the prompt is empty"),
        ([1] * 17, {}, "the prompt has 17 characters and the model's block is 16"),
        ([1], {"top_k": 0}, "top_k must be at least 1"),
        ([1], {"temperature": -1.0}, "must be 0 or more"),
        ([1], {"length": -1}, "must be 0 or more"),
        ([1], {"seed": 2**63}, "seed is 9223372036854775808"),
    ],
)
def test_an_impossible_request_is_told_at_once(prompt: list[int], options: dict[str, float], complaint: str) -> None:
    with pytest.raises(BookError, match=complaint):
        generate(GPT(SMALL), prompt, **({"length": 1} | options))


def test_a_prompt_may_fill_the_block(random_model: Make) -> None:
    model = random_model(SMALL)
    assert len(list(generate(model, [1] * 16, 1))) == 1
    assert list(generate(model, [1] * 16, 0)) == []


# ---- Cost. ----


@pytest.mark.parametrize("name, parameters", [("report", 10_783_104), ("pocket", 1_631_616)])
def test_parameters_are_those_of_the_book(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = GPT(CONFIGS[name])
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(row.parameters for row in inventory(model)) == parameters


def test_cost_of_nano_by_hand() -> None:
    model = GPT(CONFIGS["nano"])
    linear = [m for m in model.blocks.modules() if isinstance(m, nn.Linear)]
    assert block_weights(model) == sum(m.weight.numel() for m in linear) == 393_216
    rows = inventory(model)
    assert [(row.name, row.shape) for row in rows] == [(n, tuple(p.shape)) for n, p in model.named_parameters()]
    assert sum(row.macs_per_token for row in rows) == 12 * 2 * 128**2 + 97 * 128
    assert kv_cache_bytes(model.config) == 131_072 == 4 * model.empty_cache().numel()
    assert kv_cache_bytes(model.config, bytes_per_value=1) == 32_768


@torch.no_grad()
@pytest.mark.parametrize("config", [SMALL, CONFIGS["nano"]], ids=["small", "nano"])
def test_macs_are_those_that_torch_counts_in_a_step(config: GPTConfig) -> None:
    """A step multiplies with every slot of the cache, so its context is the block."""
    model = GPT(config)
    with FlopCounterMode(display=False) as counter:
        model.step(torch.tensor([1]), torch.tensor(0), model.empty_cache())
    macs = sum(row.macs_per_token for row in inventory(model)) + attention_macs(config, config.block)
    assert counter.get_total_flops() == 2 * macs
