"""What an accelerator takes of an ONNX graph: which layers, in how many pieces, and how often data cross over.

An overlay has a list of operators. Every layer on the list may run on the accelerator, every other one falls
back to the CPU, and what counts is how the two kinds alternate: each connected piece of accelerated layers is
one *subgraph*, which the host starts, feeds and waits for. Two layers share a subgraph only if no path between
them leaves it, since otherwise the subgraph would wait for itself.

``Operators`` says what a target takes, ``partition`` cuts a graph by it, and ``lib.segments`` writes every
piece as an ONNX file of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Iterator, Mapping

import networkx as nx
import numpy as np
import onnx
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lib.errors import BookError
from lib.export import constants
from lib.graph import draw, fixed_values

CPU = "CPU"
Kinds = Callable[[onnx.NodeProto, Mapping[str, np.ndarray]], tuple[str, ...]]


@dataclass(frozen=True)
class Operators:
    """What a target takes: the kinds of layer it has, by the names of its own compiler.

    ``kinds`` maps a node, given the graph's constants by name, to the layers the compiler makes of it: a
    convolution with a bias is two for some. ``source`` says where the list is from.
    """

    device: str
    accepted: frozenset[str]
    kinds: Kinds
    source: str


@dataclass(frozen=True)
class Layer:
    """What a compiler counts: a graph input (node None), or a node of the graph, or a part of one."""

    number: int
    kind: str
    node: int | None


@dataclass(frozen=True)
class Segment:
    """Layers that run on one device without a break: one subgraph of the accelerator, or a stretch on the CPU."""

    device: str
    layers: tuple[Layer, ...]

    @property
    def nodes(self) -> list[int]:
        return sorted({layer.node for layer in self.layers if layer.node is not None})


@dataclass(frozen=True)
class Partition:
    """A graph cut for a device: its segments, in an order of execution."""

    device: str
    segments: tuple[Segment, ...]

    @property
    def subgraphs(self) -> tuple[Segment, ...]:
        return tuple(segment for segment in self.segments if segment.device == self.device)

    @property
    def layers(self) -> int:
        return sum(len(segment.layers) for segment in self.segments)

    @property
    def layers_on_device(self) -> int:
        return sum(len(segment.layers) for segment in self.subgraphs)

    @property
    def crossings(self) -> int:
        """How often data cross over in one run: to the device and back, for each subgraph that the host starts."""
        return 2 * len(self.subgraphs)

    def devices(self) -> dict[int, str]:
        """Return the device of every node that has a layer there, by the node's number."""
        return {node: segment.device for segment in self.segments for node in segment.nodes}


def partition(
    model: onnx.ModelProto, operators: Operators, needs: str | None = None, largest_only: bool = False
) -> Partition:
    """Cut a graph for a target.

    ``needs`` names a kind that a subgraph must hold to be worth starting, a convolution, say: an engineer
    leaves other subgraphs on the CPU. ``largest_only`` keeps the largest subgraph alone, as pyxir does.
    BookError for a graph without nodes.
    """
    if not model.graph.node:
        raise BookError("the graph has no nodes to partition; export it again")
    reads = layer_graph(model, operators)
    subgraphs = [group for group in _clusters(reads, operators.accepted) if needs is None or needs in _kinds(group)]
    if largest_only:
        subgraphs = sorted(subgraphs, key=len, reverse=True)[:1]  # of equals the first, since sorting is stable
    return Partition(operators.device, tuple(_schedule(reads, subgraphs, operators.device)))


def _kinds(group: frozenset[Layer]) -> set[str]:
    return {layer.kind for layer in group}


def layer_graph(model: onnx.ModelProto, operators: Operators) -> nx.DiGraph:
    """Return the layers of a graph and who reads whom, constants left out: edges go from maker to reader."""
    fixed, values = fixed_values(model), constants(model)
    graph, makers = nx.DiGraph(), {}
    for value in model.graph.input:
        if value.name not in fixed:
            makers[value.name] = Layer(len(graph), "Input", None)
            graph.add_node(makers[value.name])
    for number, node in enumerate(model.graph.node):
        if set(node.output) <= fixed:
            continue
        above = {makers[name] for name in node.input if name in makers}
        for kind in operators.kinds(node, values):
            layer = Layer(len(graph), kind, number)
            graph.add_node(layer)
            graph.add_edges_from((maker, layer) for maker in above)
            above = {layer}
        makers.update(dict.fromkeys(node.output, layer))
    return graph


def _clusters(reads: nx.DiGraph, accepted: frozenset[str]) -> list[frozenset[Layer]]:
    """Join accepted layers into subgraphs: along an edge, unless another path joins its ends as well.

    Such a path would pass through what is outside, and the graph of subgraphs would have a cycle. Where it
    passes through accepted layers alone they are joined first, so we go on until nothing changes.
    """
    groups = nx.relabel_nodes(reads, {layer: frozenset({layer}) for layer in reads})

    def joinable() -> Iterator[tuple[frozenset[Layer], frozenset[Layer]]]:
        for maker, reader in groups.edges:
            if _kinds(maker | reader) <= accepted:
                others = (other for other in groups.successors(maker) if other != reader)
                if not any(nx.has_path(groups, other, reader) for other in others):
                    yield maker, reader

    while (edge := next(joinable(), None)) is not None:
        maker, reader = edge
        merged = nx.contracted_nodes(groups, maker, reader, self_loops=False, copy=False)
        nx.relabel_nodes(merged, {maker: maker | reader}, copy=False)
    return [group for group in nx.topological_sort(groups) if _kinds(group) <= accepted]


def _schedule(reads: nx.DiGraph, subgraphs: list[frozenset[Layer]], device: str) -> Iterator[Segment]:
    """Order the segments: the CPU does all that it can, then the next subgraph that is ready runs."""
    waiting, done = list(subgraphs), set()
    elsewhere = set().union(*subgraphs)
    left = [layer for layer in nx.topological_sort(reads) if layer not in elsewhere]
    while left or waiting:
        now = []
        for layer in left:
            if set(reads.predecessors(layer)) <= done:
                now.append(layer)
                done.add(layer)
        left = [layer for layer in left if layer not in done]
        if now:
            yield Segment(CPU, tuple(now))
        for group in waiting:
            if all(set(reads.predecessors(layer)) - group <= done for layer in group):
                yield Segment(device, tuple(sorted(group, key=lambda layer: layer.number)))
                done |= group
                waiting.remove(group)
                break


# ---- The picture. ----

COLOURS = {CPU: "#dddddd"}
DEVICE_COLOUR = "#56b4e9"


def draw_partition(axes: Axes, model: onnx.ModelProto, cut: Partition, block: int | None, title: str) -> None:
    """Draw one block, or the whole graph, as ``lib.graph.draw`` does: nodes coloured by their device."""
    devices = cut.devices()
    names = {model.graph.node[number].name: device for number, device in devices.items()}
    draw(axes, model, block, title, lambda node: COLOURS.get(names.get(node.name, CPU), DEVICE_COLOUR))


def legend(figure: Figure, device: str) -> None:
    """Explain the colours."""
    patches = [
        Patch(facecolor=colour, edgecolor="#555555", label=name)
        for name, colour in ((device, DEVICE_COLOUR), (CPU, COLOURS[CPU]))
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=2, fontsize=8)
