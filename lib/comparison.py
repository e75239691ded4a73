"""The comparison: what the report claims, what the chapters recorded, and a verdict for each claim.

Nothing here is computed anew. Figures come from the chapters' own records: of the run that is being made, where it
has got that far, else of the committed full runs, else of none, and then a claim says what is missing.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Iterable, Mapping, Sequence

from lib.book import BUILD
from lib.errors import BookError
from lib.results import FULL_RUNS, Result, collected, full_run, results_of

SELF = "11_comparison"
REPRODUCED, CORRECTED, CITED = "reproduced", "corrected", "cited"
NEAR = 0.1  # a figure within a tenth of the claim reproduces it


@dataclass(frozen=True)
class Resource:
    """A row of Table 6.2: what the report counts, what the device has, and the record of the vendor's own count."""

    overlay: str
    name: str
    claimed: int
    total: int
    vendor: str


RESOURCES = (  # totals: XCZU7EV by DS891, GX1150 by Intel's Arria 10 device overview
    Resource("B4096 on ZCU104", "LUT", 210_000, 230_400, "device.b4096.lut"),
    Resource("B4096 on ZCU104", "FF", 350_000, 460_800, "device.b4096.ff"),
    Resource("B4096 on ZCU104", "BRAM", 550, 312, "device.b4096.bram"),
    Resource("B4096 on ZCU104", "DSP", 1800, 1728, "device.b4096.dsp"),
    Resource("FPGA AI Suite on GX1150", "ALM", 250_000, 427_200, "device.a10_suite.alm"),
    Resource("FPGA AI Suite on GX1150", "FF", 480_000, 1_708_800, "device.a10_suite.ff"),
    Resource("FPGA AI Suite on GX1150", "M20K", 1600, 2713, "device.a10_suite.m20k"),
    Resource("FPGA AI Suite on GX1150", "DSP", 1100, 1518, "device.a10_suite.dsp"),
)


@dataclass(frozen=True)
class Records:
    """Figures by name, and of each chapter where they are from: "this run", or the full run's date and corpus."""

    figures: Mapping[str, Result]
    origins: Mapping[str, str]

    def matching(self, pattern: str) -> list[tuple[str, Result]]:
        """Return (key, figure) for every name that matches ``pattern`` from end to end; the key is its first group."""
        found = ((re.fullmatch(pattern, name), figure) for name, figure in self.figures.items())
        return [(match[1], figure) for match, figure in found if match]


def gather(corpus: str) -> Records:
    """Collect every chapter's figures, this chapter's own excepted: executed ones first, else the full run.

    Of the full runs the one on ``corpus`` comes first, then any other. BookError if no chapter has left any.
    """
    executed = {path.stem: path for path in (BUILD / "executed" / "chapters").glob("*.ipynb")}
    names = sorted({*executed, *(path.stem for path in FULL_RUNS.glob("*/*.json"))} - {SELF, "start"})
    figures: dict[str, Result] = {}
    origins: dict[str, str] = {}
    for chapter in names:
        if chapter in executed:
            figures |= results_of(executed[chapter])
            origins[chapter] = "this run"
            continue
        place = next(c for c in (corpus, *_corpora()) if full_run(chapter, c))
        run = full_run(chapter, place)
        figures |= {result.name: result for result in collected(run["results"])}
        origins[chapter] = f"full run of {run['date']}, {place}"
    if not figures:
        raise BookError("no chapter has left results to compare; run make book, or restore data/full")
    return Records(figures, origins)


def _corpora() -> list[str]:
    return sorted((path.name for path in FULL_RUNS.iterdir()), reverse=True)  # tinystories before builtin


# ---- Claims. ----


@dataclass(frozen=True)
class Claim:
    """One figure of the report's.

    ours: the name of the record that answers it, the text's name standing as {text}; None where only a board
    can. at_most: the claim is a cost, and less reproduces it too. command: what would measure it on a board.
    """

    table: str
    what: str
    value: float
    unit: str
    ours: str | None = None
    at_most: bool = False
    command: str = ""


@dataclass(frozen=True)
class Judged:
    """A claim, the figure that answers it, if one is recorded, and the verdict."""

    claim: Claim
    ours: Result | None
    verdict: str


_DPU = "hw/vitis_ai/compile.sh out/dpu && hw/vitis_ai/deploy.sh root@BOARD out/dpu"
_A53 = "gpt-aarch64 of lib.cpu.build, copied to the board"
_ARRIA = "hw/openvino/run_openvino.py --device HETERO:FPGA,CPU"
_METER = "the board's power monitors, during the same command"

