"""Which route for which model: a small calculator, and what it assumes.

A token costs a route arithmetic, the reading of weights, and a fixed price for every time it starts or waits. Each
``Route`` below turns the shape of a GPT into milliseconds with one formula of that kind; all that is assumed stands in
its fields, with its source. Every estimate is a model of a design, never a measurement: for ``pocket`` the tests hold
each against the record of the chapter that it is taken from.

    from lib import routes
    print(routes.advise(routes.Workload(layers=8, heads=4, width=128, block=256, budget_ms=0.04)))
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Protocol, Sequence

from lib.errors import BookError
from lib.gpt import GPTConfig, attention_macs, kv_cache_bytes
from lib.text import SIZE

PROVENANCE = "modelled"
INTEGER_BITS = 8  # the widest weight that the integer routes take
BITS = (2, 3, 4, 5, 6, 7, 8, 16, 32)
TUNED_C = {"fp32": 22.0e9, "int8": 38.4e9}  # MAC/s of one thread in the book's full run: chapter 7's host.c_*


@dataclass(frozen=True)
class Workload:
    """A GPT, and how it is to be run: ``batch`` texts at once, each a token further within ``budget_ms``, if given.

    bits: of a weight. clock_mhz and lanes: of the custom core. Raises BookError for what no model or core has.
    """

    layers: int
    heads: int
    width: int
    block: int
    vocab: int = SIZE
    bits: int = 8
    batch: int = 1
    budget_ms: float | None = None
    clock_mhz: float = 300.0
    lanes: int = 256

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "width", "block", "vocab", "bits", "batch", "lanes"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise BookError(f"{name} is {value!r}; give a whole number of 1 or more")
        for name in ("budget_ms", "clock_mhz"):
            value = getattr(self, name)
            if value is None and name == "budget_ms":
                continue
            if not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise BookError(f"{name} is {value!r}; give a positive, finite number")
        if self.bits not in BITS:
            raise BookError(f"bits is {self.bits}; choose one of {', '.join(map(str, BITS))}")
        self.config  # refuses heads that do not divide the width, and an odd block

    @property
    def config(self) -> GPTConfig:
        return GPTConfig(self.layers, self.heads, self.width, self.block, self.vocab)

    @property
    def weights(self) -> int:
        """Weights that every token multiplies: the blocks' and the head's."""
        return 12 * self.layers * self.width**2 + self.vocab * self.width

    @property
    def attention(self) -> int:
        """Multiply-accumulates of attention for a token that sees the whole block, the worst one."""
        return attention_macs(self.config, self.block)

    @property
    def macs(self) -> int:
        return self.weights + self.attention

    @property
    def weight_bytes(self) -> float:
        return self.weights * self.bits / 8

    @property
    def cache_bytes(self) -> int:
        """KV caches of the whole batch: a byte a value for integers, else as many as a weight has."""
        return self.batch * kv_cache_bytes(self.config, 1 if self.bits <= INTEGER_BITS else self.bits // 8)


@dataclass(frozen=True)
class Estimate:
    """What a route would take for a token of every text of the batch; None, and why, where it cannot run the model."""

    route: str
    ms: float | None
    tokens_per_s: float | None
    because: str
    provenance: str = PROVENANCE

    def meets(self, budget_ms: float | None) -> bool:
        return self.ms is not None and (budget_ms is None or self.ms <= budget_ms)


class Route(Protocol):
    """A way to run a model: ``terms`` splits a token's milliseconds by cause, ``refusal`` says why it cannot, or ''."""

    name: str
    sources: dict[str, str]

    def refusal(self, work: Workload) -> str: ...

    def terms(self, work: Workload) -> dict[str, float]: ...


def estimate(route: Route, work: Workload) -> Estimate:
    """Apply one route's formula to a workload."""
    refused = route.refusal(work)
    if refused:
        return Estimate(route.name, None, None, refused)
    terms = route.terms(work)
    ms = sum(terms.values())
    largest = max(terms, key=terms.get)
    return Estimate(route.name, ms, 1e3 * work.batch / ms, f"{largest}: {100 * terms[largest] / ms:.0f} %")


