"""What Altera's FPGA AI Suite takes onto the FPGA, by its published tables, and what that leaves of a graph.

Sources, in the order of their rows: ``HANDBOOK`` down to H-swish, ``MANUAL_2024`` from Sigmoid to the elementwise
multiplication, ``MANUAL_2023`` for DepthToSpace. Each table was read as far as a public copy holds it; the handbook's
own rows from Sigmoid on, and whatever any table lists after DepthToSpace, could not be read and are left out. So
elementwise addition is absent below although ResNet-50, which needs it, is among the suite's supported models (the
manual's 2025.1, section 2.1; none of them is a Transformer): it is unknown, not refused, and ``operators`` takes it
either way. The tables name layers, not ONNX operators: the mapping is this book's. An architecture file may enable
fewer layers than the tables list; what is not supported becomes a subgraph for the CPU (Handbook, section 7.4.3.2).
Only the suite's own compiler has the last word.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Mapping

import numpy as np
import onnx

from lib.export import constants
from lib.offload import Overlay
from lib.partition import Operators

HANDBOOK = "FPGA AI Suite Handbook (863373), 2025.3, 21 November 2025, section 6.2.1, Table 15"
MANUAL_2024 = "FPGA AI Suite IP Reference Manual (768974), 2024.2, 6 September 2024, section 2.4"
MANUAL_2023 = "Intel FPGA AI Suite IP Reference Manual (768974), 2023.3, 1 December 2023, section 2.3"
PERFORMANCE = "FPGA AI Suite IP Reference Manual (768974), 2024.1, section 2.2"
CARD = "Intel PAC with Arria 10 GX, data sheet (DS-1054)"
A10_FP16_PERFORMANCE = {"alm": 84_200, "ff": 254_000, "m20k": 1_482, "dsp": 1_162}  # by PERFORMANCE
GX1150 = {"alm": 427_200, "ff": 1_708_800, "m20k": 2_713, "dsp": 1_518}  # all that the largest Arria 10 GX has


@dataclass(frozen=True)
class Layer:
    """A row of a table: the layer's name there, its limits, and the document."""

    name: str
    limits: str
    source: str


_CONVOLUTION = (
    "2D: filter 1 to 28 wide and high (14 by default); 3D: also 1 to 14 deep, if it fits the filter cache; stride up "
    "to 15, padding up to 2^16 - 1; depthwise as 2D"
)
_TRANSPOSED = (
    "filter as convolution, depth 1; stride 1, 2, 4 or 8, the same both ways; padding up to the filter less one"
)
_MULTIPLICATION = "feature by filter or by feature; sizes are expanded where necessary; depth 1"

LAYERS: dict[str, Layer] = {  # by ONNX operator
    "Gemm": Layer("Fully connected", "", HANDBOOK),
    "Conv": Layer("2D, 3D and depthwise convolution", _CONVOLUTION, HANDBOOK),
    "BatchNormalization": Layer("Scale-shift", "scale and bias in the range of FP16", HANDBOOK),
    "ConvTranspose": Layer("Deconvolution", _TRANSPOSED, HANDBOOK),
    "Relu": Layer("ReLU", "", HANDBOOK),
    "PRelu": Layer("pReLU", "one slope a channel, depth 1", HANDBOOK),
    "LeakyRelu": Layer("Leaky ReLU", "one slope a tensor", HANDBOOK),
    "Clip": Layer("Clamp", "one pair of limits a tensor", HANDBOOK),
    "HardSigmoid": Layer("H-sigmoid", "", HANDBOOK),
    "HardSwish": Layer("H-swish", "", HANDBOOK),
    "Sigmoid": Layer("Sigmoid", "range of FP16", MANUAL_2024),
    "Swish": Layer("Swish", "range of FP16", MANUAL_2024),
    "Tanh": Layer("Tanh", "range of FP16", MANUAL_2024),
    "MaxPool": Layer("Max pool", "window up to 13 x 13 x 13; padding 1 or 2; stride 1 to 4", MANUAL_2024),
    "AveragePool": Layer(
        "Average pool", "square window up to 27 x 27, depth 1 or 2; padding 1 or 2; stride 1 to 4", MANUAL_2024
    ),
    "Softmax": Layer("Softmax", "at most 4096 channels", MANUAL_2024),
    "Mul": Layer("Elementwise multiplication", _MULTIPLICATION, MANUAL_2024),
    "DepthToSpace": Layer("DepthToSpace, PixelShuffle", "block_mode blocks_first", MANUAL_2023),
}


_ROWS = LAYERS | {  # by what ``operator`` calls a node
    "MatMul by a constant": LAYERS["Gemm"],
    "Add of a constant": LAYERS["BatchNormalization"],  # a scale of one, and a bias
}
UNREAD = ("Add of two activations",)  # no row that was read has it, and a supported model needs it


def operator(node: onnx.NodeProto, values: Mapping[str, np.ndarray]) -> str:
    """Name a node as the tables tell nodes apart: its type, and of Add and MatMul what they join.

    ``values`` holds the graph's constants by name. A product of two activations, as attention has them, is no row's;
    one by a constant is a fully connected layer.
    """
    if node.op_type == "MatMul":
        return "MatMul by a constant" if node.input[1] in values else "MatMul of two activations"
    if node.op_type == "Add":
        return "Add of a constant" if any(name in values for name in node.input) else UNREAD[0]
    return node.op_type


def operators(with_add: bool) -> Operators:
    """Return what the suite takes, for ``lib.partition``: the rows that were read, and ``UNREAD`` too if assumed."""
    assumed = UNREAD if with_add else ()
    return Operators(
        device="FPGA",
        accepted=frozenset({*_ROWS, *assumed}),
        kinds=lambda node, values: (operator(node, values),),
        source="; ".join((HANDBOOK, MANUAL_2024, MANUAL_2023, *(f"assumed: {name}" for name in assumed))),
    )


@dataclass(frozen=True)
class Verdict:
    """How many nodes of one kind a graph has, and the row that takes them; None if no row that was read does."""

    operator: str
    nodes: int
    layer: Layer | None


def assess(model: onnx.ModelProto) -> list[Verdict]:
    """Hold a graph against the tables, operator by operator, the most frequent first.

    The limits are for the reader to check: this looks at types alone.
    """
    values = constants(model)
    counts = Counter(operator(node, values) for node in model.graph.node if node.op_type != "Constant")
    return [Verdict(name, count, _ROWS.get(name)) for name, count in counts.most_common()]


def arria10(cpu_macs_per_s: float, crossing_s: float = 50e-6) -> Overlay:
    """Return the suite's largest engine for Arria 10 as ``lib.offload`` wants it, computing in FP16."""
    return Overlay(
        name="FPGA",
        macs_per_cycle=2 * A10_FP16_PERFORMANCE["dsp"],
        clock_hz=280e6,
        pixels=1,
        bytes_per_s=17.1e9 / 2,
        crossing_s=crossing_s,
        cpu_macs_per_s=cpu_macs_per_s,
        sources={
            "macs_per_cycle": f"assumed: two for each DSP block of {PERFORMANCE}",
            "clock_hz": PERFORMANCE,
            "pixels": "assumed: one pixel keeps every multiplier busy",
            "bytes_per_s": f"assumed: one of two banks of DDR4-2133, {CARD}; halved, as FP16 has two bytes and "
            "lib.offload counts one",
            "crossing_s": "assumed",
            "cpu_macs_per_s": "the caller's",
        },
    )
