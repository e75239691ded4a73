"""Table I of EQ-ViT as a roofline: what four devices could do with a model's operators, by their peaks.

An operator's intensity is its operations over the bytes it moves when every operand comes from off-chip memory and
every result goes back there, once. A device does no more than its peak, and no more than its bandwidth times the
intensity.
"""

from __future__ import annotations

from dataclasses import dataclass

from lib.acap.mapping import ENDS, between, layers
from lib.acap.vit import ViTConfig


@dataclass(frozen=True)
class Platform:
    """Peaks of one device as Table I cites them: INT8 in 10^12 operations a second, bandwidth in GB/s."""

    name: str
    int8_tops: float
    off_chip: float

    def attainable(self, intensity: float) -> float:
        """Return the INT8 operations, 10^12 a second, that an operator of this intensity (operations a byte) allows."""
        return min(self.int8_tops, self.off_chip * intensity / 1e3)

    @property
    def ridge(self) -> float:
        """The intensity from which on the peak, not the bandwidth, is the limit."""
        return 1e3 * self.int8_tops / self.off_chip


PLATFORMS = (
    Platform("U250", 6.95, 77.0),
    Platform("A10G", 140.0, 600.0),
    Platform("Jetson Orin", 85.0, 204.0),
    Platform("VCK190", 102.0, 25.0),
)


@dataclass(frozen=True)
class Operator:
    """One kind of operator of a model: operations and bytes moved for a batch, INT8."""

    name: str
    operations: int
    bytes: int

    @property
    def intensity(self) -> float:
        return self.operations / self.bytes


# Operations a number, as such counts go; rough, but products have fourteen times as many a byte, or more.
PER_NUMBER = {"norm": 8, "softmax": 5, "gelu": 8, "add": 1}


def operators(config: ViTConfig, batch: int = 6) -> list[Operator]:
    """List a model's operators with the operations and the bytes of a batch; weights are read once a batch."""
    found = []
    for layer in layers(config):
        times = 1 if layer.name in ENDS else config.depth
        found.append(Operator(layer.name, 2 * times * layer.macs(batch), times * layer.moved(batch)))
    for engine in between(config):
        times, kind = batch * config.depth, engine.name.rstrip("12")
        found.append(Operator(engine.name, times * PER_NUMBER[kind] * engine.numbers, times * engine.moved))
    return found
