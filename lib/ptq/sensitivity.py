"""Which layer pays for INT8: quantise one Linear, leave all others in floating point, and measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping

import numpy as np
from tqdm import tqdm

from lib.affine import Grid
from lib.deploy import DeployedGPT
from lib.evaluate import divergence, torch_logits
from lib.ptq.fake import fake_quantise


@dataclass(frozen=True)
class Sensitivity:
    """What one Linear costs alone, in bits a character of divergence from FP32."""

    weight: float
    input: float


def sensitivities(model: DeployedGPT, grids: Mapping[str, Grid], tokens: np.ndarray) -> dict[str, Sensitivity]:
    """Quantise each Linear's weight alone, then its input alone, and compare logits on tokens (B, T)."""
    reference = torch_logits(model)(tokens)

    def cost(name: str, grids: Mapping[str, Grid], weight_bits: int | None) -> float:
        return divergence(reference, torch_logits(fake_quantise(model, grids, weight_bits, [name]))(tokens))

    return {
        name: Sensitivity(cost(name, {}, 8), cost(name, {name: grid}, None))
        for name, grid in tqdm(grids.items(), desc="layers", leave=False)
    }
