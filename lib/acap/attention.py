"""Attention maps in powers of two, and a softmax made of shifts, additions and a leading-one detector.

Log2Q (Eq. 8) stores a weight a as the code c = round(-log2 a) and means 2^-c, so that the product with the values is a
sum of shifted values. With base 2 instead of e (Eq. 11) softmax itself gives that code without exponential or
division (Eq. 12): c_i = round(log2(sum_l 2^(X_l - X_i))). Two things are not as the paper prints them. Folding log2(e)
into the scale of the scores makes base 2 the same softmax, not one of another temperature; and the sum's two signs in
Eq. (12) are wrong there. Each part has its NumPy twin, which holds integers only.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from lib.acap.uniform import check_bits, exact_product
from lib.errors import BookError

PRECISION = 15  # fraction bits of each power of two that softmax adds up; float32 holds the sum of 512 of them
ROOT_HALF = math.sqrt(0.5)


def straight_through(exact: Tensor, smooth: Tensor) -> Tensor:
    """Return ``exact`` with the gradient of ``smooth``."""
    return smooth + (exact - smooth).detach()


# ---- Eq. (8): codes of attention weights. ----


def log2_codes(weights: Tensor, bits: int) -> Tensor:
    """Return round(-log2 a), clipped to 0..2^bits - 1, float32, for weights in 0..1; a weight of 0 gets the last code.

    No logarithm: the exponent of a floating-point number, and one comparison of its mantissa with sqrt(1/2).
    """
    last = 2 ** check_bits(bits) - 1
    mantissa, exponent = torch.frexp(weights.float())  # a = mantissa 2^exponent, mantissa in [1/2, 1)
    codes = (mantissa <= ROOT_HALF).float() - exponent
    return torch.where(weights > 0, codes, torch.full_like(codes, last)).clamp(0, last)


def log2_codes_twin(weights: np.ndarray, bits: int) -> np.ndarray:
    """The same in NumPy, int64."""
    last = 2 ** check_bits(bits) - 1
    mantissa, exponent = np.frexp(weights.astype(np.float32))
    codes = (mantissa <= np.float32(ROOT_HALF)).astype(np.int64) - exponent
    return np.clip(np.where(weights > 0, codes, last), 0, last)


def log2_codes_printed(weights: Tensor, bits: int) -> Tensor:
    """Eq. (8) read literally, with a floor: every weight is rounded *up*, by half a step too much on average."""
    return (-weights.log2()).floor().clamp(0, 2 ** check_bits(bits) - 1)


def power(codes: Tensor, bits: int) -> Tensor:
    """Return what codes mean: 2^-c, and 0 for the last one."""
    return torch.exp2(-codes) * (codes < 2**bits - 1)


class Log2Q(nn.Module):
    """Round attention weights to powers of two, the gradient passing straight through."""

    def __init__(self, bits: int = 4) -> None:
        super().__init__()
        self.bits = check_bits(bits)

    def forward(self, weights: Tensor) -> Tensor:
        return straight_through(power(log2_codes(weights, self.bits), self.bits), weights.float())


# ---- Eq. (11) and (12): base-2 softmax from integers to codes. ----


class Base2Softmax(nn.Module):
    """Softmax of integer scores, whose outputs are powers of two: raw products q.k (B, H, T, T) to the same shape.

    The scores q.k log2(e) / sqrt(D) are rounded to ``fraction`` bits after the binary point. Forward is exactly what
    ``base2_codes_twin`` computes, in float32, which holds every integer here; backward is softmax's own gradient.
    """

    def __init__(self, head_width: int, bits: int = 4, fraction: int = 3) -> None:
        super().__init__()
        if fraction not in range(PRECISION):
            raise BookError(f"{fraction} fraction bits are outside 0 to {PRECISION - 1}; choose fewer")
        self.bits, self.fraction = check_bits(bits), fraction
        self.scale = math.log2(math.e) / head_width**0.5

    def forward(self, products: Tensor) -> Tensor:
        return _Base2.apply(products.float() * self.scale, self.bits, self.fraction)


class _Base2(torch.autograd.Function):
    """Logits in octaves to powers of two; backward as if they were softmax's weights."""

    @staticmethod
    def forward(ctx: Any, octaves: Tensor, bits: int, fraction: int) -> Tensor:
        ctx.save_for_backward((octaves * math.log(2)).softmax(dim=-1))
        return power(base2_codes((octaves * 2**fraction).round_(), bits, fraction), bits)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (weights,) = ctx.saved_tensors
        grad = grad * weights
        return grad.sub_(weights * grad.sum(dim=-1, keepdim=True)).mul_(math.log(2)), None, None


