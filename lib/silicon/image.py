"""From an integer model to what a core's memories hold: addressed words, in any order.

The core reads weights at an address that only counts, so their order here is the order of the computation in
``hw/rtl/core/sequencer.sv``, and a lane's weights are those of the output, or the input, that it works on.

Shapes in the comments: N layers, C width, V alphabet; R columns, G groups, B beats of a pass (C / G).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Sequence

import numpy as np

from lib.errors import BookError
from lib.silicon.golden import IntegerModel, Product, Shape, check


class Memory(IntEnum):
    """The core's memories, as load_address_i names them in its upper four bits."""

    WEIGHTS = 0  # a bank is eight lanes
    HEAD_WEIGHTS = 1
    DRAIN_PARAMETERS = 2  # a bank is one requantiser
    TREE_PARAMETERS = 3  # a bank is one group, here and in TOKEN and POSITION
    GELU = 4
    TOKEN = 5
    POSITION = 6
    RSQRT = 7
    SETTINGS = 8


@dataclass(frozen=True)
class Layout:
    """A core for models of one shape. Raises BookError for a combination that no core has.

    lanes: multipliers; drain: requantisers that empty them; ultra: UltraRAM for weights, keys and values.
    """

    MOST_LANES: ClassVar[int] = 2048  # a word to load names its bank, eight lanes wide, in eight bits

    shape: Shape
    lanes: int
    drain: int = 8
    ultra: bool = False

    def __post_init__(self) -> None:
        shape, lanes, head = self.shape, self.lanes, self.shape.head_width
        if head < 8 or head & head - 1:
            raise BookError(f"a head is {head} wide; the core needs a power of two from 8 up")
        if lanes < head or lanes % head:
            raise BookError(f"LANES is {lanes}; it must be a multiple of the head's width, {head}")
        if shape.width % self.columns or lanes % self.columns or self.groups & self.groups - 1:
            raise BookError(f"LANES is {lanes}; it must divide the width, {shape.width}, or be 1, 2 or 4 times as much")
        if self.groups > 4 or shape.width < 4 * self.groups:
            most = min(4, shape.width // 4) * shape.width
            raise BookError(f"LANES is {lanes}; a width of {shape.width} feeds {most} at most")
        if shape.block <= self.groups:
            raise BookError(f"the block is {shape.block}; {self.groups} groups of lanes need a longer one")
        if lanes > self.MOST_LANES:
            raise BookError(f"LANES is {lanes}; the load port tells the banks of {self.MOST_LANES} lanes apart")
        if self.drain not in (1, 2, 4, 8):
            raise BookError(f"DRAIN is {self.drain}; it must be 1, 2, 4 or 8")
        if shape.vocab > 256:
            raise BookError(f"the vocabulary has {shape.vocab} tokens; the core's eight bits tell 256 apart")
        if self.weight_rows > 1 << 20:
            raise BookError(f"a lane would hold {self.weight_rows} weights, 2^20 are the most; raise LANES")

    @property
    def columns(self) -> int:
        return min(self.lanes, self.shape.width)

    @property
    def groups(self) -> int:
        return self.lanes // self.columns

    @property
    def chunks(self) -> int:
        return self.shape.width // self.columns

    @property
    def beats(self) -> int:
        return self.shape.width // self.groups

    @property
    def slices(self) -> int:
        """Passes of the head."""
        return -(-self.shape.vocab // self.columns)

    @property
    def weight_rows(self) -> int:
        return self.shape.layers * 12 * self.chunks * self.beats

    def parameters(self) -> dict[str, int]:
        """Return the parameters of ``core.sv``."""
        shape = self.shape
        sizes = {"LAYERS": shape.layers, "WIDTH": shape.width, "HEADS": shape.heads, "BLOCK": shape.block}
        sizes |= {"VOCAB": shape.vocab, "WEIGHT_W": shape.weight_bits}
        return {"LANES": self.lanes, **sizes, "DRAIN": self.drain, "ULTRA": int(self.ultra)}


@dataclass(frozen=True)
class Image:
    """Words for the load port. address: uint32 (N,), memory, bank (8 bits) and row (20 bits); data: uint64 (N,)."""

    address: np.ndarray
    data: np.ndarray


def image(model: IntegerModel, layout: Layout) -> Image:
    """Return all words of a model for a core of its shape; BookError for a model that is malformed or of another."""
    check(model)
    if model.shape != layout.shape:
        raise BookError(f"the core is laid out for {layout.shape}, the model has {model.shape}; lay it out anew")
    return joined(
        [
            banked(Memory.WEIGHTS, _words(_passes(model, layout), model.shape.weight_bits)),
            banked(Memory.HEAD_WEIGHTS, _words(_head_passes(model, layout), model.shape.weight_bits)),
            banked(Memory.DRAIN_PARAMETERS, _drained(model, layout)),
            *beside_the_lanes(model, layout),
        ]
    )


Part = tuple[np.ndarray, np.ndarray]  # addresses and data, as in an Image


def beside_the_lanes(model: IntegerModel, layout: Layout) -> list[Part]:
    """Return what is in no lane: the stream's memories, in as many banks as ``layout`` has groups, and all tables."""
    return [
        banked(Memory.TREE_PARAMETERS, _summed(model, layout)),
        banked(Memory.GELU, bits(np.concatenate([layer.gelu for layer in model.layers]), 8)[:, None]),
        banked(Memory.TOKEN, _table(model.token, layout)),
        banked(Memory.POSITION, _table(model.position, layout)),
        banked(Memory.RSQRT, bits(model.rsqrt, 16)[:, None]),
        banked(Memory.SETTINGS, _settings(model)[:, None]),
    ]


def joined(parts: Sequence[Part]) -> Image:
    """Make one image of parts."""
    return Image(*(np.concatenate(part) for part in zip(*parts)))


def banked(memory: Memory, data: np.ndarray) -> Part:
    """Address words, uint64 (rows, banks)."""
    rows, banks = data.shape
    row, bank = np.mgrid[:rows, :banks].astype(np.uint32)
    return (np.uint32(memory << 28) | bank << np.uint32(20) | row).ravel(), data.ravel()


def bits(values: np.ndarray, width: int) -> np.ndarray:
    """Cut signed integers to so many bits, in two's complement: uint64 of the same shape."""
    return values.astype(np.int64).view(np.uint64) & np.uint64((1 << width) - 1)


# ---- Weights. ----


def _outputs(weight: np.ndarray, row: int, layout: Layout) -> np.ndarray:
    """The pass that makes R outputs from ``row`` on, of int8 (O, C): what each lane reads, int8 (B, G, R)."""
    return weight[row : row + layout.columns].T.reshape(layout.beats, layout.groups, layout.columns)


def _inputs(weight: np.ndarray, column: int, layout: Layout) -> np.ndarray:
    """The pass that takes R inputs from ``column`` on, of int8 (C, I): int8 (B, G, R)."""
    return weight[:, column : column + layout.columns].reshape(layout.beats, layout.groups, layout.columns)


def _passes(model: IntegerModel, layout: Layout) -> np.ndarray:
    """The weights of all layers in the order of their passes: int8 (rows, G, R)."""
    C, R = model.shape.width, layout.columns
    found: list[np.ndarray] = []
    for layer in model.layers:
        for chunk in range(0, C, R):
            found += [_outputs(layer.qkv.weight, part + chunk, layout) for part in (0, C, 2 * C)]
        found += [_inputs(layer.out.weight, chunk, layout) for chunk in range(0, C, R)]
        up = [_outputs(layer.up.weight, slice_, layout) for slice_ in range(0, 4 * C, R)]
        down = [_inputs(layer.down.weight, slice_, layout) for slice_ in range(0, 4 * C, R)]
        found.append(up[0])
        for next_up, previous_down in zip(up[1:], down):
            found += [next_up, previous_down]
        found.append(down[-1])
    return np.concatenate(found)


def _head_passes(model: IntegerModel, layout: Layout) -> np.ndarray:
    """The head's weights, with zeros for outputs beyond the alphabet: int8 (rows, G, R)."""
    rows = layout.slices * layout.columns
    weight = np.pad(model.head.weight, ((0, rows - model.shape.vocab), (0, 0)))
    return np.concatenate([_outputs(weight, row, layout) for row in range(0, rows, layout.columns)])


def _words(weights: np.ndarray, width: int) -> np.ndarray:
    """Put eight lanes' weights into a word, the lowest lane lowest: (rows, G, R) to uint64 (rows, G R / 8)."""
    lanes = bits(weights, width).reshape(len(weights), -1, 8)
    return (lanes << (np.arange(8, dtype=np.uint64) * np.uint64(width))).sum(axis=2, dtype=np.uint64)


# ---- Everything else. ----


def entries(product: Product) -> np.ndarray:
    """Bias, 24 bits, above multiplier, 16 bits, of each output: uint64 (O,)."""
    return bits(product.bias, 24) << np.uint64(16) | product.multiplier.astype(np.uint64)


def _drained(model: IntegerModel, layout: Layout) -> np.ndarray:
    """Parameters of the first dataflow's outputs as they leave, uint64 (rows, DRAIN)."""
    C, R = model.shape.width, layout.columns
    found: list[np.ndarray] = []
    for layer in model.layers:
        qkv = entries(layer.qkv)
        found += [qkv[part + chunk : part + chunk + R] for chunk in range(0, C, R) for part in (0, C, 2 * C)]
        found.append(entries(layer.up))
    found.append(np.pad(entries(model.head), (0, layout.slices * R - model.shape.vocab)))
    return np.concatenate(found).reshape(-1, layout.drain)


def _summed(model: IntegerModel, layout: Layout) -> np.ndarray:
    """Parameters of the second dataflow's outputs as they leave, uint64 (2 N B, G)."""
    found = [entries(product) for layer in model.layers for product in (layer.out, layer.down)]
    return np.concatenate(found).reshape(-1, layout.groups)


def _table(table: np.ndarray, layout: Layout) -> np.ndarray:
    """Embeddings int8 (rows, C): uint64 (words, G), each row padded to a power of two of words."""
    spread = bits(table, 8).reshape(len(table), layout.beats, layout.groups)
    padding = (1 << (layout.beats - 1).bit_length()) - layout.beats
    return np.pad(spread, ((0, 0), (0, padding), (0, 0))).reshape(-1, layout.groups)


def _settings(model: IntegerModel) -> np.ndarray:
    """Numbers of each layer, and behind them those of the whole model: uint64 (N + 1,)."""
    rows = [
        _fields(
            *((layer.qkv.shift, 6), (layer.out.shift, 6), (layer.up.shift, 6), (layer.down.shift, 6)),
            *((layer.score_shift, 6), (layer.mix_shift, 2), (layer.score_multiplier, 16)),
        )
        for layer in model.layers
    ]
    rows.append(_fields((model.epsilon, 32), (model.rsqrt_shift, 6), (model.embed_shift, 4), (model.head.shift, 6)))
    return np.array(rows, np.uint64)


def _fields(*fields: tuple[int, int]) -> int:
    """Put (value, width) pairs side by side, the first one lowest."""
    word = place = 0
    for value, width in fields:
        word |= value << place
        place += width
    return word
