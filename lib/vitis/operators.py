"""What the DPU of the ZCU104 takes, as pyxir 0.3.5 has it: recorded from a real run, or asked of pyxir itself.

pyxir is the front end that AMD's TVM flow uses to cut graphs for its DPUs. The package index has an empty
placeholder of it; the real one is built from source, so here it is optional. Where it can be imported
``ask_pyxir`` does; where not, the table below answers, and ``recorded`` has what the real one answered for
five small graphs, which the table must reproduce.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Mapping

import numpy as np
import onnx
import torch.nn as nn
from onnx import version_converter
from torch import Tensor

from lib.errors import BookError
from lib.partition import Operators

TARGET = "DPUCZDX8G-zcu104"
RECORDED_VERSION = "0.3.5"

ACCEPTED = frozenset(
    "BatchNorm BiasAdd Cast Concat Convolution Conv2DTranspose DPU Eltwise Maximum Pad Pooling Mean LeakyReLU pReLU "
    "ReLU ReLU6 Scale Upsampling2D Dropout".split()
)

_PLAIN = {  # operators of ONNX that become one layer under one name
    "BatchNormalization": "BatchNorm",
    "Cast": "Cast",
    "Concat": "Concat",
    "Pad": "Pad",
    "MaxPool": "Pooling",
    "AveragePool": "Pooling",
    "GlobalAveragePool": "Pooling",
    "ReduceMean": "Mean",
    "Relu": "ReLU",
    "LeakyRelu": "LeakyReLU",
    "PRelu": "pReLU",
    "Max": "Maximum",
    "Upsample": "Upsampling2D",
    "Resize": "Upsampling2D",
    "Dropout": "Dropout",
}
_WITH_BIAS = {"Conv": "Convolution", "ConvTranspose": "Conv2DTranspose", "Gemm": "Dense"}
_ELEMENTWISE = {"Add": "BiasAdd", "Sub": "BiasAdd", "Mul": "Scale", "Div": "Scale"}  # with a constant


def kinds(node: onnx.NodeProto, values: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Name the layers that pyxir makes of a node of ONNX; what it has no layer for keeps ONNX's name."""
    if node.op_type in _WITH_BIAS:
        bias = len(node.input) > 2 and node.input[2] != ""
        return (_WITH_BIAS[node.op_type], "BiasAdd") if bias else (_WITH_BIAS[node.op_type],)
    if node.op_type in _ELEMENTWISE:
        if any(name in values for name in node.input):
            return (_ELEMENTWISE[node.op_type],)
        return ("Eltwise",) if node.op_type == "Add" else (node.op_type,)
    if node.op_type == "Clip":
        ends = [float(values[name]) for name in node.input[1:] if name in values]
        return ("ReLU6",) if ends == [0.0, 6.0] else ("Clip",)
    return (_PLAIN.get(node.op_type, node.op_type),)


DPU = Operators("DPU", ACCEPTED, kinds, f"pyxir {RECORDED_VERSION}, target {TARGET}, recorded")


@dataclass(frozen=True)
class Answer:
    """What is said of a graph: layers on the DPU, all layers, subgraphs."""

    on_dpu: int
    layers: int
    subgraphs: int


def has_pyxir() -> bool:
    """Whether the real pyxir is installed, not the placeholder of the package index."""
    try:
        import pyxir
    except ImportError:
        return False
    return hasattr(pyxir, "partition")


def ask_pyxir(path: Path) -> Answer:
    """Let pyxir partition an ONNX file for the ZCU104's DPU, after converting it to opset 11, the one it reads.

    Raises BookError where pyxir is absent, or cannot import the graph, as happens to every part of a Transformer
    that is not made of convolutions.
    """
    if not has_pyxir():
        raise BookError("pyxir is not installed; build it from its source, or go by the recorded table")
    import pyxir
    import pyxir.contrib.target.DPUCZDX8G  # noqa: F401 (importing it registers the target)
    from pyxir.frontend.onnx import from_onnx

    try:
        graph = pyxir.partition(from_onnx(version_converter.convert_version(onnx.load(path), 11)), [TARGET])
    except Exception as error:  # it fails with whatever the conversion of an operator raises
        raise BookError(
            f"pyxir cannot import {path.name} ({type(error).__name__}: {error}); rewrite the graph"
        ) from None
    layers = graph.get_layers()
    taken = [layer for layer in layers if layer.target == TARGET]
    return Answer(len(taken), len(layers), len({layer.subgraph for layer in taken}))


# ---- The five small graphs whose partitions are recorded. ----


class FeedForwardConv(nn.Module):
    """A feed-forward with ReLU, rewritten as 1x1 convolutions, and its residual add."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(width, 4 * width, 1), nn.Conv2d(4 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


class Gram(nn.Module):
    """A product of two activations, as in attention."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ x.transpose(1, 2)


@dataclass(frozen=True)
class Recorded:
    """A small graph, the shape of its input, and what pyxir 0.3.5 answered for it."""

    module: nn.Module
    shape: tuple[int, ...]
    answer: Answer


def recorded() -> dict[str, Recorded]:
    """Return the five graphs: a small CNN, an MLP of Linears, a feed-forward of convolutions, softmax, x x^T."""
    cnn = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, 10),
    )
    mlp = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
    return {
        "cnn": Recorded(cnn, (1, 3, 18, 18), Answer(7, 11, 1)),
        "mlp": Recorded(mlp, (1, 16), Answer(2, 6, 1)),
        "ffn_conv": Recorded(FeedForwardConv(16), (1, 16, 1, 1), Answer(6, 7, 1)),
        "softmax": Recorded(nn.Softmax(dim=1), (1, 16), Answer(0, 2, 0)),
        "gram": Recorded(Gram(), (1, 8, 16), Answer(0, 3, 0)),
    }
