"""Where to clip: four ways to choose a quantiser's range from what passed by, and none needs training.

Each takes samples, a list of tensors, one a calibration batch, and returns the range's two ends. They are the first
four columns of the paper's Table VII: MinMax and EMA (Jacob et al. 2018), Percentile (Li et al. 2019), OMSE
(Choukroun et al. 2019).
"""

from __future__ import annotations

from typing import Callable, Sequence

import torch
from torch import Tensor

from lib.acap.uniform import Uniform, check_bits
from lib.errors import BookError

KEPT = 0.9  # of the moving average at each batch
OUTSIDE = 1e-4  # of the values on either side that Percentile clips
SAMPLED = 100_000  # values that OMSE looks at
SHRINKS = 80  # ranges that OMSE tries, from a fifth of the full one upwards

Range = tuple[Tensor, Tensor]


def minmax(samples: Sequence[Tensor]) -> Range:
    """The smallest and the largest value of all."""
    return min(x.min() for x in samples), max(x.max() for x in samples)


def ema(samples: Sequence[Tensor]) -> Range:
    """A moving average over the batches' smallest and largest values."""
    low, high = samples[0].min(), samples[0].max()
    for x in samples[1:]:
        low, high = KEPT * low + (1 - KEPT) * x.min(), KEPT * high + (1 - KEPT) * x.max()
    return low, high


def percentile(samples: Sequence[Tensor]) -> Range:
    """All but the outermost ten-thousandth on either side."""
    x = torch.cat([some.flatten() for some in samples]).sort().values
    outside = int(OUTSIDE * len(x))
    return x[outside], x[-1 - outside]


def omse(samples: Sequence[Tensor], bits: int, signed: bool) -> Range:
    """The range, shrunk from MinMax, that leaves the least squared error after rounding to ``bits``."""
    low, high = minmax(samples)
    x = torch.cat([some.flatten() for some in samples])
    if len(x) > SAMPLED:  # at random: a stride would see some channels only
        x = x[torch.randint(len(x), (SAMPLED,), generator=torch.Generator().manual_seed(0))]
    trial = Uniform(check_bits(bits), signed)
    errors = []
    shrinks = torch.linspace(0.2, 1, SHRINKS)
    for shrink in shrinks:
        trial.set_range(low * shrink, high * shrink)
        errors.append((trial(x) - x).square().mean())
    best = shrinks[int(torch.stack(errors).argmin())]
    return low * best, high * best


def omse_rows(weight: Tensor, bits: int) -> Range:
    """``omse`` for each row of a weight (out, in) by itself: two tensors (out, 1), symmetric."""
    largest = weight.abs().amax(dim=1, keepdim=True)
    trial = Uniform(check_bits(bits), True, len(weight))
    best, least = largest.clone(), torch.full_like(largest, torch.inf)
    for shrink in torch.linspace(0.2, 1, SHRINKS):
        trial.set_range(-shrink * largest, shrink * largest)
        error = (trial(weight) - weight).square().sum(dim=1, keepdim=True)
        best, least = torch.where(error < least, shrink * largest, best), torch.minimum(error, least)
    return -best, best


RANGES: dict[str, Callable[[Sequence[Tensor]], Range]] = {"minmax": minmax, "ema": ema, "percentile": percentile}


@torch.no_grad()
def set_range(quantiser: Uniform, how: str, samples: Sequence[Tensor]) -> None:
    """Calibrate a quantiser of one scale; ``how``: minmax, ema, percentile or omse. BookError if nothing passed by."""
    if not samples or not all(len(x) for x in samples):
        raise BookError("no images passed by to calibrate on; give at least one")
    if how == "omse":
        quantiser.set_range(*omse(samples, quantiser.bits, quantiser.signed))
    elif how in RANGES:
        quantiser.set_range(*RANGES[how](samples))
    else:
        raise BookError(f"the range {how!r} is unknown; choose one of {', '.join((*RANGES, 'omse'))}")
