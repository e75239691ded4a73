"""From an integer model to what the memories of a core that skips zeros hold (``hw/rtl/sparse_core.sv``).

A lane keeps the weights of its rows that are not zero, each with the index of its input: its entries. Lanes run
through the rows of a whole matrix without waiting for one another, so a matrix takes as many beats as the lane with the
most entries has, and ``lib.prune.lane_balanced`` makes them all have as many. Rows are those of ``lane_balanced``: lane
i has i, i + LANES, and so on.

The core fills a vector into the lanes' copies while it is already being read. Entries are in the order of their inputs,
and one whose input would not have come waits, as an entry of weight 0, in which nothing is added.

Shapes in the comments: N layers, C width, R lanes, T beats, P passes, O outputs, I inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Sequence

import numpy as np

from lib.errors import BookError
from lib.silicon.golden import IntegerModel, Shape, check
from lib.silicon.image import Image, Layout, Memory, banked, beside_the_lanes, bits, entries, joined

WAYS = 4  # elements of a vector that come in a clock
STEP = 4096  # rows of entries are counted in UltraRAMs
# Beats from a pass' first to the one that can read the first word of a vector: of the norm's, which has a start; of
# attention's and of the hidden one, whose last slice has only begun to leave the lanes. hw/rtl/sparse_core.sv.
NORM_LATE, MIX_LATE, HIDDEN_LATE = -2, 16, 18


@dataclass(frozen=True)
class SparseLayout(Layout):
    """A sparse core for models of one shape. Raises BookError for a combination that no such core has.

    entries: rows of entries, of all matrices together, that each lane's memory holds.
    """

    MOST_LANES: ClassVar[int] = 512  # a bank is two lanes wide here

    drain: int = WAYS
    entries: int = STEP

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shape.width < 4 * WAYS:
            raise BookError(f"the width is {self.shape.width}; the sparse core needs {4 * WAYS} or more")
        if self.lanes > self.shape.width:
            raise BookError(f"LANES is {self.lanes}; the sparse core has one for an output, {self.shape.width} at most")
        if self.drain != WAYS:
            raise BookError(f"DRAIN is {self.drain}; the sparse core has {WAYS} requantisers, leave it out")
        if not 2 <= self.entries <= 1 << 20:
            raise BookError(f"a lane is to hold {self.entries} entries; choose 2 to 2^20, or raise LANES")

    @classmethod
    def of(cls, model: IntegerModel, lanes: int, ultra: bool = False) -> SparseLayout:
        """Return the layout whose memories, in whole UltraRAMs, hold this model."""
        empty = cls(model.shape, lanes, ultra=ultra)
        needed = len(compress(model, empty).weight)
        return cls(model.shape, lanes, ultra=ultra, entries=-(-needed // STEP) * STEP)

    @property
    def index_bits(self) -> int:
        return (4 * self.shape.width - 1).bit_length()

    @property
    def entry_bits(self) -> int:
        """Bits of an entry: the weight, its index and the mark of a row's end."""
        return self.shape.weight_bits + self.index_bits + 1

    def parameters(self) -> dict[str, int]:
        """Return the parameters of ``sparse_core.sv``."""
        dense = super().parameters()
        del dense["DRAIN"]
        return dense | {"ENTRIES": self.entries}


# ---- Compression. ----


@dataclass(frozen=True)
class Stream:
    """What the lanes read, a row a beat: weight int8, index int64 and last, a row's end, bool, all (T, R).

    lengths: int64 (P,), beats of each pass; it ends where the slowest lane has finished its row of the pass.
    """

    weight: np.ndarray
    index: np.ndarray
    last: np.ndarray
    lengths: np.ndarray


