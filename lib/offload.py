"""What falling back to the CPU costs: a small model of one token through an overlay and its host.

A token passes through the segments of a ``lib.partition.Partition`` in turn. Each takes

* on the accelerator the longer of its arithmetic at peak rate and its weights over the memory's bandwidth
  (they do not fit on the chip, so every token fetches them again), never both overlapped with the host;
* on the CPU its multiplications at the CPU's rate;
* at each crossing a fixed cost, for starting the accelerator or being woken by it, and the data over the
  same memory.

The fixed cost is the one number that no document gives, so everything is shown as a band over it. What is left
out flatters the CPU: it does softmax, normalisation and the copying of its cache for nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx

from lib.errors import BookError
from lib.export import constants
from lib.gpt import GPTConfig, attention_macs
from lib.partition import CPU, Partition, Segment


@dataclass(frozen=True)
class Overlay:
    """An accelerator and its host; every figure with where it is from in ``sources``."""

    name: str
    macs_per_cycle: int
    clock_hz: float
    pixels: int  # image pixels it works on at once: a graph that has one pixel leaves the others idle
    bytes_per_s: float
    crossing_s: float  # fixed cost of one crossing: assumed
    cpu_macs_per_s: float  # of the host
    sources: dict[str, str]

    def with_crossing(self, seconds: float) -> Overlay:
        if not 0 <= seconds < math.inf:
            raise BookError(f"a crossing of {seconds} s is negative or not finite; give seconds of 0 or more")
        return replace(self, crossing_s=seconds)


@dataclass(frozen=True)
class Work:
    """What one segment does: multiplications, weights in bytes, pixels at once, and the data it takes and gives."""

    segment: Segment
    macs: int
    weight_bytes: int
    pixels: int
    moved_bytes: int


@dataclass(frozen=True)
class Span:
    """A stretch of the timeline, in seconds: device is the accelerator's name, CPU, or a crossing."""

    device: str
    start: float
    seconds: float
    what: str


CROSSING = "crossing"
PRODUCTS = ("Conv", "Gemm", "MatMul")


def works(model: onnx.ModelProto, cut: Partition) -> list[Work]:
    """Count the work of every segment from the graph's shapes; weights and data count one byte a value (INT8).

    BookError for a graph without shapes.
    """
    values = constants(model)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in _values(model)}
    shapes |= {name: list(value.shape) for name, value in values.items()}
    makers = {name: number for number, node in enumerate(model.graph.node) for name in node.output}
    where = {node: index for index, segment in enumerate(cut.segments) for node in segment.nodes}
    return [_work(model, segment, index, values, shapes, makers, where) for index, segment in enumerate(cut.segments)]


