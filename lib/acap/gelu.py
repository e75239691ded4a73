"""GELU in integers: a table of 256 entries, and three other ways for comparison.

Between an int8 before it and an 8-bit code after it GELU is a function of 256 values: all of it is a table, as exact as
the codes themselves. The paper's Eq. (13) is i-GELU at scale 1, divided by sqrt(2) and truncated, and stands for
something only where one step of the input is worth 1.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lib.acap.uniform import Uniform

LOWEST, HIGHEST = -0.17, 10.0  # GELU's own minimum, rounded outwards, and the paper's clip
IERF = (-0.2888, -1.769)  # I-BERT, Eq. (7): sign(x) (a (min(|x|, -b) + b)^2 + 1) is nearly erf(x)


@torch.no_grad()
def gelu_table(before: Uniform, after: Uniform) -> np.ndarray:
    """Return GELU from the codes of ``before`` to those of ``after``: int64 (256,), the entry of code q at q + 128.

    ``before`` is symmetric, so that the first entry, of -128, is never read.
    """
    codes = torch.arange(-128, 128)
    return after.codes(F.gelu(codes * before.scale)).numpy()


def gelu_twin(codes: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Look codes (int64, -127 to 127) up."""
    return table[codes + 128]


def integer_gelu(codes: Tensor, scale: float) -> Tensor:
    """I-BERT's i-GELU (Kim et al. 2021, Algorithm 3) on codes of the given scale; what it means, float64."""
    a, b = IERF
    root = scale / math.sqrt(2)
    shift, constant = math.floor(-b / root), math.floor(1 / (a * root**2))
    clipped = codes.abs().clamp_max(shift)
    erf = codes.sign() * ((clipped - shift) ** 2 + constant)  # of scale a root^2, in which the constant is 1
    return codes.double() * (erf + constant).double() * (scale * a * root**2 / 2)


def printed_gelu(codes: Tensor) -> Tensor:
    """Eq. (13) as printed: codes of scale 1 to codes of scale 1, its five entries in the order -2, -1, 0, 1, 2."""
    return torch.where(codes >= 3, codes, (codes == 2).to(codes.dtype))