def base2_codes(scores: Tensor, bits: int, fraction: int) -> Tensor:
    """Return the codes of softmax over the last axis of whole-numbered scores, each worth 2^-fraction octaves.

    2^-d is approximated by (1 - f/2) 2^-n, where d = n + f, and log2(1 + m) by m (Mitchell 1962): each is exact at
    whole octaves and needs no multiplier. float32 in and out.
    """
    one = 2**fraction
    below = scores.amax(dim=-1, keepdim=True) - scores  # how far below the row's largest
    whole = (below / one).floor_()
    terms = (2 * one - below).add_(whole, alpha=one)  # 2 - f, in units of 2^-fraction
    terms = terms.mul_(torch.exp2(PRECISION - fraction - 1 - whole)).floor_()
    mantissa, exponent = torch.frexp(terms.sum(dim=-1, keepdim=True))  # mantissa in [1/2, 1): the leading one
    log_sum = (exponent - 1 - PRECISION) * one + ((2 * mantissa - 1) * one).floor()
    return below.add_(log_sum + one // 2).div_(one).floor_().clamp_(0, 2**bits - 1)


def base2_codes_twin(scores: np.ndarray, bits: int, fraction: int) -> np.ndarray:
    """The same on integers, int64: subtract, shift, add, find the leading one, shift."""
    below = scores.max(axis=-1, keepdims=True) - scores
    whole, rest = below >> fraction, below & ((1 << fraction) - 1)
    terms = (((2 << fraction) - rest) << (PRECISION - fraction - 1)) >> np.minimum(whole, 63)
    total = terms.sum(axis=-1, keepdims=True)
    leading = np.frexp(total)[1] - 1  # the place of the leading one: a priority encoder
    mantissa = ((total << fraction) >> leading) - (1 << fraction)  # the bits after it
    log_sum = ((leading - PRECISION) << fraction) + mantissa
    half = (1 << fraction) >> 1
    return np.clip((below + log_sum + half) >> fraction, 0, 2**bits - 1)


def exact_codes(scores: np.ndarray, bits: int, fraction: int) -> np.ndarray:
    """Eq. (12) as it must be meant, in double precision: round(log2(sum_l 2^(X_l - X_i))), clipped."""
    octaves = scores / 2.0**fraction
    octaves = octaves - octaves.max(axis=-1, keepdims=True)
    log_sum = np.log2(np.exp2(octaves).sum(axis=-1, keepdims=True))
    return np.clip(np.floor(log_sum - octaves + 0.5), 0, 2**bits - 1).astype(np.int64)


def weigh_twin(codes: np.ndarray, values: np.ndarray, bits: int) -> np.ndarray:
    """Return attention times values, (..., T, T) by (..., T, D), as shifted sums: integers worth 2^-(2^bits - 2)."""
    last = 2**bits - 1
    shifted = np.where(codes < last, 1 << np.maximum(last - 1 - codes, 0), 0)  # a shift in hardware, not a product
    return exact_product(shifted, values)


# ---- FQ-ViT's softmax, for comparison: I-BERT's integer exponential, then a division. ----


IEXP = (0.35815147, 1.353, 0.344)  # I-BERT, Eq. (13): a (p + b)^2 + c is nearly exp(p) on [-ln 2, 0]


def _iexp_constants(scale: float) -> tuple[int, int, int]:
    """Return ln 2, b and c / a in whole steps of the scale, the last in its square."""
    a, b, c = IEXP
    return math.floor(math.log(2) / scale), math.floor(b / scale), math.floor(c / (a * scale**2))


def iexp(scores: Tensor, scale: float) -> Tensor:
    """I-BERT's integer exponential (Kim et al. 2021, Algorithm 2) of scores <= 0, in units of a scale^2."""
    octave, shift, constant = _iexp_constants(scale)
    scores = scores.clamp_min(-30 * octave)
    whole = (-scores / octave).floor()
    rest = scores + whole * octave
    return (((rest + shift) ** 2 + constant) * torch.exp2(-whole)).floor()


def iexp_twin(scores: np.ndarray, scale: float) -> np.ndarray:
    """The same on integers, int64."""
    octave, shift, constant = _iexp_constants(scale)
    scores = np.maximum(scores, -30 * octave)
    whole = -scores // octave
    rest = scores + whole * octave
    return ((rest + shift) ** 2 + constant) >> whole


class IntegerExpSoftmax(nn.Module):
    """Softmax with the exponential of integers, its weights still divided: (B, H, T, T) to the same shape."""

    SCALE = 1 / 64  # of the scores, in nats

    def __init__(self, head_width: int) -> None:
        super().__init__()
        self.scale = head_width**-0.5

    def forward(self, products: Tensor) -> Tensor:
        logits = products.float() * self.scale
        scores = (logits.detach() / self.SCALE).round()
        powers = iexp(scores - scores.amax(dim=-1, keepdim=True), self.SCALE)
        return straight_through(powers / powers.sum(dim=-1, keepdim=True), logits.softmax(dim=-1))
