"""The comparison: what the source documents claim, what the chapters recorded, and a verdict for each claim.

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
from lib.files import read_json
from lib.published import MODELS, REPORT_POWER, TABLE_4
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

    Executed chapters count if make book ran them on ``corpus``; of the full runs the one on ``corpus`` comes first,
    then any other. BookError if no chapter has left any.
    """
    settings = BUILD / "settings.json"
    here = settings.exists() and read_json(settings, "make book's settings")["corpus"] == corpus
    executed = {path.stem: path for path in (BUILD / "executed" / "chapters").glob("*.ipynb") if here}
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
    """One figure of a source document.

    ours: the name of the record that answers it, the text's name standing as {text}; None where only a board
    can. at_most: the claim is a cost, and less reproduces it too. beside: records worth seeing next to it that answer
    something else (another machine, a model of the target). command: what would measure it.
    """

    table: str
    what: str
    value: float
    unit: str
    ours: str | None = None
    at_most: bool = False
    beside: tuple[str, ...] = ()
    command: str = ""


@dataclass(frozen=True)
class Judged:
    """A claim, the figure that answers it, if one is recorded, and the verdict."""

    claim: Claim
    ours: Result | None
    beside: tuple[Result, ...]
    verdict: str


_DPU = "hw/vitis_ai/compile.sh out/dpu && hw/vitis_ai/deploy.sh root@BOARD out/dpu"
_A53 = "gpt-aarch64 of lib.cpu.build, copied to the board"
_ARRIA = "hw/openvino/run_openvino.py --model out/ir/MODEL.fp16.xml --device HETERO:FPGA,CPU"
_METER = "the board's power monitors, during the same command"
_WIKITEXT = "WIKITEXT_DIR=FOLDER make book"
_VERSAL = (
    "python -m lib.acap design --model {model} --latency-ms 1 --min-accuracy 70 --out out/design, "
    "then Vitis and a VCK190"
)
_CONVOLUTIONS = "engines for its convolutions, of which lib.acap writes no sources, then Vitis and a VCK190"
_VEK280 = "a mapping of its own, which lib.acap models and writes no sources of, and a VEK280"
_XEON = "chapter 8's race on an m6i.large"
_ON_DPU = ("vitis.report.as_exported.modelled_ms_per_token", "vitis.report.modelled_ms_per_token")
_ON_ARRIA = ("intel.a10.report.modelled_ms_per_token", "intel.a10.report_window.modelled_ms_per_token")
_ON_A53 = ("vitis.report.cpu_only.modelled_ms_per_token",)


def _table_4() -> tuple[Claim, ...]:
    """Claim by claim what this book has something to put beside: EQ-ViT's own columns, and the processor's."""
    columns = {platform.name: platform for platform in TABLE_4}
    found = []
    for index, model in enumerate(MODELS):
        ours = columns["VCK190, EQ-ViT"]
        board = _CONVOLUTIONS if model == "lv_vit_t" else _VERSAL.format(model=model.replace("_", "-"))
        next_board = "acap.boards.vek280.a8w4.latency_ms" if model == "deit_t" else None
        found += [
            Claim("IV", f"{model}, Xeon 8375C", columns["Xeon 8375C, PyTorch"].latency_ms[index], "ms",
                  beside=(f"acap.cpu.{model}.torch.latency_ms",), command=_XEON),
            Claim("IV", f"{model}, VCK190", ours.latency_ms[index], "ms",
                  f"acap.table5.{model}.latency_ms", command=board),
            Claim("IV", f"{model}, VEK280, estimated", columns["VEK280, EQ-ViT, estimated"].latency_ms[index], "ms",
                  next_board, command=_VEK280),
            Claim("IV", f"{model}, VCK190, efficiency", ours.images_per_s_w[index], "images/s/W", command=_METER),
        ]  # fmt: skip
    return tuple(found)


_DRAWN = {"ZCU104 CPU": REPORT_POWER[0], "ZCU104 DPU": REPORT_POWER[1], "Arria 10": REPORT_POWER[2]}
CLAIMS = (
    Claim("1.1", "parameters", 1_670_000, "parameters", "errata.parameters.right"),
    Claim("2.1", "FP32, size", 6.4, "MB", "errata.size_fp32.right"),
    Claim("2.1", "FP32, perplexity on WikiText-2", 125.4, "", "baseline.pocket.wikitext2.char_ppl", command=_WIKITEXT),
    Claim("2.1", "INT8, size", 1.7, "MB", "errata.size_int8.right"),
    Claim("2.1", "INT8, perplexity", 4.5, "%", "ptq.best.{text}.ppl_increase_pct", at_most=True),
    Claim("2.1", "50 % pruned, size", 3.2, "MB", "errata.size_pruned.right"),
    Claim("2.1", "50 % pruned, perplexity", 3.5, "%", "prune.unstructured.50.{text}.ppl_increase_pct", at_most=True),
    Claim("2.1", "both, size", 0.9, "MB", "errata.size_both.right"),
    Claim("2.1", "both, perplexity", 8.8, "%", "prune.unstructured.50.int8.{text}.ppl_increase_pct", at_most=True),
    Claim("6.1", "FP32, ZCU104 CPU", _DRAWN["ZCU104 CPU"].ms_per_token, "ms", beside=_ON_A53, command=_A53),
    Claim("6.1", "INT8, ZCU104 DPU", _DRAWN["ZCU104 DPU"].ms_per_token, "ms", beside=_ON_DPU, command=_DPU),
    Claim("6.1", "pruned and INT8, ZCU104 DPU", 44.8, "ms", beside=_ON_DPU, command=_DPU),
    Claim("6.1", "INT8, Arria 10", _DRAWN["Arria 10"].ms_per_token, "ms", beside=_ON_ARRIA, command=_ARRIA),
    Claim("6.1", "pruned and INT8, Arria 10", 51.9, "ms", beside=_ON_ARRIA, command=_ARRIA),
    *(Claim("6.1", f"power, {name}", power.watts, "W", command=_METER) for name, power in _DRAWN.items()),
    Claim("6.2", "B4096, share of LUTs", 77, "%", "errata.zcu104.lut_pct.right"),
    Claim("6.2", "B4096, share of FFs", 64, "%", "errata.zcu104.ff_pct.right"),
    Claim("6.2", "B4096, share of BRAMs", 60, "%", "errata.zcu104.bram_pct.right"),
    Claim("6.2", "B4096, share of DSPs", 71, "%", "errata.zcu104.dsp_pct.right"),
    Claim("6.2", "FPGA AI Suite, share of ALMs", 58, "%", "errata.arria10.alm_pct.right"),
    Claim("6.2", "FPGA AI Suite, share of FFs", 56, "%", "errata.arria10.ff_pct.right"),
    Claim("6.2", "FPGA AI Suite, share of M20Ks", 75, "%", "errata.arria10.m20k_pct.right"),
    Claim("6.2", "FPGA AI Suite, share of DSPs", 73, "%", "errata.arria10.dsp_pct.right"),
    *_table_4(),
)