# ---- The routes. ----


@dataclass(frozen=True)
class Processor:
    """Tuned C on one thread: arithmetic at the measured rate, and weights beyond the cache once a step from memory."""

    name: str = "processor, tuned C"
    macs_per_s: dict[str, float] = field(default_factory=TUNED_C.copy)
    cache_bytes: float = 16e6
    bytes_per_s: float = 10e9
    sources: dict[str, str] = field(
        default_factory=lambda: {
            "macs_per_s": "chapter 7's full run on a server's core with AVX-512 VNNI, one thread",
            "cache_bytes": "assumed: half of a 32 MB third-level cache",
            "bytes_per_s": "assumed, for one thread",
        }
    )

    def refusal(self, work: Workload) -> str:
        return ""

    def terms(self, work: Workload) -> dict[str, float]:
        whole = work.bits <= INTEGER_BITS  # the program stores a weight in one byte or in four, and caches in FP32
        rate = self.macs_per_s["int8" if whole else "fp32"]
        stored = work.weights * (1 if whole else 4) + work.batch * kv_cache_bytes(work.config)
        beyond = max(0.0, stored - self.cache_bytes)
        return {"arithmetic": 1e3 * work.batch * work.macs / rate, "memory": 1e3 * beyond / self.bytes_per_s}


@dataclass(frozen=True)
class Overlay:
    """A vendor's engine beside a host, weights in DRAM, as chapters 6 and 7 model it.

    A step crosses between the two ``crossings`` = (a block, once) times, whatever the batch; the engine computes
    ``rows`` rows at a time, so that fewer leave it idle; attention's products stay on the host.
    """

    name: str
    macs_per_s: float
    rows: int
    bytes_per_s: float  # for weights of a byte
    crossings: tuple[int, int]
    crossing_s: float
    host_macs_per_s: float
    bits: int  # the widest weight
    sources: dict[str, str]

    def refusal(self, work: Workload) -> str:
        return f"weights of {work.bits} bits; it computes in {self.bits}" if work.bits > self.bits else ""

    def terms(self, work: Workload) -> dict[str, float]:
        crossings = self.crossings[0] * work.layers + self.crossings[1]
        products = work.weights * max(self.rows, work.batch) / self.macs_per_s
        return {
            "crossings": 1e3 * crossings * self.crossing_s,
            "engine": 1e3 * max(products, work.weights / self.bytes_per_s),
            "attention on the host": 1e3 * work.batch * work.attention / self.host_macs_per_s,
        }


@dataclass(frozen=True)
class Core:
    """Chapter 10's core, weights and caches on the chip; one text after another.

    What lanes hw/rtl/core.sv accepts for a width, and what heads, is not asked here.
    A lane multiplies in every clock but for ``once`` clocks a token and ``fixed`` + width / 8 a layer, in which a
    vector is not complete yet. ``spare`` multipliers are not lanes.
    """

    name: str = "custom core, XCZU7EV"
    memory_bytes: float = 96 * 32_768 + 312 * 4096
    multipliers: int = 1728
    spare: int = 15
    once: int = 250
    fixed: int = 64
    sources: dict[str, str] = field(
        default_factory=lambda: {
            "memory_bytes, multipliers": "DS891",
            "spare": "chapter 10's synthesis: 13 at 64 lanes, 15 at 128",
            "once, fixed": "fitted to the simulated clocks of pocket and nano; for other widths assumed",
        }
    )

    def clocks(self, work: Workload) -> float:
        """Return the clocks of a token that sees the whole block, one text."""
        return work.macs / work.lanes + self.once + work.layers * (self.fixed + work.width / 8)

    def refusal(self, work: Workload) -> str:
        needed = work.weight_bytes + work.cache_bytes
        if work.bits > INTEGER_BITS:
            return f"weights of {work.bits} bits; it computes in integers of {INTEGER_BITS}"
        if needed > self.memory_bytes:
            return f"needs {needed / 1e6:.1f} MB on the chip, which has {self.memory_bytes / 1e6:.1f}"
        if work.lanes + self.spare > self.multipliers:
            return f"{work.lanes} lanes; the chip has {self.multipliers:,} multipliers"
        return ""

    def terms(self, work: Workload) -> dict[str, float]:
        busy = work.batch * work.macs / work.lanes
        clocks = work.batch * self.clocks(work)
        each = 1e-3 / work.clock_mhz
        return {"multiplying": busy * each, "waiting": (clocks - busy) * each}