def pack(weight: np.ndarray, rows: np.ndarray, late: np.ndarray) -> Stream:
    """Compress a matrix int8 (O, I). rows: int (P, R), each lane's output of each pass, -1 for none.

    late: int (I,), the beat from which on an input can be read. BookError for a row that the matrix does not have.
    """
    outputs, inputs = weight.shape
    if rows.min() < -1 or rows.max() >= outputs:
        raise BookError(f"a lane is given the row {rows.max()} of {outputs}; lay the core out for the matrix' shape")
    passes, lanes = rows.shape
    placed, ends = [], np.zeros((passes, lanes), np.int64)
    for lane in range(lanes):
        chosen = np.where(rows[:, lane, None] < 0, 0, weight[rows[:, lane]])  # (P, I)
        chosen_row, index = np.nonzero(chosen)
        empty = np.flatnonzero(~chosen.any(axis=1))  # a row without weights has one entry of weight 0, to end it
        order = np.argsort(np.concatenate([chosen_row, empty]), kind="stable")
        row = np.concatenate([chosen_row, empty])[order]
        index = np.concatenate([index, np.zeros_like(empty)])[order]
        count = np.arange(len(row))
        waits = np.where(chosen[row, index] != 0, late[index] - count, 0)
        beat = count + np.maximum(np.maximum.accumulate(waits), 0)
        ends[:, lane] = beat[np.searchsorted(row, np.arange(passes), side="right") - 1]
        placed.append((beat, chosen[row, index], index))
    lengths = np.diff(ends.max(axis=1) + 1, prepend=0)
    shape = (int(lengths.sum()), lanes)
    stream = Stream(np.zeros(shape, np.int8), np.zeros(shape, np.int64), np.zeros(shape, bool), lengths)
    for lane, (beat, value, index) in enumerate(placed):
        stream.weight[beat, lane], stream.index[beat, lane] = value, index
        stream.last[ends[:, lane], lane] = True
    return stream


