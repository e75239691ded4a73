"""Fewer bits: what is packed comes back, what is saved computes the same, and GPTQ earns its keep."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib import lowbit
from lib.checkpoint import load_shipped, save_model
from lib.corpus import load_builtin
from lib.deploy import linears
from lib.errors import BookError
from lib.evaluate import divergence, torch_logits
from lib.gpt import GPT, GPTConfig
from lib.lowbit import BITS
from lib.ptq import calibration_windows

SMALL = GPTConfig(n_layer=1, n_head=2, n_embd=32, block=16)


@pytest.fixture(scope="module")
def model(random_model: Callable[..., GPT]) -> GPT:
    return random_model(SMALL)


def windows(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, SMALL.vocab, (count, SMALL.block))


@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 9), st.randoms(use_true_random=False))
def test_packed_codes_come_back(bits: int, rows: int, columns: int, luck) -> None:
    limit = 2 ** (bits - 1) - 1
    levels = (-1, 1) if bits == 1 else range(-limit, limit + 1)
    codes = torch.tensor([[luck.choice(levels) for _ in range(columns)] for _ in range(rows)], dtype=torch.int8)
    packed = lowbit.pack(codes, bits)
    assert packed.numel() == -(-rows * columns * bits // 8)
    assert torch.equal(lowbit.unpack(packed, bits, codes.shape), codes)


@pytest.mark.parametrize("bits", BITS)
def test_a_saved_model_is_the_same_model(model: GPT, tmp_path: Path, bits: str) -> None:
    quantised = lowbit.quantise(model, BITS[bits], windows(4))
    lowbit.save_quantised(tmp_path / "q.safetensors", quantised, bits)
    back, key = lowbit.load_quantised(tmp_path / "q.safetensors")
    tokens = torch.from_numpy(windows(3))
    assert key == bits and torch.equal(back(tokens), quantised(tokens))
    levels = lowbit.codes(back.blocks[0].feed_forward.up).unique().tolist()
    limit = max(1, 2 ** (BITS[bits].weight - 1) - 1)
    assert levels[0] >= -limit and levels[-1] <= limit and (0 in levels) == (BITS[bits].weight > 1)
    error = (quantised(tokens) - model(tokens)).abs().mean()
    assert 0 < error < (0.2 if bits == "w8a8" else 10)


def test_gptq_moves_the_outputs_less_than_rounding_does() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 32, generator=generator, dtype=torch.float64)
    inputs = torch.randn(400, 6, generator=generator, dtype=torch.float64) @ torch.randn(
        6, 32, generator=generator, dtype=torch.float64
    ) + 0.1 * torch.randn(400, 32, generator=generator, dtype=torch.float64)  # channels that go together
    scale = weight.abs().amax(dim=1, keepdim=True) / 7
    nearest = (weight / scale).round() * scale
    rounded = lowbit.gptq_round(weight, inputs.T @ inputs, scale, 4)
    levels = rounded / scale
    assert torch.allclose(levels, levels.round()) and levels.abs().max() <= 7 + 1e-9
    error, before = (((w - weight) @ inputs.T).square().mean().item() for w in (rounded, nearest))
    assert error < 0.3 * before


def test_gptq_with_inputs_that_never_meet_is_rounding_to_nearest() -> None:
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scale = weight.abs().amax(dim=1, keepdim=True) / 7
    gram = torch.diag(torch.arange(1.0, 17, dtype=torch.float64))
    assert torch.equal(lowbit.gptq_round(weight, gram, scale, 4), (weight / scale).round() * scale)


def test_gptq_of_a_model_is_nearer_than_rounding() -> None:
    nano, text = load_shipped("nano")[0], load_builtin()
    calibration = calibration_windows(text, 32, nano.config.block)
    held_out, reference = text.val[: 16 * 64].reshape(16, 64).astype(np.int64), torch_logits(nano)
    rounded, better = (
        divergence(reference(held_out), torch_logits(make(nano, BITS["w4a8"], calibration))(held_out))
        for make in (lowbit.quantise, lowbit.gptq)
    )
    assert better < 0.8 * rounded  # 0.49


@pytest.mark.parametrize("bits", BITS)
def test_every_layer_has_its_bits(model: GPT, bits: str) -> None:
    for name, layer in linears(lowbit.quantise(model, BITS[bits], windows(4))).items():
        width = BITS[bits].head if name == "unembed" else BITS[bits].weight
        assert layer.input_quant.bit_width() == BITS[bits].activation
        assert (lowbit.codes(layer).abs().max() > 1) == (width > 2)


def test_bad_input_ends_in_a_sentence(model: GPT, tmp_path: Path) -> None:
    with pytest.raises(BookError, match="calibration set is empty"):
        lowbit.quantise(model, BITS["w8a8"], np.zeros((0, 16), dtype=np.int64))
    with pytest.raises(BookError, match="outside the model's 0 to 96"):
        lowbit.quantise(model, BITS["w8a8"], np.full((1, 16), 97))
    save_model(tmp_path / "float.safetensors", model)
    with pytest.raises(BookError, match="no quantised model"):
        lowbit.load_quantised(tmp_path / "float.safetensors")
    with pytest.raises(BookError, match="ships no pocket_qat_w3a3"):
        lowbit.load_shipped_quantised("w3a3")