@dataclass(frozen=True)
class Streaming:
    """A core like it whose weights come from DRAM, once a step for the whole batch. Nobody has built it here."""

    core: Core = Core()
    bytes_per_s: float = 19.2e9
    name: str = "custom core, weights in DRAM (not built)"
    sources: dict[str, str] = field(default_factory=lambda: {"bytes_per_s": "ZCU104: DDR4-2400, 64 bit, at its peak"})

    def refusal(self, work: Workload) -> str:
        resident = replace(self.core, memory_bytes=math.inf).refusal(work)
        if not resident and work.cache_bytes > self.core.memory_bytes:
            return f"caches of {work.cache_bytes / 1e6:.1f} MB do not fit the chip"
        return resident

    def terms(self, work: Workload) -> dict[str, float]:
        computing = sum(self.core.terms(work).values())
        reading = 1e3 * work.weight_bytes / self.bytes_per_s
        return {"arithmetic": computing, "waiting for weights": max(0.0, reading - computing)}


@dataclass(frozen=True)
class Acap:
    """A VCK190 as chapter 9 maps Vision Transformers: weights beside the engines or in the PL's memories.

    Engines multiply tiles of ``rows`` rows; six dependent calls a layer each wait ``sync_s``.
    """

    name: str = "ACAP, VCK190"
    macs_per_s: float = 400 * 128 * 1e9
    rows: int = 8
    calls: int = 6
    sync_s: float = 2e-6
    engine_bytes: float = 400 * 18 * 1024
    buffer_bytes: float = 967 * 4608 + 463 * 36864
    stream_bytes_per_s: float = 156 * 3.68e9
    sources: dict[str, str] = field(
        default_factory=lambda: {
            "macs_per_s, buffer_bytes, stream_bytes_per_s": "AM009, DS950, as in chapter 9",
            "sync_s": "assumed; no document gives it, and chapter 9's calls fit 0 to 0.4 µs more than they count",
            "engine_bytes": "assumed: 18 of 32 KiB an engine, as in the paper's design for DeiT-T",
            "calls": "the products of a layer that wait for each other",
        }
    )

    def refusal(self, work: Workload) -> str:
        needed, room = work.weight_bytes + work.cache_bytes, self.engine_bytes + self.buffer_bytes
        if work.bits > INTEGER_BITS:
            return f"weights of {work.bits} bits; it computes in integers of {INTEGER_BITS}"
        return f"needs {needed / 1e6:.1f} MB on the chip, which has {room / 1e6:.1f}" if needed > room else ""

    def terms(self, work: Workload) -> dict[str, float]:
        products = work.macs * max(self.rows, work.batch) / self.macs_per_s
        streamed = max(0.0, work.weight_bytes - self.engine_bytes) / self.stream_bytes_per_s
        return {
            "waiting for each other": 1e3 * self.calls * work.layers * self.sync_s,
            "engines": 1e3 * max(products, streamed),
        }