def _values(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return [*model.graph.value_info, *model.graph.input, *model.graph.output]


def _work(
    model: onnx.ModelProto,
    segment: Segment,
    index: int,
    values: dict[str, np.ndarray],
    shapes: dict[str, list[int]],
    makers: dict[str, int],
    where: dict[int, int],
) -> Work:
    macs, weights, pixels, taken, given = 0, 0, 1, set(), set()
    for number in segment.nodes:
        node = model.graph.node[number]
        missing = [name for name in (*node.input, *node.output) if name and name not in shapes]
        if missing:
            raise BookError(f"the graph has no shape for {missing[0]}; write it with lib.export, which infers them")
        if node.op_type in PRODUCTS:
            macs += _macs(node, shapes)
            weights += sum(values[name].size for name in node.input[1:] if name in values)
        if node.op_type == "Conv":
            pixels = max(pixels, math.prod(shapes[node.output[0]][2:]))
        taken |= {name for name in node.input if name in makers and where.get(makers[name], index) != index}
        given |= {name for name in node.output if _read_elsewhere(model, name, where, index)}
    moved = sum(math.prod(shapes[name]) for name in taken | given) if segment.device != CPU else 0
    return Work(segment, macs, weights, pixels, moved)


def _macs(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    """Count the multiply-accumulates of a product: one for each output and each value summed for it."""
    outputs, operand = shapes[node.output[0]], shapes[node.input[1]]
    turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)  # of a Gemm: (out, in)
    summed = math.prod(operand[1:]) if node.op_type == "Conv" else operand[-1 if turned else -2]
    return math.prod(outputs) * summed


def _read_elsewhere(model: onnx.ModelProto, name: str, where: dict[int, int], index: int) -> bool:
    readers = (number for number, node in enumerate(model.graph.node) if name in node.input)
    return any(where.get(number, index) != index for number in readers)


def timeline(overlay: Overlay, works: list[Work]) -> list[Span]:
    """Return one token's spans in order: CPU, crossing, accelerator, crossing, CPU and so on."""
    spans: list[Span] = []

    def add(device: str, seconds: float, what: str) -> None:
        start = spans[-1].start + spans[-1].seconds if spans else 0.0
        spans.append(Span(device, start, seconds, what))

    for work in works:
        what = "+".join(
            layer.kind for layer in work.segment.layers if layer.kind in ("Convolution", "Eltwise", "Softmax")
        )
        if work.segment.device == CPU:
            add(CPU, work.macs / overlay.cpu_macs_per_s, what)
        else:
            crossing = overlay.crossing_s + work.moved_bytes / overlay.bytes_per_s / 2  # half in, half out
            add(CROSSING, crossing, "in")
            add(overlay.name, device_seconds(overlay, work), what)
            add(CROSSING, crossing, "out")
    return spans


def device_seconds(overlay: Overlay, work: Work) -> float:
    """Return what a subgraph takes on the accelerator: arithmetic, or fetching its weights, whichever is longer."""
    slowdown = overlay.pixels / min(overlay.pixels, work.pixels)  # a single pixel keeps one part in ``pixels`` busy
    arithmetic = work.macs * slowdown / (overlay.macs_per_cycle * overlay.clock_hz)
    return max(arithmetic, work.weight_bytes / overlay.bytes_per_s)


def token_seconds(overlay: Overlay, works: list[Work]) -> float:
    return sum(span.seconds for span in timeline(overlay, works))


def cpu_only_seconds(overlay: Overlay, works: list[Work]) -> float:
    """Return a token's time, s, with everything on the CPU, by the same count: what the accelerator must beat."""
    return sum(work.macs for work in works) / overlay.cpu_macs_per_s


def crossings(works: list[Work]) -> int:
    """Count a token's crossings: one into each subgraph of the accelerator and one out of it."""
    return 2 * sum(work.segment.device != CPU for work in works)


def crossing_for(overlay: Overlay, works: list[Work], seconds: float) -> float:
    """Return the fixed cost of a crossing at which a token takes ``seconds``: the model turned round.

    BookError if the token takes longer than that even when crossings are free, or crosses nothing.
    """
    free = token_seconds(overlay.with_crossing(0.0), works)
    count = crossings(works)
    if not count or free > seconds:
        raise BookError(f"no crossing cost gives {seconds} s: {count} crossings, and {free:.3g} s without any")
    return (seconds - free) / count


def roofline_seconds(overlay: Overlay, config: GPTConfig, weights: int, cached: bool = True) -> float:
    """Return the least time of a token on the accelerator alone, if it could do everything: no host, no crossings.

    ``weights`` is the number of weights that every token multiplies (one byte each). cached: with a full KV
    cache; else the whole window is computed again for each token. Arithmetic or bandwidth, whichever is longer.
    """
    peak = overlay.macs_per_cycle * overlay.clock_hz
    if cached:
        return max((weights + attention_macs(config, config.block)) / peak, weights / overlay.bytes_per_s)
    attention = sum(attention_macs(config, context) for context in range(1, config.block + 1))
    return max((config.block * weights + attention) / peak, weights / overlay.bytes_per_s)
