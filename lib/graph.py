"""Drawing one block of an exported graph: nodes in the order they depend on each other, coloured by kind."""

from __future__ import annotations

from typing import Callable, Sequence

import onnx
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lib.errors import BookError

KINDS = {  # colours of Okabe and Ito's palette, light enough for black text
    "product": ("#56b4e9", ("MatMul", "Gemm")),
    "quantise": ("#e69f00", ("QuantizeLinear", "DequantizeLinear", "Quant", "BipolarQuant", "Clip")),
    "normalise": ("#66c7a8", ("LayerNormalization", "Softmax")),
    "element by element": ("#dddddd", ("Add", "Mul", "Div", "Erf", "Gelu", "Where", "Not", "Trilu", "Cast")),
    "move only": ("#ffffff", ()),  # all the rest: Reshape, Transpose, Slice, Split, ...
}


def block_nodes(model: onnx.ModelProto, block: int | None) -> list[onnx.NodeProto]:
    """Return the nodes of one block, which the TorchScript exporter names after their modules; None means all nodes.

    Later passes give some nodes names of their own, but keep those of their outputs.
    """
    place = "" if block is None else f"/blocks.{block}/"
    nodes = [n for n in model.graph.node if (place in n.name or place in n.output[0]) and n.op_type != "Constant"]
    if not nodes:
        raise BookError(f"the graph has no nodes named after block {block}; export it with dynamo=False")
    return nodes


def kind(op_type: str) -> str:
    """Return the kind of a node, one of ``KINDS``."""
    return next((name for name, (_, types) in KINDS.items() if op_type in types), "move only")


def sources(nodes: Sequence[onnx.NodeProto]) -> list[list[int]]:
    """Return, for each node, the nodes it reads."""
    maker = {output: index for index, node in enumerate(nodes) for output in node.output}
    return [[maker[name] for name in node.input if name in maker] for node in nodes]


def fixed_values(model: onnx.ModelProto) -> set[str]:
    """Return the names of all values that rest on constants alone; an absent optional input counts, as ''."""
    fixed = {tensor.name for tensor in model.graph.initializer} | {""}
    for node in model.graph.node:
        if set(node.input) <= fixed:
            fixed.update(node.output)
    return fixed


def layers(nodes: Sequence[onnx.NodeProto], constants: set[str]) -> list[int]:
    """Return each node's layer: one below the deepest it reads; if it rests on constants alone, just above its reader.

    ``nodes`` are in an order of execution, as every valid graph has them.
    """
    reads = sources(nodes)
    fixed = [set(node.input) <= constants for node in nodes]
    depth: list[int] = []
    for above in reads:
        depth.append(1 + max((depth[source] for source in above if not fixed[source]), default=-1))
    for index in reversed(range(len(nodes))):
        readers = [depth[other] for other, above in enumerate(reads) if index in above]
        if fixed[index] and readers:
            depth[index] = min(readers) - 1
    return [layer - min(depth) for layer in depth]


def kind_colour(node: onnx.NodeProto) -> str:
    return KINDS[kind(node.op_type)][0]


def draw(
    axes: Axes,
    model: onnx.ModelProto,
    block: int | None,
    title: str,
    colour: Callable[[onnx.NodeProto], str] = kind_colour,
) -> None:
    """Draw one block from top to bottom, with a line for every value that passes between two of its nodes.

    ``block`` None draws the whole graph; ``colour`` chooses each node's, by default by its kind.
    """
    nodes = block_nodes(model, block)
    depth = layers(nodes, fixed_values(model))
    rows: dict[int, list[int]] = {}
    for index, layer in enumerate(depth):
        rows.setdefault(layer, []).append(index)
    place = {i: (x - (len(row) - 1) / 2, -layer) for layer, row in rows.items() for x, i in enumerate(row)}
    for index, above in enumerate(sources(nodes)):
        for source in above:
            bent = 0.35 if depth[index] - depth[source] > 1 else 0.0  # around the nodes in between
            style = {"arrowstyle": "-", "connectionstyle": f"arc3,rad={bent}", "color": "#888888", "lw": 0.7}
            axes.annotate("", place[index], place[source], arrowprops=style | {"shrinkA": 0, "shrinkB": 0}, zorder=1)
    for index, node in enumerate(nodes):
        box = {
            "boxstyle": "round,pad=0.25",
            "facecolor": colour(node),
            "edgecolor": "#555555",
            "lw": 0.6,
        }
        axes.text(*place[index], node.op_type, fontsize=5.5, ha="center", va="center", bbox=box, zorder=2)
    axes.set(title=title, xlim=(-2, 2), ylim=(-max(depth) - 0.7, 0.7))
    axes.axis("off")


def legend(figure: Figure) -> None:
    """Explain the colours."""
    patches = [Patch(facecolor=colour, edgecolor="#555555", label=name) for name, (colour, _) in KINDS.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=5, fontsize=7)
