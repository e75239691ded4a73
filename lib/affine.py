"""Affine quantisation from first principles, in NumPy: a grid of integers laid over the reals.

x is stored as q = clamp(round(x / scale) + zero) and means scale * (q - zero) (Jacob et al. 2018,
Eq. (1)). Everything a quantiser may choose is in one small object, the ``Grid``: its scale, its zero
point, and its first and last integer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lib.errors import BookError


@dataclass(frozen=True)
class Grid:
    """The integers ``first`` to ``last``, ``zero`` of which means 0.0 and each of which is ``scale`` wide.

    scale: float32, zero: int64; both () for one grid, or (channels, 1) for one a row.
    """

    scale: np.ndarray
    zero: np.ndarray
    first: int
    last: int

    def quantise(self, x: np.ndarray) -> np.ndarray:
        """Round x to the grid, half to even, clamped at its ends: integers, int64, shaped as x."""
        # By the reciprocal, and the zero point added before rounding, in one fused operation of single precision,
        # as PyTorch's kernel does: the same integers even where x lies within the last bit of a tie.
        fused = x.astype(np.float64) * (np.float32(1) / self.scale).astype(np.float64) + self.zero
        return np.clip(np.rint(fused.astype(np.float32)).astype(np.int64), self.first, self.last)

    def dequantise(self, q: np.ndarray) -> np.ndarray:
        """Return what the integers mean, float32."""
        return (self.scale * (q - self.zero)).astype(np.float32)

    def round(self, x: np.ndarray) -> np.ndarray:
        """Return x as the grid represents it, float32."""
        return self.dequantise(self.quantise(x))


SMALLEST_SCALE = np.float32(np.finfo(np.float32).eps)  # a channel of zeros still gets a grid


def asymmetric(low: np.ndarray | float, high: np.ndarray | float, bits: int = 8) -> Grid:
    """Lay 2^bits unsigned integers over low..high, widened to hold 0 so that zero is exact."""
    low, high = _ends(low, high)
    last = _levels(bits) - 1
    scale = np.maximum((high - low) / np.float32(last), SMALLEST_SCALE)
    zero = np.clip(-np.rint(low / scale), 0, last).astype(np.int64)
    return Grid(scale, zero, 0, last)


def symmetric(magnitude: np.ndarray | float, bits: int = 8, narrow: bool = True) -> Grid:
    """Lay the signed integers over +-magnitude, zero point 0.

    A narrow grid goes from -(2^(bits-1) - 1) to its opposite, so every weight can change its sign. A
    wide one also has -2^(bits-1), reaches half a step less far above, and so has finer steps (by 0.4 %
    at 8 bits): PyTorch's choice, which clips +magnitude.
    """
    _, high = _ends(0.0, magnitude)
    last = _levels(bits) // 2 - 1
    scale = high / np.float32(last if narrow else last + 0.5)
    return Grid(np.maximum(scale, SMALLEST_SCALE), np.zeros(high.shape, np.int64), -last if narrow else -last - 1, last)


def power_of_two(grid: Grid) -> Grid:
    """Widen a grid's steps to the next power of two, so that rescaling is a shift.

    Its span only grows, but the zero point is rounded to the wider steps: one end may lose up to half of one.
    """
    scale = np.exp2(np.ceil(np.log2(grid.scale))).astype(np.float32)
    zero = np.rint(grid.zero * (grid.scale / scale)).astype(np.int64)
    return Grid(scale, zero, grid.first, grid.last)


def _ends(low: np.ndarray | float, high: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    low = np.minimum(np.asarray(low, np.float32), np.float32(0))
    high = np.maximum(np.asarray(high, np.float32), np.float32(0))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise BookError("the range to quantise is not finite; calibrate on finite activations")
    return low, high


def _levels(bits: int) -> int:
    if not 2 <= bits <= 16:
        raise BookError(f"{bits} bits are outside 2 to 16; choose a width that an integer multiplier has")
    return 2**bits


def per_channel(weight: np.ndarray, bits: int = 8, narrow: bool = True) -> Grid:
    """Return the symmetric grids of a weight (out, in), one a row, that reach each row's largest magnitude."""
    return symmetric(np.abs(weight).max(axis=1, keepdims=True), bits, narrow)


def integer_linear(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    x_grid: Grid,
    weight_grid: Grid,
    y_grid: Grid,
    integer_bias: bool = True,
) -> np.ndarray:
    """Compute a Linear as integer hardware does: integers in (N, in), integers out (N, out).

    y = (q_x - z_x) q_w^T is exact in int32; one multiplication per output by s_x s_w / s_y brings it
    to the output's grid (Jacob et al. 2018, Eq. (4) and (5)). x and weight are integers on their
    grids. bias is float (out,); it joins the accumulator as round(bias / (s_x s_w)), an int32, or
    unrounded, as fbgemm adds it. Single precision holds every sum below 2^24, which products of 8 bits
    stay under up to 512 inputs.
    """
    scale = (x_grid.scale * weight_grid.scale).reshape(-1)  # (out,), or (1,) for a weight of one grid
    start = bias / scale
    accumulator = (x - x_grid.zero) @ weight.T  # int64 here; int32 holds it
    sums = accumulator.astype(np.float32) + (np.rint(start) if integer_bias else start)
    steps = np.rint(sums * (scale / y_grid.scale)).astype(np.int64)
    return np.clip(steps + y_grid.zero, y_grid.first, y_grid.last)
