#!/usr/bin/env python3
"""Turn the DPU's pieces, quantised ONNX files, into XIR graphs for the Vitis AI compiler.

    python3 to_xmodel.py FOLDER        (in the Vitis AI 3.0 container; compile.sh calls it)

For each ``NN_dpu.onnx`` of FOLDER it writes ``NN_dpu.xir``: one ``data`` operator for each input, ``fix``
operators where the ONNX file has a pair of QuantizeLinear and DequantizeLinear, and ``conv2d``, ``relu`` and
``add`` between them, in the DPU's order of dimensions, NHWC. It needs numpy, onnx and AMD's xir alone. The
lowering follows XIR's published operators; it has been tested against a recorder of the calls, and never
against xir itself, which only the container has.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


def refuse(sentence):
    """End with one sentence and the status of a refusal."""
    print(f"error: {sentence}", file=sys.stderr)
    raise SystemExit(2)


def xir_name(name):
    """Return a tensor's name as AMD's quantisers write it in XIR: letters and digits, underscores for the rest."""
    return re.sub("[^0-9A-Za-z]", "_", name)


class Lowering:
    """One piece on its way from ONNX to XIR: ``ops`` has the XIR operator behind every ONNX tensor."""

    def __init__(self, model, graph):
        self.model, self.graph = model, graph
        self.values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant":
                self.values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.ops = {}

    def lower(self):
        """Create every operator of the piece in its XIR graph."""
        scales = {node.input[0]: node.input[1] for node in self.model.graph.node if node.op_type == "DequantizeLinear"}
        for value in self.model.graph.input:
            n, c, h, w = (dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
            data = self.graph.create_op(
                xir_name(value.name), "data", {"shape": [n, h, w, c], "data_type": "FLOAT32"}, {}
            )
            self.ops[value.name] = self.fix(data, value.name, scales[value.name])
        for node in self.model.graph.node:
            {"Conv": self.conv, "Relu": self.relu, "Add": self.add}.get(node.op_type, self.quantiser)(node)

    def fix(self, op, name, scale):
        """Round to eight signed bits with a step of 2^-fix_point, as the DPU does."""
        exponent = -np.log2(self.values[scale])
        if exponent != np.rint(exponent):
            refuse(f"{name} has a scale that is no power of two; quantise it with lib.vitis.build")
        attributes = {"fix_point": int(exponent), "bit_width": 8, "if_signed": True, "round_mode": "DPU_ROUND"}
        return self.graph.create_op(xir_name(name) + "_fix", "fix", attributes, {"input": [op]})

    def quantiser(self, node):
        if node.op_type not in QUANTISERS and node.op_type != "Constant":
            refuse(f"{node.name} is a {node.op_type}, which the DPU lacks; partition again")
        if node.op_type == "QuantizeLinear":
            self.ops[node.output[0]] = self.fix(self.ops[node.input[0]], node.output[0], node.input[1])
        elif (
            node.op_type == "DequantizeLinear" and node.input[0] in self.values
        ):  # a weight or a bias, stored as integers
            self.values[node.output[0]] = self.values[node.input[0]] * self.values[node.input[1]]
            self.ops[node.output[0]] = self.constant(node)
        elif node.op_type == "DequantizeLinear":
            self.ops[node.output[0]] = self.ops[node.input[0]]

    def constant(self, node):
        value = self.values[node.output[0]].astype(np.float32)
        if value.ndim == 4:
            value = np.ascontiguousarray(value.transpose(0, 2, 3, 1))  # OIHW to OHWI
        return self.fix(self.graph.create_const_op(xir_name(node.output[0]), value), node.output[0], node.input[1])

    def conv(self, node):
        inputs = dict(zip(("input", "weights", "bias"), ([self.ops[name]] for name in node.input)))
        attributes = {"kernel": [1, 1], "stride": [1, 1], "dilation": [1, 1], "pad": [0, 0, 0, 0], "pad_mode": "FLOOR"}
        self.ops[node.output[0]] = self.graph.create_op(xir_name(node.output[0]), "conv2d", attributes, inputs)

    def relu(self, node):
        self.ops[node.output[0]] = self.graph.create_op(
            xir_name(node.output[0]), "relu", {}, {"input": [self.ops[node.input[0]]]}
        )

    def add(self, node):
        operands = {"input": [self.ops[name] for name in node.input]}
        self.ops[node.output[0]] = self.graph.create_op(xir_name(node.output[0]), "add", {}, operands)


def main():
    if len(sys.argv) != 2 or not list(Path(sys.argv[1]).glob("*_dpu.onnx")):
        refuse("give a folder of pieces, made with python -m lib.vitis.build")
    try:
        import xir
    except ImportError:
        refuse("xir cannot be imported; run this in the Vitis AI 3.0 container")
    for path in sorted(Path(sys.argv[1]).glob("*_dpu.onnx")):
        graph = xir.Graph(path.stem)
        Lowering(onnx.load(str(path)), graph).lower()
        graph.serialize(str(path.with_suffix(".xir")))
        print(path.with_suffix(".xir"))


if __name__ == "__main__":
    main()