def unpack(stream: Stream, rows: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Undo ``pack``: int8 (O, I). BookError for an index beyond the inputs, or lanes with other numbers of rows."""
    if (largest := stream.index.max()) >= shape[1]:
        raise BookError(f"an entry is of the input {largest} where there are {shape[1]}; compress the matrix anew")
    if (stream.last.sum(axis=0) != len(rows)).any():
        raise BookError(f"a lane has more or fewer rows than {len(rows)}; compress the matrix anew")
    weight = np.zeros(shape, np.int8)
    for lane in range(rows.shape[1]):
        beats = np.flatnonzero(stream.weight[:, lane])
        passes = np.searchsorted(np.flatnonzero(stream.last[:, lane]), beats)
        weight[rows[passes, lane], stream.index[beats, lane]] = stream.weight[beats, lane]
    return weight


def compress(model: IntegerModel, layout: SparseLayout) -> Stream:
    """Return the entries of a whole model in the order of the computation; BookError for a model of another shape."""
    check(model)
    if model.shape != layout.shape:
        raise BookError(f"the core is laid out for {layout.shape}, the model has {model.shape}; lay it out anew")
    return _chained([pack(*matrix) for matrix in _matrices(model, layout)])


def _matrices(model: IntegerModel, layout: SparseLayout) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The arguments of ``pack`` for each matrix, four a layer and the head. The order: sparse_sequencer.sv."""
    C, R, N = model.shape.width, layout.lanes, layout.chunks

    def rows(first: int, passes: int) -> np.ndarray:
        return first + np.arange(passes * R).reshape(passes, R)

    def late(inputs: int, slices: int, beats: int) -> np.ndarray:
        """Slices that leave the lanes one after another are at least a slice's clocks apart."""
        return np.arange(inputs) // WAYS - R // WAYS * (slices - 1) + beats

    both = np.concatenate([rows(part + chunk, 1) for chunk in range(0, C, R) for part in (0, C)])
    qkv = np.concatenate([both, rows(2 * C, N)])
    norm, mix, hidden = late(C, 1, NORM_LATE), late(C, N, MIX_LATE), late(4 * C, 4 * N, HIDDEN_LATE)
    found = []
    for layer in model.layers:
        found += [(layer.qkv.weight, qkv, norm), (layer.out.weight, rows(0, N), mix)]
        found += [(layer.up.weight, rows(0, 4 * N), norm), (layer.down.weight, rows(0, N), hidden)]
    head = rows(0, layout.slices)
    return [*found, (model.head.weight, np.where(head < model.shape.vocab, head, -1), norm)]


def _chained(streams: Sequence[Stream]) -> Stream:
    parts = ([getattr(stream, name) for stream in streams] for name in ("weight", "index", "last", "lengths"))
    return Stream(*(np.concatenate(part) for part in parts))


# ---- Figures. ----


@dataclass(frozen=True)
class Packing:
    """How well the matrices of the blocks, Query to Down, are packed.

    weights: all of them, zeros too; entries: those that are not zero; stored: entries with those of weight 0 that fill
    up; beats: rows of entries; bits: of all that is stored; balance: the lanes' mean load by the largest one.
    """

    weights: int
    entries: int
    stored: int
    beats: int
    bits: int
    balance: float


def packing(model: IntegerModel, layout: SparseLayout) -> Packing:
    """Measure the compression of a model's blocks; the head, which is dense, is left out."""
    blocks = _matrices(model, layout)[:-1]
    stream = _chained([pack(*matrix) for matrix in blocks])
    loads = np.array([(weight[rows] != 0).sum(axis=(0, 2)) for weight, rows, _ in blocks])  # (4 N, R)
    return Packing(
        weights=sum(weight.size for weight, _, _ in blocks),
        entries=int(loads.sum()),
        stored=stream.weight.size,
        beats=len(stream.weight),
        bits=stream.weight.size * layout.entry_bits,
        balance=float(loads.mean(axis=1).sum() / loads.max(axis=1).sum()),
    )


# ---- The image. ----


def image(model: IntegerModel, layout: SparseLayout) -> Image:
    """Return all words of a model; BookError for one that is malformed, of another shape, or has too many weights.

    The words of entries lie in the order of their addresses: the core needs the lower half of a row before the upper.
    """
    stream = compress(model, layout)
    if len(stream.weight) > layout.entries:
        raise BookError(
            f"a lane needs {len(stream.weight)} entries where the core holds {layout.entries}; use SparseLayout.of"
        )
    return joined(
        [
            banked(Memory.WEIGHTS, _words(stream, layout)),
            banked(Memory.HEAD_WEIGHTS, (stream.lengths - 1).astype(np.uint64)[:, None]),  # here: lengths
            banked(Memory.DRAIN_PARAMETERS, _drained(model, layout)),
            *beside_the_lanes(model, Layout(model.shape, WAYS * model.shape.width)),
        ]
    )


def _words(stream: Stream, layout: SparseLayout) -> np.ndarray:
    """Put two lanes' entries into a word, the lower lane lowest: uint64 (T, R / 2)."""
    shape: Shape = layout.shape
    weight, index = bits(stream.weight, shape.weight_bits), stream.index.astype(np.uint64)
    entry = weight | index << np.uint64(shape.weight_bits)
    entry |= stream.last.astype(np.uint64) << np.uint64(layout.entry_bits - 1)
    return entry[:, ::2] | entry[:, 1::2] << np.uint64(layout.entry_bits)


def _drained(model: IntegerModel, layout: SparseLayout) -> np.ndarray:
    """Parameters of what passes the drain, as it leaves, uint64 (rows, WAYS): Query Key by chunks, Value, Up; Head."""
    C, R = model.shape.width, layout.lanes
    found: list[np.ndarray] = []
    for layer in model.layers:
        qkv = entries(layer.qkv)
        found += [qkv[part + chunk : part + chunk + R] for chunk in range(0, C, R) for part in (0, C)]
        found += [qkv[2 * C :], entries(layer.up)]
    found.append(np.pad(entries(model.head), (0, layout.slices * R - model.shape.vocab)))
    return np.concatenate(found).reshape(-1, WAYS)
