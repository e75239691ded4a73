"""A partitioned graph in pieces: every segment an ONNX model of its own, and a manifest that says how they follow.

Where the graph is quantised, the cut goes through the integers: a QuantizeLinear stays with what made its
input, a DequantizeLinear goes with what reads its output (a copy for each segment), so that what crosses
from device to device has eight bits, as on the hardware.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from onnx.utils import Extractor

from lib.errors import BookError
from lib.export import constants, save_onnx
from lib.files import sha256, write_json
from lib.gpt import GPTConfig
from lib.graph import fixed_values
from lib.partition import Partition
from lib.pieces import MANIFEST, Piece


def assign(model: onnx.ModelProto, plain: onnx.ModelProto, cut: Partition) -> dict[str, int]:
    """Return the segment of every node of ``model``, by the node's name.

    ``cut`` partitions ``plain``, the graph from which ``model`` came by adding quantisers and keeping the other
    nodes' names. BookError if a node of ``model`` is neither a quantiser nor among ``plain``'s.
    """
    segments = {plain.graph.node[n].name: i for i, segment in enumerate(cut.segments) for n in segment.nodes}
    makers = {output: node.name for node in model.graph.node for output in node.output}
    fixed = fixed_values(model)
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and makers.get(node.input[0]) in segments:
            segments[node.name] = segments[makers[node.input[0]]]
    for node in model.graph.node:
        known = node.name in segments or set(node.output) <= fixed
        if not known and node.op_type != "DequantizeLinear":
            raise BookError(f"the node {node.name} is not in the graph that was partitioned; partition the right one")
    return segments


def with_own_dequantisers(model: onnx.ModelProto, segments: dict[str, int]) -> onnx.ModelProto:
    """Return a copy in which every segment has its own DequantizeLinear for each integer tensor it reads.

    The copies' segments are added to ``segments``.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    fixed = fixed_values(model)
    dequantisers = {
        node.output[0]: node
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.output[0] not in fixed
    }
    del copy.graph.node[:]
    for node in model.graph.node:
        if node.output[0] in dequantisers:
            continue
        reader = copy.graph.node.add()
        reader.CopyFrom(node)
        if set(node.output) <= fixed:
            continue
        segment = segments[node.name]
        for slot, name in enumerate(node.input):
            if name in dequantisers:
                own = f"{name}_of_{segment}"
                if own not in segments:
                    segments[own] = segment
                    clone = onnx.NodeProto()
                    clone.CopyFrom(dequantisers[name])
                    clone.name, clone.output[0] = own, own
                    copy.graph.node.insert(len(copy.graph.node) - 1, clone)
                reader = copy.graph.node[-1]
                reader.input[slot] = own
    return copy


def fix_points(model: onnx.ModelProto) -> dict[str, int]:
    """Return the fix point of every quantised activation, whose scale is 2 to its negative.

    BookError for a scale that is no power of two.
    """
    values, points = constants(model), {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            exponent = -np.log2(values[node.input[1]])
            if exponent != np.rint(exponent):
                raise BookError(f"{node.name} has a scale that is no power of two; quantise with lib.vitis.quantise")
            points[node.output[0]] = int(exponent)
    return points


def split(model: onnx.ModelProto, plain: onnx.ModelProto, cut: Partition) -> list[tuple[Piece, onnx.ModelProto]]:
    """Cut ``model`` along ``cut``, the partition of the graph ``plain`` that it came from."""
    segments = assign(model, plain, cut)
    whole = with_own_dequantisers(model, segments)
    whole = onnx.shape_inference.infer_shapes(whole, strict_mode=True, data_prop=True)
    makers = {output: segments[n.name] for n in whole.graph.node if n.name in segments for output in n.output}
    makers |= {value.name: -1 for value in whole.graph.input}
    readers: dict[str, set[int]] = {value.name: {-1} for value in whole.graph.output}
    for node in whole.graph.node:
        for name in node.input:
            if name in makers and node.name in segments:
                readers.setdefault(name, set()).add(segments[node.name])
    scales = fix_points(whole)
    extractor, pieces = Extractor(whole), []
    for number, segment in enumerate(cut.segments):
        inputs = [t for t, maker in makers.items() if maker != number and number in readers.get(t, ())]
        outputs = [t for t, maker in makers.items() if maker == number and readers.get(t, set()) - {number}]
        if outputs:
            points = {name: scales[name] for name in (*inputs, *outputs) if name in scales}
            piece = Piece(segment.device, f"{number:02d}_{segment.device.lower()}", inputs, outputs, points)
            pieces.append((piece, extractor.extract_model(inputs, outputs)))
    return pieces


def write(folder: Path, pieces: list[tuple[Piece, onnx.ModelProto]], config: GPTConfig) -> None:
    """Write every piece as ``<name>.onnx`` and the manifest that ``lib.pieces`` reads, the manifest last."""
    entries = []
    for piece, model in pieces:
        path = folder / f"{piece.name}.onnx"
        save_onnx(model, path)
        entries.append(dataclasses.asdict(piece) | {"sha256": sha256(path)})
    write_json(folder / MANIFEST, {"config": dataclasses.asdict(config), "pieces": entries})