CLAIMS = (
    Claim("1.1", "parameters", 1_670_000, "parameters", "errata.parameters.right"),
    Claim("2.1", "INT8, perplexity", 4.5, "%", "ptq.best.{text}.ppl_increase_pct", at_most=True),
    Claim("2.1", "50 % pruned, perplexity", 3.5, "%", "prune.unstructured.50.{text}.ppl_increase_pct", at_most=True),
    Claim("2.1", "both, perplexity", 8.8, "%", "prune.unstructured.50.int8.{text}.ppl_increase_pct", at_most=True),
    Claim("2.1", "FP32, size", 6.4, "MB", "errata.size_fp32.right"),
    Claim("2.1", "INT8, size", 1.7, "MB", "errata.size_int8.right"),
    Claim("2.1", "50 % pruned, size", 3.2, "MB", "errata.size_pruned.right"),
    Claim("2.1", "both, size", 0.9, "MB", "errata.size_both.right"),
    Claim("6.1", "FP32, ZCU104 CPU", 215.5, "ms", command=_A53),
    Claim("6.1", "INT8, ZCU104 DPU", 45.2, "ms", command=_DPU),
    Claim("6.1", "pruned and INT8, ZCU104 DPU", 44.8, "ms", command=_DPU),
    Claim("6.1", "INT8, Arria 10", 52.8, "ms", command=_ARRIA),
    Claim("6.1", "pruned and INT8, Arria 10", 51.9, "ms", command=_ARRIA),
    Claim("6.1", "power, ZCU104 CPU", 5, "W", command=_METER),
    Claim("6.1", "power, ZCU104 DPU", 12, "W", command=_METER),
    Claim("6.1", "power, Arria 10", 20, "W", command=_METER),
    Claim("6.2", "B4096, share of LUTs", 77, "%", "errata.zcu104.lut_pct.right"),
    Claim("6.2", "B4096, share of FFs", 64, "%", "errata.zcu104.ff_pct.right"),
    Claim("6.2", "B4096, share of BRAMs", 60, "%", "errata.zcu104.bram_pct.right"),
    Claim("6.2", "B4096, share of DSPs", 71, "%", "errata.zcu104.dsp_pct.right"),
    Claim("6.2", "FPGA AI Suite, share of ALMs", 58, "%", "errata.arria10.alm_pct.right"),
    Claim("6.2", "FPGA AI Suite, share of FFs", 56, "%", "errata.arria10.ff_pct.right"),
    Claim("6.2", "FPGA AI Suite, share of M20Ks", 75, "%", "errata.arria10.m20k_pct.right"),
    Claim("6.2", "FPGA AI Suite, share of DSPs", 73, "%", "errata.arria10.dsp_pct.right"),
)


def judge(claims: Sequence[Claim], records: Records, text: str) -> list[Judged]:
    """Give a verdict on each claim.

    reproduced: our figure is within a tenth of it, or undercuts it where it is a cost; corrected: our figure is
    another; cited: nothing of ours answers it, so it stands as the report's alone. ``text`` is what {text} means.
    """
    judged = []
    for claim in claims:
        ours = records.figures.get(claim.ours.format(text=text)) if claim.ours else None
        judged.append(Judged(claim, ours, _verdict(claim, ours)))
    return judged


def _verdict(claim: Claim, ours: Result | None) -> str:
    if ours is None:
        return CITED
    near = abs(ours.value - claim.value) <= NEAR * abs(claim.value)
    return REPRODUCED if near or (claim.at_most and ours.value <= claim.value) else CORRECTED


# ---- Routes. ----


@dataclass(frozen=True)
class Route:
    """A way to run the model, with its speed and, where it was scored, what it costs in perplexity."""

    name: str
    target: str
    tokens_per_s: Result
    ppl_increase_pct: Result | None

    @property
    def ms_per_token(self) -> float:
        return 1e3 / self.tokens_per_s.value


# What speeds are recorded, as (pattern of names, target, quality by route): later chapters' appear by themselves.
_SPEEDS = (
    (r"host\.([a-z0-9_]+)\.tokens_per_s", "this host, one thread"),
    (r"silicon\.(pocket\.lanes\d+|pocket\.xcup\.lanes\d+)\.tokens_per_s", "open RTL core"),
)
_LATENCIES = (
    (r"vitis\.(pocket)\.modelled_ms_per_token", "ZCU104, DPU"),
    (r"intel\.a10\.(pocket)\.modelled_ms_per_token", "Arria 10, FPGA AI Suite"),
)
_EXACT = ("torch", "torch_kv", "ort_fp32", "openvino_fp32", "openvino_stateful", "c_fp32")
_QUALITY = {
    "ort_int8": "ptq.best.{text}.ppl_increase_pct",
    "openvino_int8": "openvino.int8.{text}.ppl_increase_pct",
    "openvino_stateful_int8": "openvino.int8.{text}.ppl_increase_pct",
    "c_int8": "host.c_int8.{text}.ppl_increase_pct",
    "Arria 10, FPGA AI Suite": "openvino.fp16.{text}.ppl_increase_pct",
    "ZCU104, DPU": "vitis.int8.trained.powers_of_two.{text}.ppl_increase_pct",
    "open RTL core": "silicon.golden.pocket.{text}.ppl_increase_pct",
}


def routes(records: Records, text: str) -> list[Route]:
    """Return every route whose speed is recorded, fastest first; FP32 ones cost nothing by definition."""
    found = []
    for pattern, target in _SPEEDS:
        for name, speed in records.matching(pattern):
            found.append(Route(name, target, speed, _quality(name, target, records, text)))
    for pattern, target in _LATENCIES:
        for name, latency in records.matching(pattern):
            speed = Result(latency.name, 1e3 / latency.value, "tokens/s", latency.provenance)
            found.append(Route(name, target, speed, _quality(name, target, records, text)))
    return sorted(found, key=lambda route: -route.tokens_per_s.value)


def _quality(name: str, target: str, records: Records, text: str) -> Result | None:
    if name in _EXACT:
        return Result(f"{name}.ppl_increase_pct", 0.0, "%", "measured")
    pattern = _QUALITY.get(name) or _QUALITY.get(target)
    return records.figures.get(pattern.format(text=text)) if pattern else None


def pareto(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the (speed, cost) points that no other beats in both, by rising speed; speed is good and cost bad."""
    front: list[tuple[float, float]] = []
    least = math.inf
    for speed, cost in sorted(points, key=lambda point: (-point[0], point[1])):
        if cost < least:
            front.append((speed, cost))
            least = cost
    return front[::-1]
