"""What a solved mapping looks like as hardware: engines, their ports, and the PL kernels between them, wired up.

A product (``Unit``) is a grid of engines. Rows are cut into A parts, the inner side into B (a cascade), columns into C,
and H copies (heads) are made at a time; a part is rounded up to eight and padded with zeros. Data pass between PL and
engines as 128-bit words: left factors in tiles of 8 rows, right factors and results in tiles of 4 columns. Between PL
kernels they pass row after row, ``lanes`` bytes a cycle, each row filled up to whole cycles. ``Design`` lists all
parts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from lib.acap.boards import INT8, Widths
from lib.acap.mapping import BROADCAST, STACK, TILE, Mapping, Tiling
from lib.acap.vit import ViTConfig, check_images
from lib.errors import BookError

WORD = 16  # bytes of a stream's word: 128 bits, the widest that an interface tile offers
MOST_LANES = 64  # bytes a cycle between PL kernels: 512 bits; wider ones would have to be routed all over the chip
OUT_COLUMNS = 4  # of a result's tile
HEAP = STACK // 2  # bytes, which are AMD's default: for small things beside what an engine holds
WIDE = ("patch", "head")  # their results leave as sums of 32 bits: what follows them in PL needs more than eight


def check_written(config: ViTConfig, widths: Widths) -> None:
    """Raise BookError for a model or for widths that no sources are written for: known before a mapping is searched."""
    if config.stem != "patch":
        raise BookError(
            "the model begins with convolutions, which have no sources: a patch stem alone is one product; "
            "choose a model that has one"
        )
    if widths != INT8:
        raise BookError(f"sources are written in {INT8} only, and this design is in {widths}; ask for less accuracy")


def up(x: int, to: int = TILE) -> int:
    """Round x up to a multiple."""
    return -(-x // to) * to


@dataclass(frozen=True)
class Engine:
    """One AI Engine of a product, at part a of the rows, b of the inner side, c of the columns, copy h."""

    unit: str
    a: int
    b: int
    c: int
    h: int
    role: str  # "only", "first", "middle" or "last" of its cascade

    @property
    def name(self) -> str:
        return f"{self.unit}_a{self.a}_b{self.b}_c{self.c}_h{self.h}"


@dataclass(frozen=True)
class Port:
    """A stream between PL and engines: those it feeds, or the one it comes from, and where its part begins."""

    name: str
    engines: tuple[str, ...]
    a: int = 0
    b: int = 0
    c: int = 0
    h: int = 0


@dataclass(frozen=True)
class Unit:
    """A product of one image as a grid of engines. ``rows``, ``inner`` and ``columns`` are not padded."""

    name: str
    rows: int
    inner: int
    columns: int
    copies: int
    sets: int  # sets of weights, one for each encoder block; 0 where both factors are activations
    tiling: Tiling
    depth: int  # encoder blocks
    board_memory: int  # bytes of an engine

    @property
    def part_rows(self) -> int:
        return up(-(-self.rows // self.tiling.A))

    @property
    def stripes(self) -> int:
        """Groups of eight rows that an engine makes in a call."""
        return self.part_rows // TILE

    @property
    def k(self) -> int:
        return up(-(-self.inner // self.tiling.B))

    @property
    def n(self) -> int:
        return up(-(-self.columns // self.tiling.C))

    @property
    def calls(self) -> int:
        return self.copies // self.tiling.H

    @property
    def codes(self) -> bool:
        """Whether the left factor is attention's shift counts, decoded to int16 in the engine."""
        return self.name == "av"

    @property
    def tile_k(self) -> int:
        return 4 if self.codes else 8  # mmul<8, 4, 4, int16, int8> and mmul<8, 8, 4, int8, int8>

    @property
    def wide(self) -> bool:
        return self.name in WIDE

    @property
    def size(self) -> int:
        """Bytes of one result."""
        return 4 if self.wide else 1

    @property
    def rhs_streams(self) -> bool:
        return self.sets == 0 or self.tiling.streamed

    @property
    def passes(self) -> str:
        """How often a product is made for a batch, as an expression of the generated sources."""
        return "BATCH" if self.wide else "BATCH * DEPTH"

    def _grid(self, *sides: int) -> list[tuple[int, ...]]:
        grid: list[tuple[int, ...]] = [()]
        for side in sides:
            grid = [(*place, i) for place in grid for i in range(side)]
        return grid

    def _role(self, b: int) -> str:
        if self.tiling.B == 1:
            return "only"
        return "first" if b == 0 else "last" if b == self.tiling.B - 1 else "middle"

    @cached_property
    def engines(self) -> list[Engine]:
        t = self.tiling
        return [Engine(self.name, a, b, c, h, self._role(b)) for a, c, h, b in self._grid(t.A, t.C, t.H, t.B)]

    def _names(self, **fixed: int | range) -> tuple[str, ...]:
        def fits(engine: Engine) -> bool:
            return all(
                getattr(engine, k) in v if isinstance(v, range) else getattr(engine, k) == v for k, v in fixed.items()
            )

        return tuple(engine.name for engine in self.engines if fits(engine))

    @cached_property
    def lhs(self) -> list[Port]:
        t = self.tiling
        return [
            Port(
                f"{self.name}_lhs_a{a}_b{b}_g{g}_h{h}",
                self._names(a=a, b=b, h=h, c=range(g * BROADCAST, (g + 1) * BROADCAST)),
                a=a,
                b=b,
                h=h,
            )
            for a, b, g, h in self._grid(t.A, t.B, -(-t.C // BROADCAST), t.H)
        ]

    @cached_property
    def rhs(self) -> list[Port]:
        t = self.tiling
        if not self.rhs_streams:
            return []
        return [
            Port(
                f"{self.name}_rhs_b{b}_c{c}_g{g}_h{h}",
                self._names(b=b, c=c, h=h, a=range(g * BROADCAST, (g + 1) * BROADCAST)),
                b=b,
                c=c,
                h=h,
            )
            for b, c, g, h in self._grid(t.B, t.C, -(-t.A // BROADCAST), t.H)
        ]

    @cached_property
    def out(self) -> list[Port]:
        t = self.tiling
        return [
            Port(f"{self.name}_out_a{a}_c{c}_h{h}", self._names(a=a, b=t.B - 1, c=c, h=h), a=a, c=c, h=h)
            for a, c, h in self._grid(t.A, t.C, t.H)
        ]

    # Words that pass through one port while one image passes the product once.

    @property
    def rhs_words(self) -> int:
        return self.calls * self.k * self.n // WORD

    @property
    def out_words(self) -> int:
        return self.calls * self.part_rows * self.n * self.size // WORD

    @property
    def held(self) -> int:
        """Bytes that the fullest engine keeps from call to call: weights, constants, decoded codes."""
        weights = 0 if self.rhs_streams else self.sets * self.k * self.n
        constants = 0 if self.wide else 8 * (self.sets * self.n if self.sets else self.depth * OUT_COLUMNS)
        return weights + constants + (2 * TILE * self.k if self.codes else 0)

    @property
    def heap(self) -> int:
        """Bytes of an engine's heap, where AMD's compiler puts all that is not on the stack (UG1393)."""
        return self.held + HEAP

    def memory(self, tiles: int) -> int:
        """Return the bytes that the fullest engine takes: what it holds, windows twice, stack.

        ``tiles``: how many tiles a window of results holds.
        """
        streamed = 2 * self.k * self.n if self.rhs_streams else 0
        windows = 2 * TILE * (self.k + tiles * OUT_COLUMNS * self.size)
        return self.held + streamed + windows + STACK

    @cached_property
    def window_tiles(self) -> int:
        """Tiles in a window of results: a whole row of them, or a part of it where memory is short."""
        row = self.n // OUT_COLUMNS
        parts = (tiles for tiles in range(row, 0, -1) if row % tiles == 0)
        return next((tiles for tiles in parts if self.memory(tiles) <= self.board_memory), 1)


def _fifo(words: int) -> int:
    """Return the depth of a FIFO for so many words: AMD's come in powers of two from 16 on (PG085)."""
    return max(16, 1 << (words - 1).bit_length())


def units(mapping: Mapping) -> dict[str, Unit]:
    """Return a mapping's products by name; BookError where a tiling cannot be or does not fit."""
    found, depth, memory = {}, mapping.config.depth, mapping.board.memory
    for layer in mapping.layers:
        t = mapping.chosen[layer.name].tiling
        unit = Unit(layer.name, layer.rows, layer.inner, layer.columns, layer.copies, layer.blocks, t, depth, memory)
        empty = any(
            (parts - 1) * up(-(-size // parts)) >= size
            for parts, size in ((t.A, layer.rows), (t.B, layer.inner), (t.C, layer.columns))
        )
        if min(t.A, t.B, t.C, t.H) < 1 or empty or layer.copies % t.H:
            raise BookError(
                f"{layer.name} of {layer.rows} x {layer.inner} x {layer.columns}, {layer.copies} times, cannot be cut "
                f"into A.B.C.H = {t.A}.{t.B}.{t.C}.{t.H}; solve the mapping again"
            )
        needed = unit.memory(unit.window_tiles)
        if needed > memory:
            raise BookError(f"an engine of {layer.name} takes {needed} bytes and has {memory}; choose a finer tiling")
        found[layer.name] = unit
    return found


@dataclass(frozen=True)
class Stream:
    """A PL kernel's stream: its port and the net it is on; for one from engines also the words of one pass.

    ``engines``: whether the other end is in the engines' array.
    """

    port: str
    net: str
    engines: bool = False
    words: int = 0

    @property
    def type(self) -> str:
        """The C++ type of what it carries."""
        return "word" if self.engines else "row_t"


@dataclass(frozen=True)
class Memory:
    """A PL kernel's memory port (AXI), of words; which way data go as the kernel sees it."""

    port: str
    reads: bool


@dataclass(frozen=True)
class Kernel:
    """A PL kernel: one source, made from ``template``, with streams and perhaps a memory port.

    ``numbered``: it is told the number of its first pass, to know each pass's encoder block.
    """

    name: str
    template: str
    inputs: list[Stream]
    outputs: list[Stream]
    memory: Memory | None = None
    numbered: bool = False
    unit: str | None = None
    settings: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Net:
    """One connection between PL kernels; ``depth`` words of buffer, 0 for the tool's own."""

    name: str
    source: str
    target: str
    depth: int = 0


def _lanes(mapping: Mapping) -> int:
    """Return the bytes a cycle between PL kernels: the lanes of the mapping's narrowest one, where they divide a row.

    One width serves all streams, 16 to ``MOST_LANES``; 16 also where a mapping says nothing.
    """
    wanted = min((lanes.lanes for lanes in mapping.lanes.values()), default=WORD)
    fits = (lanes for lanes in (WORD, 2 * WORD, MOST_LANES) if lanes <= wanted and mapping.config.dim % lanes == 0)
    return max(fits, default=WORD)


class Design:
    """All of a design but its numbers."""

    def __init__(self, mapping: Mapping) -> None:
        config = mapping.config
        check_written(config, mapping.kernel.widths)
        if config.dim % WORD:
            raise BookError(f"the width {config.dim} is no multiple of {WORD} and so does not fill words; change it")
        self.config, self.batch = config, mapping.batch
        self.pl_hz = round(mapping.board.pl_ghz * 1e9)
        self.units = units(mapping)
        self.tokens = up(config.tokens)
        self.lanes = _lanes(mapping)
        self.image_words = self.tokens * self.row_words(config.dim)  # of one image's residual stream
        self.stem = self._stem()
        self.block = self._block()
        self.tail = self._tail()

    @property
    def kernels(self) -> list[Kernel]:
        return [*self.stem, *self.block, *self.tail]

    def row_words(self, numbers: int, size: int = 1) -> int:
        """Return the cycles that a row of ``numbers`` takes between PL kernels, ``size`` bytes each."""
        return -(-numbers * size // self.lanes)

    def check_batches(self, images: np.ndarray) -> None:
        """Raise BookError unless images, uint8 (N, channels, side, side), are of the model's size and whole batches."""
        check_images(torch.from_numpy(images), self.config)
        if not len(images) or len(images) % self.batch:
            raise BookError(f"{len(images)} images are no whole batches of {self.batch}; choose a multiple")

    # ---- The parts that each product has: tiles out, rows back, and weights where they stream. ----

    def _spread(self, name: str, net: str) -> Kernel:
        unit = self.units[name]
        settings = {"unit": unit, "words": self.row_words(unit.inner)}
        outputs = [Stream(f"out_{i}", port.name, True) for i, port in enumerate(unit.lhs)]
        return Kernel(f"spread_{name}", "spread", [Stream("in", net)], outputs, unit=name, settings=settings)

    def _gather(self, name: str, net: str) -> Kernel:
        unit = self.units[name]
        inputs = [Stream(f"in_{i}", port.name, True, unit.out_words) for i, port in enumerate(unit.out)]
        settings = {"unit": unit, "words": self.row_words(unit.columns, unit.size)}
        return Kernel(f"gather_{name}", "gather", inputs, [Stream("out", net)], unit=name, settings=settings)

    def _feed(self, name: str) -> list[Kernel]:
        unit = self.units[name]
        if not (unit.sets and unit.rhs_streams):
            return []
        outputs = [Stream(f"out_{i}", port.name, True) for i, port in enumerate(unit.rhs)]
        settings = {"unit": unit}
        return [Kernel(f"feed_{name}", "feed", [], outputs, Memory("weights", True), True, name, settings)]

    def _product(self, name: str, before: str, after: str) -> list[Kernel]:
        return [self._spread(name, before), *self._feed(name), self._gather(name, after)]

    # ---- What lies between. ----

    def _norm(self, name: str, before: str, after: str, rows: int) -> Kernel:
        streams = [Stream("in", before)], [Stream("out", after)]
        return Kernel(name, "norm", *streams, numbered=True, settings={"rows": rows, "width": self.config.dim})

    def _add(self, name: str, branch: str, stream: str, outputs: dict[str, str]) -> Kernel:
        inputs = [Stream("branch", branch), Stream("stream", stream)]
        return Kernel(name, "add", inputs, [Stream(k, v) for k, v in outputs.items()], numbered=True)

    def _stem(self) -> list[Kernel]:
        unit = self.units["patch"]
        return [
            Kernel(
                "reader",
                "reader",
                [],
                [Stream("out", "patches")],
                Memory("images", True),
                True,
                settings={"rows": unit.rows, "words": self.row_words(unit.inner)},
            ),
            *self._product("patch", "patches", "patch_sums"),
            Kernel("embed", "embed", [Stream("in", "patch_sums")], [Stream("out", "embedded")]),
        ]

    def _block(self) -> list[Kernel]:
        qk, av = self.units["qk"], self.units["av"]
        heads = [Stream("queries", "queries")]
        heads += [Stream(f"keys_{i}", port.name, True) for i, port in enumerate(qk.rhs)]
        heads += [Stream(f"values_{i}", port.name, True) for i, port in enumerate(av.rhs)]
        return [
            Kernel(
                "turn",
                "turn",
                [Stream("embedded", "embedded"), Stream("back", "residual2")],
                [Stream("to_norm", "residual0"), Stream("to_add", "bypass0"), Stream("tail", "last")],
                numbered=True,
            ),
            self._norm("norm1", "residual0", "normed1", self.tokens),
            *self._product("qkv", "normed1", "qkv"),
            Kernel("heads", "heads", [Stream("in", "qkv")], heads),
            *self._product("qk", "queries", "scores"),
            Kernel("softmax", "softmax", [Stream("in", "scores")], [Stream("out", "shifts")]),
            *self._product("av", "shifts", "contexts"),
            Kernel("merge", "merge", [Stream("in", "contexts")], [Stream("out", "context")]),
            *self._product("out", "context", "branch1"),
            self._add("add1", "branch1", "bypass0", {"out": "residual1", "bypass": "bypass1"}),
            self._norm("norm2", "residual1", "normed2", self.tokens),
            *self._product("up", "normed2", "hidden"),
            Kernel("gelu", "gelu", [Stream("in", "hidden")], [Stream("out", "activated")], numbered=True),
            *self._product("down", "activated", "branch2"),
            self._add("add2", "branch2", "bypass1", {"out": "residual2"}),
        ]

    def _tail(self) -> list[Kernel]:
        return [
            self._norm("norm", "last", "normed", TILE),
            *self._product("head", "normed", "head_sums"),
            Kernel("logits", "logits", [Stream("in", "head_sums")], [], Memory("scores", False), True),
        ]

    # ---- Wires. ----

    @cached_property
    def nets(self) -> list[Net]:
        """Return the connections between PL kernels; a bypass waits for a whole image's attention, so it is deep."""
        depths = {"bypass0": _fifo(2 * self.image_words), "bypass1": _fifo(self.image_words)}
        source = {s.net: f"{k.name}.{s.port}" for k in self.kernels for s in k.outputs if not s.engines}
        target = {s.net: f"{k.name}.{s.port}" for k in self.kernels for s in k.inputs if not s.engines}
        return [Net(net, source[net], target[net], depths.get(net, 0)) for net in source]

    @property
    def connections(self) -> list[tuple[str, str, int]]:
        """Return every stream of the design as (source, target, depth); a port of an engine is ai_engine_0.NAME."""
        found = [(net.source, net.target, net.depth) for net in self.nets]
        for kernel in self.kernels:
            found += [(f"{kernel.name}.{s.port}", f"ai_engine_0.{s.net}", 0) for s in kernel.outputs if s.engines]
            found += [(f"ai_engine_0.{s.net}", f"{kernel.name}.{s.port}", 0) for s in kernel.inputs if s.engines]
        return found
