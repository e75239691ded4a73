"""Risks that were met, and directions that were tried: what to say of each, and the record that says how it came out.

Sections 7.2 and 7.3 of the report; {text} in a record's name stands for the text.
"""

from __future__ import annotations

from dataclasses import dataclass

from lib.comparison import Records
from lib.results import Result


@dataclass(frozen=True)
class Risk:
    """What can go wrong, what helped, and a figure of it; ``in_report`` is false for those that the report omits."""

    what: str
    helped: str
    figure: str | None = None
    in_report: bool = True


RISKS = (
    Risk("versions that do not fit", "one lock for all of it; what cannot share it (FINN, AMD's tools) runs elsewhere"),
    Risk(
        "wrong numbers without an error",
        "the ladder: faults inserted on purpose, faults caught",
        "export.faults_caught",
    ),
    Risk(
        "the same, by a quantiser that took every operator",
        "score every file on text before it goes on",
        "ptq.ort_all.{text}.ppl_increase_pct",
    ),
    Risk("the host as bottleneck: crossings' share", "count subgraphs before building", "vitis.pocket.share.crossing"),
    Risk(
        "a weak baseline: the host's best route over PyTorch without a KV cache",
        "tune the processor's program as carefully as the FPGA's",
        "host.best_over_torch",
        in_report=False,
    ),
    Risk(
        "a circuit that differs from its model",
        "compare every logit in simulation",
        "silicon.bit_exact.mismatches",
        in_report=False,
    ),
)


@dataclass(frozen=True)
class Direction:
    """A way on, the page that tried it, and the record of what came out."""

    what: str
    page: str
    figure: str


DIRECTIONS = (
    Direction(
        "half of the heads and neurons, cut at once, 4 steps of tuning (full profile 100)",
        "04_pruning",
        "prune.heads_and_neurons.50.{text}.ppl_increase_pct",
    ),
    Direction(
        "the same steps, half of the weights, alike for each lane",
        "04_pruning",
        "prune.tuned.lane_balanced.50.{text}.ppl_increase_pct",
    ),
    Direction(
        "as many, cut gradually over 1,800 steps", "04_pruning", "prune.lane_balanced.50.{text}.ppl_increase_pct"
    ),
    Direction("speed of such matrices on 64 lanes", "04_pruning", "prune.lanes64.lane_balanced.speedup"),
    Direction("weights of four bits, trained", "05_export", "qat.w4a8.{text}.ppl_increase_pct"),
    Direction("weights and activations of four bits", "05_export", "qat.w4a4.{text}.ppl_increase_pct"),
    Direction("ternary weights", "05_export", "qat.ternary.{text}.ppl_increase_pct"),
    Direction("HLS templates: numbers that differ", "09_acap_mapping", "acap.codegen.hls.mismatches"),
    Direction("a core of one's own: logits that differ", "10_open_silicon", "silicon.bit_exact.mismatches"),
)


def figure(records: Records, name: str | None, text: str) -> Result | None:
    """Look a figure up on ``text``, or on another of the book's where only that is recorded."""
    if name is None:
        return None
    names = (name.format(text=t) for t in (text, "tinystories", "stories"))
    return next((records.figures[n] for n in names if n in records.figures), None)
