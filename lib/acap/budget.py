"""From what a user asks of a model and a board to a design: Fig. 4 of EQ-ViT as one function.

Of the widths that the board's engines multiply, the cheapest that keeps the accuracy is taken; of the batches whose
latency stays within the budget, the one of most images a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

from lib.acap import paper, study
from lib.acap.boards import INT8, Board, Widths
from lib.acap.mapping import MODELS, Kernel, Mapping, latency, schedule, solve
from lib.acap.vit import CONFIGS, ViTConfig
from lib.errors import BookError

BATCHES = range(1, 13)  # of a front
CHOICES = range(1, 17)  # among which ``choose`` looks
FP32, W4 = Widths(32, 32), Widths(8, 4)


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy of a model in per cent by widths, and where it comes from."""

    by_widths: dict[Widths, float]
    source: str


def model(name: str) -> tuple[str, ViTConfig]:
    """Return a model's name and shape, written with - or _; BookError that lists those with known accuracy."""
    known = (*paper.IMAGENET, "pico_cifar10")
    if (found := name.replace("-", "_")) not in known:
        raise BookError(f"the model {name!r} is unknown; choose one of {', '.join(known)}")
    return found, MODELS.get(found, CONFIGS[found])


def accuracy(name: str) -> Accuracy:
    """Return a model's accuracy: measured for the one trained here, else the paper's, on ImageNet.

    For weights of four bits the paper claims no loss against eight. Sixteen bits are taken to do what FP32 does.
    """
    if name == "pico_cifar10":
        found = study.load_study("cifar10")
        fp32, w8, w4 = (found.accuracy(method) for method in ("fp32", "eqvit", "eqvit_w4a8"))
        source = "CIFAR-10, measured"
    else:
        fp32, w8 = paper.IMAGENET[name]
        w4, source = w8, "ImageNet, cited"
    return Accuracy({W4: w4, INT8: w8, Widths(16, 16): fp32, FP32: fp32}, source)


def cheapest_widths(name: str, board: Board, least: float) -> Widths:
    """Return the narrowest widths that the board multiplies and that reach ``least`` per cent; BookError if none do."""
    reached = accuracy(name)
    for widths in sorted(set(board.macs) & set(reached.by_widths)):
        if reached.by_widths[widths] >= least:
            return widths
    best = max(reached.by_widths.values())
    raise BookError(f"{name} reaches {best:.2f} % at best ({reached.source}); ask for no more with --min-accuracy")


@dataclass(frozen=True)
class Design:
    """A mapping and the latency of its batch."""

    mapping: Mapping
    latency_ms: float

    @property
    def widths(self) -> Widths:
        return self.mapping.kernel.widths

    @property
    def images_per_s(self) -> float:
        return 1e3 * self.mapping.batch / self.latency_ms


def front(
    config: ViTConfig,
    board: Board,
    kernel: Kernel = Kernel(),
    seconds: float = 60.0,
    batches: Sequence[int] = BATCHES,
) -> list[Design]:
    """Solve every batch: the designs among which latency is traded for images a second."""
    found = [solve(config, board, batch, kernel, seconds=seconds) for batch in batches]
    return [Design(mapping, latency(schedule(mapping))) for mapping in found]


def choose(
    name: str, board: Board, budget_ms: float, least: float, generated: bool = False, seconds: float = 60.0
) -> Design:
    """Return the design of most images a second within the budget, of the batches in CHOICES.

    BookError names the nearest if no design keeps the budget.
    ``generated`` is ``Kernel``'s: whether the design is to be written by ``lib.acap.codegen``.
    """
    if not budget_ms > 0:
        raise BookError(f"a latency of {budget_ms:g} ms cannot be met; give a positive one with --latency-ms")
    widths = cheapest_widths(name, board, least)
    designs = front(model(name)[1], board, Kernel(widths, generated), seconds, CHOICES)
    within = [design for design in designs if design.latency_ms <= budget_ms]
    if not within:
        nearest = min(designs, key=lambda design: design.latency_ms)
        raise BookError(
            f"no design of {name} on {board.name} is done in {budget_ms:g} ms; the nearest takes "
            f"{nearest.latency_ms:.3f} ms for {nearest.mapping.batch} image(s) in {widths}"
        )
    return max(within, key=lambda design: design.images_per_s)
