"""Every way of the book to run a model, one entry each, and the names of the records that say how it does.

An entry holds names and no figures; ``rows`` looks them up in what ``lib.comparison.gather`` found. An entry whose
speed nobody has recorded has no row, so the routes of later editions appear by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator

from lib.comparison import Records
from lib.results import Result

HOST = "this host, one thread"
HOST_TWO = "this host, two threads"
DPU = "ZCU104, DPU"
A53 = "ZCU104, one A53 core"
SUITE = "Arria 10, FPGA AI Suite"
CORE = "open core, 300 MHz assumed"
GPU = "GPU"
BOARD = "open core, ECP5-85F"
EXACT = "exact"  # in place of a record: FP32 in another program, which costs nothing by definition


@dataclass(frozen=True)
class Entry:
    """A configuration on a target.

    speed: the record of its tokens/s, or of its milliseconds a token, told apart by the unit. quality: of its increase
    of perplexity over FP32, the text's name standing as {text}. spread: of its 50th and 99th percentile, in
    microseconds; jitter: of the clocks by which tokens at one position differ. resources: records of cells taken,
    by kind.
    """

    name: str
    what: str
    target: str
    bits: str
    speed: str
    quality: str | None = None
    size: str | None = None
    spread: tuple[str, str] | None = None
    jitter: str | None = None
    resources: tuple[tuple[str, str], ...] = ()
    model: str = "pocket"
    batch: int = 1


@dataclass(frozen=True)
class Row:
    """An entry with its figures; None where nothing is recorded. ``gate`` is None where it cannot be told."""

    entry: Entry
    tokens_per_s: Result
    ms_per_token: Result
    ppl_increase_pct: Result | None
    size_mb: Result | None
    spread: tuple[Result, Result] | None
    jitter: Result | None
    resources: tuple[tuple[str, Result], ...]
    gate: bool | None

    def figures(self) -> dict[str, Result]:
        """Return what a chapter records of the row, by the last part of its name."""
        found = {n: getattr(self, n) for n in ("tokens_per_s", "ms_per_token", "ppl_increase_pct", "size_mb")}
        return {name: result for name, result in found.items() if result is not None}


def _host(name: str, what: str, bits: str, quality: str, size: str, threads: int = 1) -> Entry:
    prefix = "host." if threads == 1 else "host.two_threads."
    return Entry(
        name if threads == 1 else f"{name}_two_threads",
        what,
        HOST if threads == 1 else HOST_TWO,
        bits,
        f"{prefix}{name}.tokens_per_s",
        quality,
        size,
        (f"host.{name}.p50_us", f"host.{name}.p99_us") if threads == 1 else None,
    )


_BEST = "ptq.best.{text}.ppl_increase_pct"
_NNCF = "openvino.int8.{text}.ppl_increase_pct"
_C_INT8 = "host.c_int8.{text}.ppl_increase_pct"
_INTEGER = "silicon.golden.pocket.{text}.ppl_increase_pct"
_FP32_MB, _INT8_MB = "model.pocket.fp32_mb", "model.pocket.int8_mb"

FIXED = (
    _host("torch", "PyTorch, whole window for each token", "32", EXACT, "prune.dense.size_mb"),
    _host("torch_kv", "PyTorch, KV cache", "32", EXACT, "prune.dense.size_mb"),
    _host("ort_fp32", "ONNX Runtime", "32", EXACT, "export.size_mb.step"),
    _host("ort_int8", "ONNX Runtime", "8", _BEST, "export.size_mb.qdq_best"),
    _host("openvino_fp32", "OpenVINO, cache outside", "32", EXACT, "openvino.size_mb.step_fp32"),
    _host("openvino_int8", "OpenVINO, cache outside", "8", _NNCF, "openvino.size_mb.step_int8"),
    _host("openvino_stateful", "OpenVINO, cache inside", "32", EXACT, "openvino.size_mb.stateful"),
    _host("openvino_stateful_int8", "OpenVINO, cache inside", "8", _NNCF, "openvino.size_mb.stateful_int8"),
    _host("c_fp32", "tuned C", "32", EXACT, _FP32_MB),
    _host("c_int8", "tuned C", "8", _C_INT8, _INT8_MB),
    _host("c_fp32", "tuned C", "32", EXACT, _FP32_MB, threads=2),
    _host("c_int8", "tuned C", "8", _C_INT8, _INT8_MB, threads=2),
    Entry(
        "gpu_torch_kv",
        "PyTorch, KV cache",
        GPU,
        "32",
        "gpu.tokens_per_s",
        EXACT,
        "prune.dense.size_mb",
        ("gpu.p50_us", "gpu.p99_us"),
    ),
    Entry("a53", "everything on the host", A53, "32", "vitis.pocket.cpu_only.modelled_ms_per_token", EXACT, _FP32_MB),
    Entry("dpu_as_exported", "graph as exported", DPU, "8", "vitis.pocket.as_exported.modelled_ms_per_token"),
    Entry(
        "dpu",
        "rewritten, ReLU, powers of two",
        DPU,
        "8",
        "vitis.pocket.modelled_ms_per_token",
        "vitis.int8.trained.powers_of_two.{text}.ppl_increase_pct",
        _INT8_MB,
        resources=tuple((kind, f"device.b4096.{kind.lower()}") for kind in ("LUT", "FF", "BRAM", "DSP")),
    ),
    Entry(
        "a10",
        "graph as exported, additions accepted",
        SUITE,
        "16",
        "intel.a10.pocket.modelled_ms_per_token",
        "openvino.fp16.{text}.ppl_increase_pct",
        "openvino.size_mb.step_fp16",
        resources=tuple((kind, f"device.a10_suite.{kind.lower()}") for kind in ("ALM", "FF", "M20K", "DSP")),
    ),
)
SPARSE_LANES = 64  # of the core that skips zeros
AWAITED = {  # kinds of route by the pattern of their records, and what is to be said where there are none
    r"(host\.c_int8)\.tokens_per_s": "The host: no rates are recorded; make chapter-07 records them.",
    r"(vitis\.pocket)\.modelled_ms_per_token": "The DPU: no model of it is recorded; make chapter-06 records it.",
    r"(silicon\.pocket\.lanes\d+)\.tokens_per_s": "The open core: no rates are recorded; make chapter-10 records them.",
    r"(silicon\.sparse\.[a-z_]+)\.tokens_per_s": "A core that skips zeros: nothing is recorded of one.",
    r"(silicon\.nano\.ecp5\.lanes\d+)\.tokens_per_s": "The small board: no routed core on an ECP5 is recorded.",
    r"(gpu)\.tokens_per_s": "A GPU: not measured; python -m lib.gpu does it on a machine that has one.",
}


def entries(records: Records) -> Iterator[Entry]:
    """Yield the fixed entries, then those of cores, by what widths and kinds are recorded."""
    yield from FIXED
    for lanes, _ in records.matching(r"silicon\.pocket\.lanes(\d+)\.tokens_per_s"):
        stem, placed = f"silicon.pocket.lanes{lanes}", f"silicon.pocket.xcup.lanes{lanes}"
        yield Entry(
            f"core_lanes{lanes}",
            f"{lanes} lanes",
            CORE,
            "8",
            f"{stem}.tokens_per_s",
            _INTEGER,
            _INT8_MB,
            jitter=f"{stem}.jitter_cycles",
            resources=tuple((kind, f"{placed}.{kind.lower()}") for kind in ("LUT", "FF", "DSP", "BRAM", "URAM")),
        )
    for kind, _ in records.matching(r"silicon\.sparse\.([a-z_]+)\.tokens_per_s"):
        yield Entry(
            f"core_sparse_{kind}",
            f"{SPARSE_LANES} lanes, half of the weights skipped ({kind.replace('_', ' ')})",
            CORE,
            "8",
            f"silicon.sparse.{kind}.tokens_per_s",
            f"silicon.sparse.{kind}.ppl_increase_pct",
            resources=(("cells, times the dense core's:", f"silicon.sparse.{kind}.area_ratio"),),
        )
    for lanes, _ in records.matching(r"silicon\.nano\.ecp5\.lanes(\d+)\.tokens_per_s"):
        stem = f"silicon.nano.ecp5.lanes{lanes}"
        bits = f"{records.figures[f'{stem}.weight_bits'].value:.0f}"  # eight do not fit the device
        model = "board" if bits == "6" else f"board_w{bits}"  # six has the model that ships for the ULX3S
        yield Entry(
            f"ecp5_lanes{lanes}",
            f"{lanes} lanes, placed and routed",
            BOARD,
            bits,
            f"{stem}.tokens_per_s",
            f"silicon.nano.{model}.{{text}}.ppl_increase_pct",
            resources=tuple((kind, f"{stem}.{kind.lower()}") for kind in ("COMB", "FF", "MULT", "EBR")),
            model="nano",
        )


def rows(records: Records, text: str) -> list[Row]:
    """Return a row for every entry whose speed is recorded, fastest first. ``text`` is what {text} means."""
    found = [_row(entry, records, text) for entry in entries(records) if entry.speed in records.figures]
    return sorted(found, key=lambda row: -row.tokens_per_s.value)


def absent(records: Records) -> list[str]:
    """Return a sentence for every kind of route that has no row."""
    return [sentence for pattern, sentence in AWAITED.items() if not records.matching(pattern)]


def _row(entry: Entry, records: Records, text: str) -> Row:
    def get(name: str | None) -> Result | None:
        return records.figures.get(name) if name else None

    tokens_per_s, ms_per_token = _speed(records.figures[entry.speed])
    quality = Result(f"{entry.name}.ppl_increase_pct", 0.0, "%", "modelled") if entry.quality == EXACT else None
    quality = quality or (get(entry.quality.format(text=text)) if entry.quality else None)
    limit = get("gate.largest_char_ppl_increase_pct")
    spread = tuple(map(get, entry.spread)) if entry.spread else None
    return Row(
        entry,
        tokens_per_s,
        ms_per_token,
        quality,
        get(entry.size),
        spread if spread and all(spread) else None,
        get(entry.jitter),
        tuple((kind, get(name)) for kind, name in entry.resources if get(name)),
        quality.value <= limit.value if quality and limit else None,
    )


def _speed(speed: Result) -> tuple[Result, Result]:
    """Return tokens/s and milliseconds a token, of one of the two."""
    rate = 1e3 / speed.value if speed.unit == "ms" else speed.value
    return (
        Result(speed.name, rate, "tokens/s", speed.provenance, speed.text),
        Result(speed.name, 1e3 / rate, "ms", speed.provenance, speed.text),
    )
