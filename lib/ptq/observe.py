"""What flows into each Linear while the model reads calibration text, and which range to give it.

Two passes over the same text: the first finds each input's extremes, the second fills a histogram
between them, so that no activation has to be kept.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Callable, Iterator

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from lib.affine import Grid, asymmetric
from lib.deploy import DeployedGPT, linears
from lib.errors import BookError
from lib.ptq import BATCH

BINS = 2048


@dataclass(frozen=True)
class Activity:
    """The input of one Linear over the calibration text.

    low, high: float32 (in_features,), each channel's extremes; counts: int64 (BINS,), a histogram of
    all channels together between min(low) and max(high).
    """

    low: np.ndarray
    high: np.ndarray
    counts: np.ndarray

    @property
    def peaks(self) -> np.ndarray:
        """The largest magnitude on each channel, float32 (in_features,)."""
        return np.maximum(-self.low, self.high)

    @property
    def edges(self) -> np.ndarray:
        return np.linspace(self.low.min(), self.high.max(), BINS + 1)

    @property
    def centres(self) -> np.ndarray:
        return (self.edges[:-1] + self.edges[1:]) / 2


def observe(model: DeployedGPT, windows: np.ndarray) -> dict[str, Activity]:
    """Run calibration windows, int64 (N, T), and return what each Linear saw, by its name."""
    if not len(windows):
        raise BookError("the calibration set is empty; give at least one window of training text")
    extremes: dict[str, tuple[Tensor, Tensor]] = {}
    counts: dict[str, Tensor] = {}

    def widen(name: str, x: Tensor) -> None:
        low, high = x.aminmax(dim=0)
        if name in extremes:
            low, high = torch.minimum(low, extremes[name][0]), torch.maximum(high, extremes[name][1])
        extremes[name] = low, high

    def count(name: str, x: Tensor) -> None:
        low, high = extremes[name]
        histogram = torch.histc(x, BINS, float(low.min()), float(high.max()))
        counts[name] = counts.get(name, 0) + histogram.long()

    for look in (widen, count):
        with watching(model, look), torch.inference_mode():
            for some in torch.from_numpy(windows).split(BATCH):
                model(some)
    return {name: Activity(low.numpy(), high.numpy(), counts[name].numpy()) for name, (low, high) in extremes.items()}


@contextmanager
def watching(model: nn.Module, look: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call ``look(name, x)`` with every Linear's input x (tokens, in_features) while the block lasts."""

    def hook(name: str) -> Callable:
        return lambda _module, inputs: look(name, inputs[0].flatten(0, -2))

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in linears(model).items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# ---- Three ways to choose a range from what was seen. ----


def min_max(activity: Activity) -> Grid:
    """Reach the extremes: nothing is clipped, and one outlier widens every step."""
    return asymmetric(activity.low.min(), activity.high.max())


def percentile(activity: Activity, share: float = 0.9999) -> Grid:
    """Clip the tails so that ``share`` of all values stays within."""
    cumulative = np.cumsum(activity.counts) / activity.counts.sum()
    tail = (1 - share) / 2
    low = activity.edges[np.searchsorted(cumulative, tail)]
    high = activity.edges[min(BINS, np.searchsorted(cumulative, 1 - tail) + 1)]
    return asymmetric(low, high)


def mse(activity: Activity, candidates: int = 100) -> Grid:
    """Clip where the mean squared error of rounding and clipping together is least.

    A search over each end in turn, the other held, on the histogram's bin centres.
    """
    low, high = min(0.0, activity.low.min()), max(0.0, activity.high.max())
    best = {"low": low, "high": high}
    for _ in range(2):
        for end, extreme in (("high", high), ("low", low)):
            tried = [best | {end: extreme * share} for share in np.linspace(1, 1 / candidates, candidates)]
            best = min(tried, key=lambda ends: _error(activity, asymmetric(**ends)))
    return asymmetric(**best)


def _error(activity: Activity, grid: Grid) -> float:
    centres = activity.centres
    return float(activity.counts @ (grid.round(centres) - centres) ** 2)


OBSERVERS: dict[str, Callable[[Activity], Grid]] = {"min_max": min_max, "percentile": percentile, "mse": mse}
