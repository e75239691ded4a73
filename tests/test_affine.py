"""The integer grid: its promises for every range, and PyTorch's integers to the last one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.affine import Grid, asymmetric, integer_linear, per_channel, power_of_two, symmetric
from lib.errors import BookError
from lib.processor import has_vnni
from lib.ptq.torch_ao import convert_one

ends = st.floats(-1e4, 1e4, width=32)
bits = st.integers(2, 16)


@given(ends, ends, bits)
def test_asymmetric_grid_holds_its_range_and_zero(a: float, b: float, width: int) -> None:
    grid = asymmetric(min(a, b), max(a, b), width)
    inside = np.linspace(min(a, b, 0), max(a, b, 0), 101)
    # Half a step, and another half since the zero point is an integer and so shifts the range.
    assert np.abs(grid.round(inside) - inside).max() <= 1.001 * grid.scale + 1e-6
    assert grid.round(np.zeros(1))[0] == 0
    assert (grid.first, grid.last) == (0, 2**width - 1)


@given(st.floats(2**-3, 1e4, width=32), st.integers(2, 12))
def test_narrow_grid_is_its_own_mirror_and_a_wide_one_is_half_a_step_finer(peak: float, width: int) -> None:
    narrow, wide = symmetric(peak, width), symmetric(peak, width, narrow=False)
    x = np.linspace(-1.5 * peak, 1.5 * peak, 51)
    assert np.array_equal(narrow.quantise(x), -narrow.quantise(-x))
    assert narrow.quantise(np.array([peak]))[0] == narrow.last
    assert wide.first == -wide.last - 1 and wide.scale < narrow.scale


@given(ends, ends)
def test_power_of_two_steps_widen_the_span_and_take_half_a_step_of_one_end_at_most(a: float, b: float) -> None:
    grid = asymmetric(min(a, b), max(a, b))
    rounded = power_of_two(grid)
    assert np.log2(rounded.scale) % 1 == 0
    assert 1 <= rounded.scale / grid.scale < 2
    (low, high), (new_low, new_high) = ((g.scale * (n - g.zero) for n in (g.first, g.last)) for g in (grid, rounded))
    assert max(new_low - low, high - new_high) <= 0.501 * rounded.scale
    assert new_high - new_low >= high - low
    assert rounded.round(np.zeros(1))[0] == 0


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 7), st.integers(0, 2**31))
def test_integer_linear_is_the_exact_integer_product(rows: int, inputs: int, outputs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x_grid, w_grid = Grid(np.float32(2**-4), np.int64(100), 0, 255), Grid(np.float32(2**-6), np.int64(0), -127, 127)
    y_grid = Grid(np.float32(2**-3), np.int64(128), 0, 255)
    x, w = rng.integers(0, 256, (rows, inputs)), rng.integers(-127, 128, (outputs, inputs))
    bias = rng.integers(-500, 500, outputs) * 2.0**-10
    exact = (x_grid.dequantise(x).astype(np.float64) @ w_grid.dequantise(w).T.astype(np.float64) + bias) / 2**-3
    expected = np.clip(np.rint(exact) + 128, 0, 255)  # powers of two: every product here is exact
    assert np.array_equal(integer_linear(x, w, bias, x_grid, w_grid, y_grid), expected)


@given(st.integers(0, 2**31))
def test_pytorch_computes_the_same_integers(seed: int) -> None:
    torch.manual_seed(seed)
    linear, x = torch.nn.Linear(96, 10), torch.randn(500, 96) * 3
    theirs = convert_one(linear, x)
    w, b = linear.weight.detach().numpy(), linear.bias.detach().numpy()
    x_grid, wide = asymmetric(float(x.min()), float(x.max())), per_channel(w, narrow=False)
    assert np.allclose(wide.scale.ravel(), theirs.weight_scale, rtol=1e-6)
    wide = Grid(theirs.weight_scale[:, None], wide.zero, wide.first, wide.last)
    assert np.array_equal(x_grid.quantise(x.numpy()), theirs.input)
    assert np.array_equal(wide.quantise(w), theirs.weight)
    mine = integer_linear(x_grid.quantise(x.numpy()), wide.quantise(w), b, x_grid, wide, theirs.output_grid, False)
    if has_vnni():  # PyTorch's kernel saturates without
        assert np.array_equal(mine, theirs.output)


@pytest.mark.parametrize("width", [1, 17])
def test_widths_no_multiplier_has_are_refused(width: int) -> None:
    with pytest.raises(BookError, match=f"{width} bits are outside 2 to 16"):
        asymmetric(-1, 1, width)


def test_a_range_that_is_not_finite_is_refused() -> None:
    with pytest.raises(BookError, match="not finite"):
        asymmetric(0, float("inf"))
