"""Any number of bits in an ONNX file: QONNX, and what becomes of it in standard ONNX (QCDQ).

Standard ONNX rounds with QuantizeLinear to whole types. QONNX (Pappalardo et al. 2022) has one node,
``Quant``, that rounds to any number of bits and says how; its own package executes it, and FPGA
compilers (FINN, hls4ml) read it. QCDQ says the same to ordinary runtimes as far as they can hear it:
QuantizeLinear to eight bits, a Clip to the few levels that are meant, DequantizeLinear.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Callable

import numpy as np
import onnx
import torch
from brevitas.export import export_onnx_qcdq
from brevitas.export import export_qonnx as brevitas_export_qonnx
from onnxscript import optimizer
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.infer_shapes import InferShapes

from lib.deploy import DeployedGPT
from lib.errors import BookError
from lib.evaluate import Logits
from lib.export import constants, load_onnx, quiet_exporter, random_tokens, save_onnx, static_logits
from lib.files import atomic_write

DOMAIN = "qonnx.custom_op.general"


def export_qonnx(
    model: DeployedGPT, path: str | os.PathLike[str], opset: int = 17, batch: int = 2, time: int | None = None
) -> Path:
    """Write a quantised model (``lib.lowbit``) over windows (batch, time) with QONNX's Quant nodes."""
    graph = _export(brevitas_export_qonnx, model, opset, batch, time)
    graph = ModelWrapper(graph).transform(InferShapes()).model  # ONNX's own inference stops at foreign nodes
    with atomic_write(path) as file:
        file.write(graph.SerializeToString())
    return Path(path)


def export_qcdq(
    model: DeployedGPT, path: str | os.PathLike[str], opset: int = 17, batch: int = 16, time: int | None = None
) -> Path:
    """Write a quantised model (``lib.lowbit``) with QuantizeLinear, Clip and DequantizeLinear.

    Raises BookError for binary weights, which have no such form.
    """
    try:
        save_onnx(_export(export_onnx_qcdq, model, opset, batch, time), path)
    except AssertionError as error:
        raise BookError(f"QCDQ cannot say what this model does ({error}); export it as QONNX") from None
    return Path(path)


def _export(
    export: Callable[..., Any], model: DeployedGPT, opset: int, batch: int, time: int | None
) -> onnx.ModelProto:
    tokens = random_tokens((batch, time or model.config.block), model.config.vocab)
    with quiet_exporter(), torch.no_grad(), TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(
            model,
            args=tokens,
            export_path=str(path),
            opset_version=opset,
            input_names=["tokens"],
            output_names=["logits"],
            keep_initializers_as_inputs=False,  # else ONNX Runtime warns of each
            dynamo=False,
        )
        return optimizer.optimize(onnx.load(path))  # folds shape arithmetic


def qonnx_logits(path: str | os.PathLike[str]) -> Logits:
    """Make a route of a QONNX file, executed node by node by the qonnx package: exact, and slow."""
    graph, signature = load_onnx(path)
    wrapped = ModelWrapper(graph)
    return static_logits(lambda tokens: execute_onnx(wrapped, {"tokens": tokens})["logits"], signature)


@dataclass(frozen=True)
class QuantNode:
    """What one Quant or BipolarQuant node says."""

    name: str
    bits: float
    signed: bool
    narrow: bool
    rounding: str
    scales: int
    zero_point: float


def quant_nodes(model: onnx.ModelProto) -> list[QuantNode]:
    """List a QONNX graph's quantisers in the order of execution."""
    values = constants(model)
    return [_quant_node(node, values) for node in model.graph.node if node.domain == DOMAIN]


def _quant_node(node: onnx.NodeProto, values: dict[str, np.ndarray]) -> QuantNode:
    scales = values[node.input[1]].size
    if node.op_type == "BipolarQuant":
        return QuantNode(node.name, 1, True, True, "sign", scales, 0.0)
    said = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    zero_point, bits = (float(values[name]) for name in node.input[2:4])
    return QuantNode(
        node.name, bits, bool(said["signed"]), bool(said["narrow"]), said["rounding_mode"].decode(), scales, zero_point
    )