B4096 = Overlay(
    name="overlay, DPU on a ZCU104",
    macs_per_s=2048 * 300e6,
    rows=8,
    bytes_per_s=19.2e9,
    crossings=(6, 2),
    crossing_s=100e-6,
    host_macs_per_s=0.5e9,
    bits=8,
    sources={
        "macs_per_s, rows": "PG338, UG1354",
        "bytes_per_s": "ZCU104: DDR4-2400, 64 bit",
        "crossings": "chapter 6: three subgraphs a block and one for the head",
        "crossing_s, host_macs_per_s": "assumed in chapter 6",
    },
)
SUITE = Overlay(
    name="overlay, FPGA AI Suite on an Arria 10",
    macs_per_s=2 * 1162 * 280e6,
    rows=1,
    bytes_per_s=17.1e9 / 2,  # of a byte each; in FP16 a weight is two
    crossings=(12, 4),
    crossing_s=50e-6,
    host_macs_per_s=TUNED_C["fp32"],
    bits=16,
    sources={
        "macs_per_s": "the suite's IP reference manual, 2024.1; two multiplications a DSP assumed",
        "bytes_per_s": "DS-1054: one of two banks of DDR4-2133; FP16",
        "crossings": "chapter 7: what its tables leave of the step graph",
        "crossing_s": "assumed in chapter 7",
        "host_macs_per_s": "chapter 7's tuned C",
    },
)
ROUTES: tuple[Route, ...] = (Processor(), B4096, SUITE, Core(), Streaming(), Acap())


# ---- Advice. ----


@dataclass(frozen=True)
class Advice:
    """The route to take, if any, why, and every estimate it was chosen from."""

    work: Workload
    route: str | None
    reason: str
    estimates: tuple[Estimate, ...]

    def __str__(self) -> str:
        lines = [
            f"{e.route:42} {e.ms:9.4f} ms {e.tokens_per_s:12,.0f} tokens/s  ({e.because})"
            if e.ms is not None
            else f"{e.route:42} cannot: {e.because}"
            for e in self.estimates
        ]
        return "\n".join([*lines, f"Take: {self.route or 'none of these'}. {self.reason}", f"All {PROVENANCE}."])


def advise(work: Workload, routes: Sequence[Route] = ROUTES) -> Advice:
    """Choose a route; the first of ``routes``, the one that needs no hardware, wins wherever it keeps the budget.

    Without a budget the fastest is taken. BookError for no routes.
    """
    if not routes:
        raise BookError("there is no route to choose from; give at least one")
    found = tuple(estimate(route, work) for route in routes)
    able = sorted((e for e in found if e.ms is not None), key=lambda e: e.ms)
    if not able:
        return Advice(work, None, "None of them can run the model.", found)
    plain, best, budget = found[0], able[0], work.budget_ms
    if budget is not None and not best.meets(budget):
        reason = f"The fastest, {best.route}, takes {best.ms:.3g} ms, {best.ms / budget:.2g} times the budget."
        return Advice(work, None, reason, found)
    if budget is not None and plain.meets(budget):
        reason = f"It keeps {budget:g} ms, in {plain.ms:.3g} ms, with nothing to build."
        return Advice(work, plain.route, reason, found)
    if best is plain:
        return Advice(work, plain.route, "No other is faster.", found)
    factor = f", where {plain.route} takes {plain.ms:.3g}" if plain.ms is not None else ""
    return Advice(work, best.route, f"It takes {best.ms:.3g} ms{factor}.", found)


def break_even(work: Workload, name: str, values: Sequence[int | float], route: Route, rival: Route) -> float | None:
    """Return the first of ``values`` for the workload's field ``name`` at which ``route`` is faster than ``rival``.

    None where it never is. BookError for a field that a workload does not have, or a value that it refuses.
    """
    if name not in Workload.__dataclass_fields__:
        raise BookError(f"a workload has no {name}; vary one of {', '.join(Workload.__dataclass_fields__)}")
    for value in values:
        ours, theirs = (estimate(r, replace(work, **{name: value})).ms for r in (route, rival))
        if ours is not None and (theirs is None or ours < theirs):
            return value
    return None
