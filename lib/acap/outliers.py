"""Power-of-two coefficients: one layer-wide scale, doubled r times for the channels that reach further.

The sums along a Vision Transformer's residual stream have channels that are large in every image, always the same ones.
A code then means (q - z) 2^r s, with r in 0..R for each channel (Eq. 9): one shift tames an outlier, and the scale s
stays one number for the layer. Algorithm 1 finds the r's while training: an estimate by three standard deviations, a
search, then they are fixed.

What Eq. (9) and (10) print cannot be meant: X / 2^(r s) for X / (2^r s), z = -min/max for the -min over the scale, and
a search whose error leaves clip and zero point out, which always picks the finest r.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from lib.acap.uniform import SMALLEST_SCALE, RoundToGrid, check_bits, uniform_codes
from lib.errors import BookError

REACH = 3  # R: the widest channel's coefficient is 2^R
SIGMAS = 3.0
KEPT = 0.95  # of the moving range at each training step


class PowerOfTwo(nn.Module):
    """Quantise (..., C) to ``bits`` unsigned, channel c with the step 2^r_c s.

    Buffers: ``low`` and ``high``, the layer's range; ``r`` (C,). While ``searching``, the range follows the training
    batches, and ``loss`` holds the quantisation loss of the last one: the squared rounding and clipping error relative
    to the tensor's mean square, which pulls the activations towards what the codes can hold.
    """

    def __init__(self, channels: int, bits: int = 8) -> None:
        super().__init__()
        self.bits, self.last = check_bits(bits), 2**bits - 1
        self.searching = False
        self.loss: Tensor | float = 0.0
        for name, start in (("low", torch.zeros(1)), ("high", torch.zeros(1)), ("r", torch.zeros(channels))):
            self.register_buffer(name, start)

    @property
    def scale(self) -> Tensor:
        """s of Eq. (10): the layer's range over 2^R (2^b - 1)."""
        return ((self.high - self.low) / (2**REACH * self.last)).clamp_min(SMALLEST_SCALE)

    @property
    def zero(self) -> Tensor:
        """z of Eq. (10), corrected: -min over the widest step, so that channels of r = R reach from min to max."""
        return (-self.low / (2**REACH * self.scale)).round().clamp(0, self.last)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.low.dtype)
        if self.searching and self.training:
            self._follow(x.detach())
        y = RoundToGrid.apply(x, self.scale * self.r.exp2(), self.zero, 0, self.last)
        if self.searching and self.training:
            self.loss = (x - y.detach()).square().mean() / x.detach().square().mean()
        return y

    @torch.no_grad()
    def _follow(self, x: Tensor) -> None:
        self.low.lerp_(x.min().clamp_max(0), 1 - KEPT)
        self.high.lerp_(x.max().clamp_min(0), 1 - KEPT)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Stage 1: take the range of x (..., C), and each channel's r by three standard deviations."""
        if not x.isfinite().all():
            raise BookError("the activations to calibrate on are not finite; train the model again")
        self.low.copy_(x.min().clamp_max(0))
        self.high.copy_(x.max().clamp_min(0))
        self.r.copy_(estimate(x, self.scale, self.zero, self.last))

    @torch.no_grad()
    def search(self, x: Tensor) -> None:
        """Stage 2: give each channel the r of least squared error on x (..., C)."""
        self.r.copy_(search(x, self.scale, self.zero, self.last))

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """Return the integers that stand for x, int64."""
        return ((x / (self.scale * self.r.exp2())).round() + self.zero).clamp(0, self.last).long()


def power_of_two_codes(x: np.ndarray, scale: np.ndarray, r: np.ndarray, zero: np.ndarray, last: int) -> np.ndarray:
    """NumPy twin: the codes of x (..., C), int64; all as the quantiser has them, float32."""
    return uniform_codes(x, scale * np.exp2(r), zero, 0, last)


def channel_reach(x: Tensor) -> Tensor:
    """Return the largest magnitude of each channel of x (..., C)."""
    return x.abs().flatten(0, -2).amax(dim=0)


def outlier_channels(x: Tensor) -> Tensor:
    """Return which channels reach further than the mean of all by more than three standard deviations, bool (C,)."""
    reach = channel_reach(x)
    return reach > reach.mean() + SIGMAS * reach.std(correction=0)


def estimate(x: Tensor, scale: Tensor, zero: Tensor, last: int) -> Tensor:
    """Stage 1: an outlier channel gets the least r that clips none of it, all others the one the widest of them needs.

    x: (..., C); scale, zero and last: the layer's grid at r = 0. Returns float32 (C,), 0 to R.
    """
    low, high = x.flatten(0, -2).aminmax(dim=0)
    ends = torch.stack((high / ((last - zero) * scale), -low / (zero * scale).clamp_min(SMALLEST_SCALE)))
    needed = ends.amax(dim=0).clamp_min(1).log2().ceil().clamp(0, REACH)
    outliers = outlier_channels(x)
    common = needed[~outliers].max() if (~outliers).any() else needed.new_zeros(())
    return torch.where(outliers, needed, common)


def search(x: Tensor, scale: Tensor, zero: Tensor, last: int) -> Tensor:
    """Stage 2: the r in 0..R of least squared error for each channel, clip and zero point included, float32 (C,)."""
    errors = []
    for r in range(REACH + 1):
        step = scale * 2**r
        y = ((x / step).round() + zero).clamp(0, last).sub(zero) * step
        errors.append((x - y).square().flatten(0, -2).sum(dim=0))
    return torch.stack(errors).argmin(dim=0).to(x.dtype)


def search_printed(x: Tensor, scale: Tensor) -> Tensor:
    """Line 10 of Algorithm 1 as printed, r in 1..R: without the clip the finest step always wins."""
    errors = []
    for r in range(1, REACH + 1):
        step = scale * 2**r
        errors.append((x - (x / step).round() * step).square().flatten(0, -2).sum(dim=0))
    return 1 + torch.stack(errors).argmin(dim=0).to(x.dtype)