def judge(claims: Sequence[Claim], records: Records, text: str) -> list[Judged]:
    """Give a verdict on each claim.

    reproduced: our figure is within a tenth of it, or undercuts it where it is a cost; corrected: our figure is
    another; cited: nothing of ours answers it, so it stands as the report's alone. ``text`` is what {text} means.
    """
    judged = []
    for claim in claims:
        ours = records.figures.get(claim.ours.format(text=text)) if claim.ours else None
        beside = tuple(records.figures[name] for name in claim.beside if name in records.figures)
        judged.append(Judged(claim, ours, beside, _verdict(claim, ours)))
    return judged


def _verdict(claim: Claim, ours: Result | None) -> str:
    if ours is None:
        return CITED
    near = abs(ours.value - claim.value) <= NEAR * abs(claim.value)
    return REPRODUCED if near or (claim.at_most and ours.value <= claim.value) else CORRECTED


# ---- The front. ----


def pareto(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the (speed, cost) points that no other beats in both, by rising speed; speed is good and cost bad."""
    front: list[tuple[float, float]] = []
    least = math.inf
    for speed, cost in sorted(points, key=lambda point: (-point[0], point[1])):
        if cost < least:
            front.append((speed, cost))
            least = cost
    return front[::-1]


# ---- The ladder. ----


@dataclass(frozen=True)
class Step:
    """A form of the model on the verification ladder.

    name: of its records ladder.<name>.*; chapter: that climbed it; source: the form it was made from, or its twin,
    which is the sharper comparison; proof: a record that says how far it is from that, zero or near it for a twin.
    """

    name: str
    what: str
    chapter: str
    source: str
    proof: str | None = None


LADDER = (
    Step("onnx_fp32", "ONNX, a window, FP32", "5", "PyTorch", "ladder.onnx_fp32.max_abs_err"),
    Step("kv_step", "ONNX, a step with its cache, FP32", "5", "PyTorch", "ladder.kv_step.max_abs_err"),
    Step("torch_int8", "QDQ of torch.ao, INT8", "5", "PyTorch"),
    Step("qdq", "QDQ of the best recipe, INT8", "5", "PyTorch"),
    Step("brevitas", "Brevitas, four-bit weights", "5", "PyTorch"),
    Step("qonnx", "QONNX of it", "5", "brevitas", "ladder.qonnx.source_mean_abs_err"),
    Step("qcdq", "QCDQ of it, in ONNX Runtime", "5", "qonnx", "ladder.qcdq.source_mean_abs_err"),
    Step("dpu_int8", "DPU's form, powers of two, ReLU", "6", "PyTorch"),
    Step("vart_host", "the board's program, in emulation", "6", "dpu_int8", "ladder.vart_host.source_max_abs_err"),
    Step("openvino_fp32", "OpenVINO, FP32", "7", "kv_step", "ladder.openvino_fp32.source_mean_abs_err"),
    Step("openvino_stateful", "OpenVINO, cache inside", "7", "openvino_fp32",
         "ladder.openvino_stateful.source_mean_abs_err"),
    Step("openvino_int8", "OpenVINO, INT8", "7", "ONNX Runtime, INT8", "ladder.openvino_int8.source_mean_abs_err"),
    Step("openvino_stateful_int8", "OpenVINO, INT8, cache inside", "7", "openvino_int8",
         "ladder.openvino_stateful_int8.source_mean_abs_err"),
    Step("integer", "the integer model, in NumPy", "10", "PyTorch"),
    Step("rtl", "the core, clock by clock", "10", "integer", "silicon.bit_exact.mismatches"),
)  # fmt: skip
FIGURES = ("max_abs_err", "agreement", "ppl_increase_pct")


@dataclass(frozen=True)
class Climbed:
    """A step with what is recorded of it: by FIGURES from the golden logits, and from its source."""

    step: Step
    figures: Mapping[str, Result]
    proof: Result | None


def ladder(records: Records) -> list[Climbed]:
    """Return every step that has been climbed, from PyTorch's nearest relative down to the circuit."""
    found = []
    for step in LADDER:
        named = {figure: records.figures.get(f"ladder.{step.name}.{figure}") for figure in FIGURES}
        figures = {figure: result for figure, result in named.items() if result}
        if figures:
            found.append(Climbed(step, figures, records.figures.get(step.proof) if step.proof else None))
    return found
