"""How much noise each way of rounding an attention map leaves, on what really flows through a model.

What counts is not the map but its product with the values, so that is what is compared with the exact one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lib.acap.attention import Base2Softmax, IntegerExpSoftmax, Log2Q, log2_codes_printed, power
from lib.acap.quantise import listen
from lib.acap.ranges import set_range
from lib.acap.uniform import Uniform, sqnr_db
from lib.acap.vit import ViT

SITES = ("attention.q", "attention.k", "attention.v", "attention.map", "feed_forward.activated", "residual2")

Heard = dict[str, list[Tensor]]


@torch.no_grad()
def hear(model: ViT, images: Tensor) -> Heard:
    """Return what passes the sites of every block while a model sees images: lists of batches, by name."""
    return listen(model, [f"blocks.{n}.{site}" for n in range(len(model.blocks)) for site in SITES], images)


def joined(heard: Heard, site: str) -> Tensor:
    """Return all blocks' tensors of a site, one after another."""
    return torch.cat([x for name, some in heard.items() if name.endswith(site) for x in some])


def scores(heard: Heard, fraction: int) -> np.ndarray:
    """Return q.k log2(e) / sqrt(D) in whole steps of 2^-fraction, int64: what the base-2 softmax takes."""
    q, k = joined(heard, "attention.q").double(), joined(heard, "attention.k").double()
    octaves = q @ k.transpose(2, 3) * (np.log2(np.e) / q.shape[-1] ** 0.5)
    return (octaves * 2**fraction).round().long().numpy()


def map_forms(heard: Heard) -> dict[str, Tensor]:
    """Return attention maps (N, H, T, T) rounded in several ways, by name, from a model's own queries and keys."""
    maps, q = joined(heard, "map"), joined(heard, "attention.q")
    raw, width = q @ joined(heard, "attention.k").transpose(2, 3), q.shape[-1]
    forms = {}
    for bits in (8, 4):
        uniform = Uniform(bits, signed=False)
        set_range(uniform, "minmax", [maps])
        forms |= {f"map_uniform_{bits}": uniform(maps).detach(), f"map_log2_{bits}": Log2Q(bits)(maps)}
    forms["map_log2_printed"] = power(log2_codes_printed(maps, 4), 4)
    forms["softmax_base2"] = Base2Softmax(width)(raw)
    forms["softmax_iexp_log2"] = Log2Q(4)(IntegerExpSoftmax(width)(raw))
    return forms


def map_noise(heard: Heard) -> dict[str, tuple[float, float]]:
    """Return, for each of ``map_forms``, the decibels of the product with the values, and the mean sum of a row."""
    values = joined(heard, "attention.v")
    exact = joined(heard, "map") @ values
    return {n: (sqnr_db(exact, form @ values), form.sum(dim=-1).mean().item()) for n, form in map_forms(heard).items()}
