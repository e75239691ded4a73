"""The cost model against Table V: without any constant fitted, and with one, each model predicted from another.

What is compared are latencies of designs that this book's search chose, with the latencies that the paper's own tool
estimated and its board showed, of designs that the paper does not give (but for the engines they use).
"""

from __future__ import annotations

import dataclasses
from typing import Mapping as Mapped

from lib.acap.mapping import Mapping, latency, schedule

HIGHEST_SYNC = 10_000  # ns; a call of an accelerator takes 5,000 to 10,000


def with_sync(mapping: Mapping, sync: int) -> Mapping:
    """Return a design each of whose calls takes ``sync`` ns longer."""
    return dataclasses.replace(
        mapping,
        chosen={n: dataclasses.replace(option, time=option.time + sync) for n, option in mapping.chosen.items()},
    )


def fit_sync(mapping: Mapping, target: float) -> int:
    """Return the ns a call that bring a design's latency to ``target`` ms; 0 if it is longer already."""
    low, high = 0, HIGHEST_SYNC
    if latency(schedule(mapping)) >= target:
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if latency(schedule(with_sync(mapping, middle))) <= target else (low, middle)
    return low


def held_out(designs: Mapped[str, Mapping], estimates: Mapped[str, float]) -> dict[tuple[str, str], float]:
    """Predict each model with the constant fitted on each other one: latencies in ms by (fitted on, predicted)."""
    found = {}
    for fitted, design in designs.items():
        sync = fit_sync(design, estimates[fitted])
        for predicted, other in designs.items():
            if predicted != fitted:
                found[fitted, predicted] = latency(schedule(with_sync(other, sync)))
    return found
