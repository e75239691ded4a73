"""Uniform quantisers: integers laid evenly over a range, with scales that are given or learned (LSQ).

x is stored as the code q = clip(round(x / s) + z, first, last) and means s (q - z). ``Uniform`` is that in PyTorch,
with the gradient of LSQ (Esser et al. 2020): straight through where x is inside the range, none outside, and for the
scale what the rounding did. ``uniform_codes`` is its NumPy twin: the same integers from the same x.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from lib.errors import BookError

SMALLEST_SCALE = 1e-8  # a tensor of zeros still gets a grid
WIDTHS = range(2, 17)


def check_bits(bits: int) -> int:
    """Return a bit width that integers can have here, 2 to 16; BookError otherwise."""
    if bits not in WIDTHS:
        raise BookError(f"{bits} bits cannot be quantised to; choose a whole number from {WIDTHS[0]} to {WIDTHS[-1]}")
    return int(bits)


class RoundToGrid(torch.autograd.Function):
    """Round x to its grid; the backward pass is LSQ's, the scale's gradient divided by sqrt(elements x last)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, first: int, last: int) -> Tensor:
        codes = torch.div(x, scale).round_().add_(zero)
        clipped = codes.clamp(first, last)
        inside = codes.eq_(clipped).bool()
        y = clipped.sub_(zero).mul_(scale)
        ctx.save_for_backward(x, y, inside, scale)
        ctx.last = last
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, inside, scale = ctx.saved_tensors
        grad_x = grad * inside
        if not ctx.needs_input_grad[1]:
            return grad_x, None, None, None, None
        rows = (scale.numel(), -1)  # d y / d s is code - z outside, and the rounding error in steps inside
        moved = _dot(grad.reshape(rows), y.reshape(rows)) - _dot(grad_x.reshape(rows), x.reshape(rows))
        grad_scale = moved.view(scale.shape) / scale / (x.numel() / scale.numel() * ctx.last) ** 0.5
        return grad_x, grad_scale, None, None, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the scalar product of each row of a with that row of b: (R, N), (R, N) to (R,)."""
    return torch.linalg.vecdot(a, b) if len(a) > 1 else torch.dot(a[0], b[0])[None]


class Uniform(nn.Module):
    """A uniform quantiser of ``bits``; by default one scale, or one a row of a weight (``rows``).

    signed: codes -(2^(b-1) - 1) to 2^(b-1) - 1, zero point 0; else 0 to 2^b - 1 with a zero point. The scale is kept as
    its logarithm, so that a step of training changes it by a proportion. Buffers and parameters are float32.
    """

    def __init__(self, bits: int = 8, signed: bool = True, rows: int | None = None, learned: bool = False) -> None:
        super().__init__()
        self.bits, self.signed = check_bits(bits), signed
        self.first, self.last = (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        shape = (1,) if rows is None else (rows, 1)
        self.log_scale = nn.Parameter(torch.zeros(shape), requires_grad=learned)
        self.register_buffer("zero", torch.zeros(shape))

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp2()

    @torch.no_grad()
    def set_range(self, low: Tensor, high: Tensor) -> None:
        """Lay the codes over low..high, each () or (rows, 1), widened to hold 0, which is exact."""
        low, high = torch.as_tensor(low).clamp_max(0).float(), torch.as_tensor(high).clamp_min(0).float()
        if not (low.isfinite().all() and high.isfinite().all()):
            raise BookError("the range to quantise is not finite; calibrate on a model whose activations are finite")
        reach = torch.maximum(-low, high) / self.last if self.signed else (high - low) / self.last
        self.log_scale.copy_(reach.clamp_min(SMALLEST_SCALE).log2().expand_as(self.log_scale))
        if not self.signed:
            self.zero.copy_((-low / self.scale).round().clamp(self.first, self.last))

    def forward(self, x: Tensor) -> Tensor:
        return RoundToGrid.apply(x.to(self.zero.dtype), self.scale, self.zero, self.first, self.last)

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """Return the integers that stand for x, int64."""
        return ((x / self.scale).round() + self.zero).clamp(self.first, self.last).long()


def uniform_codes(x: np.ndarray, scale: np.ndarray, zero: np.ndarray, first: int, last: int) -> np.ndarray:
    """Return the codes of x, int64; x, scale and zero as the quantiser has them, float32."""
    return np.clip(np.rint(x / scale) + zero, first, last).astype(np.int64)


class QuantLinear(nn.Module):
    """A Linear with its weight on a symmetric grid: one scale for each output channel (``rows``), or one for all."""

    def __init__(self, layer: nn.Linear, bits: int, rows: bool, learned: bool) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.quantiser = Uniform(bits, True, layer.out_features if rows else None, learned)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.quantiser(self.weight), self.bias)

    def codes(self) -> Tensor:
        """Return the weight's integers, int64 (out, in)."""
        return self.quantiser.codes(self.weight)


def sqnr_db(x: Tensor, rounded: Tensor) -> float:
    """Return the signal-to-quantisation-noise ratio in decibels: 10 log10 of x's power over the error's."""
    x, error = x.double(), rounded.double() - x.double()
    return 10 * (x.square().sum() / error.square().sum()).log10().item()


def exact_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the matrix product of whole numbers, int64: by way of double precision, fast and exact below 2^53."""
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)
