"""Which layers an accelerator takes, in how many pieces, what they cost, and that the pieces compute the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import networkx as nx
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from lib import export, offload, segments
from lib.errors import BookError
from lib.gpt import GPT, GPTConfig
from lib.ort import session
from lib.partition import CPU, Operators, layer_graph, partition

SMALL = GPTConfig(n_layer=2, n_head=2, n_embd=32, block=16)
TAKES = Operators("X", frozenset({"Relu", "Add"}), lambda node, values: (node.op_type,), "these tests")


def vector(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [4])


def graph_of(edges: list[tuple[int, int]], taken: list[bool]) -> onnx.ModelProto:
    """Make a graph of one node each: Relu or Add where ``taken``, else Neg or Mul, reading the makers in ``edges``."""
    nodes = []
    for number, accelerated in enumerate(taken):
        makers = [f"t{a}" for a, b in edges if b == number] or ["x"]
        kinds = ("Relu", "Add") if accelerated else ("Neg", "Mul")
        kind = kinds[0] if len(makers) == 1 else kinds[1]
        nodes.append(helper.make_node(kind, makers[:2], [f"t{number}"], f"n{number}"))
    read = {name for node in nodes for name in node.input}
    outputs = [vector(f"t{number}") for number in range(len(taken)) if f"t{number}" not in read]
    return helper.make_model(
        helper.make_graph(nodes, "random", [vector("x")], outputs), opset_imports=[helper.make_opsetid("", 17)]
    )


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    size = draw(st.integers(1, 14))
    taken = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    edges = []
    for number in range(1, size):
        makers = draw(st.lists(st.integers(0, number - 1), max_size=2, unique=True))
        edges += [(maker, number) for maker in makers]
    return graph_of(edges, taken)


@given(graphs())
def test_subgraphs_are_convex_and_segments_run_in_order(model: onnx.ModelProto) -> None:
    """Every accepted layer is in one subgraph; no path leaves a subgraph and returns; inputs come before readers."""
    cut, reads = partition(model, TAKES), layer_graph(model, TAKES)
    accelerated = [layer for segment in cut.subgraphs for layer in segment.layers]
    assert sorted(layer.number for layer in accelerated) == sorted(n.number for n in reads if n.kind in TAKES.accepted)
    assert cut.layers == len(reads) and cut.layers_on_device == len(accelerated)
    done: set[int] = set()
    for segment in cut.segments:
        members = set(segment.layers)
        done |= {layer.number for layer in members}
        assert all(maker.number in done for layer in members for maker in reads.predecessors(layer))
        if segment.device == "X":
            outside = set().union(*(nx.descendants(reads, m) for m in members)) - members
            assert all(not (nx.descendants(reads, layer) & members) for layer in outside)


def test_joining_stops_where_a_subgraph_would_wait_for_itself() -> None:
    """Relu -> Neg -> Add, and the Relu straight to the Add: two subgraphs. Without the Neg: one."""
    diamond = [(0, 1), (1, 2), (0, 2)]
    cut = partition(graph_of(diamond, [True, False, True]), TAKES)
    assert [(s.device, len(s.layers)) for s in cut.segments] == [(CPU, 1), ("X", 1), (CPU, 1), ("X", 1)]
    assert cut.crossings == 4
    joined = partition(graph_of(diamond, [True, True, True]), TAKES)
    assert [len(s.layers) for s in joined.subgraphs] == [3]
    assert partition(graph_of(diamond, [True, False, True]), TAKES, largest_only=True).crossings == 2
    assert partition(graph_of(diamond, [True, False, True]), TAKES, needs="Add").layers_on_device == 1
    assert partition(graph_of(diamond, [True, True, True]), TAKES, needs="Conv").crossings == 0


@given(graphs(), st.integers(0, 2**31))
def test_pieces_compute_what_the_whole_graph_does(model: onnx.ModelProto, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal(4).astype(np.float32)
    names = [value.name for value in model.graph.output]
    whole = onnx_run(model, {"x": x}, names)
    tensors = {"x": x}
    for piece, part in segments.split(model, model, partition(model, TAKES)):
        made = onnx_run(part, {name: tensors[name] for name in piece.inputs}, piece.outputs)
        tensors.update(zip(piece.outputs, made))
    for name, value in zip(names, whole):
        np.testing.assert_array_equal(tensors[name], value)


def onnx_run(model: onnx.ModelProto, feeds: dict[str, np.ndarray], names: list[str]) -> list[np.ndarray]:
    return session(model.SerializeToString(), threads=1).run(names, feeds)


def test_a_graph_without_nodes_or_of_other_names_is_refused() -> None:
    empty = graph_of([], [True])
    del empty.graph.node[:]
    with pytest.raises(BookError, match="no nodes"):
        partition(empty, TAKES)
    one, other = graph_of([(0, 1)], [True, False]), graph_of([(0, 1)], [True, False])
    other.graph.node[1].name = "stranger"
    with pytest.raises(BookError, match="stranger is not in the graph"):
        segments.split(other, one, partition(one, TAKES))


# ---- What a token costs. ----

OVERLAY = offload.Overlay("X", 100, 1e6, 4, 1e8, 1e-3, 1e6, {})
PRODUCTS = Operators("X", frozenset({"MatMul"}), lambda node, values: (node.op_type,), "these tests")


@pytest.fixture(scope="module")
def step(random_model: Callable[..., GPT], tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    return onnx.load(export.export_step(random_model(SMALL), tmp_path_factory.mktemp("step") / "step.onnx"))


def test_work_is_counted_from_the_graph(step: onnx.ModelProto) -> None:
    """All products on the device: its MACs are the model's weights and attention; nothing is left to the CPU."""
    cut = partition(step, PRODUCTS)
    counted = offload.works(step, cut)
    weights = 2 * 12 * 32 * 32 + 97 * 32
    attention = 2 * 2 * 32 * 16
    device = [work for work in counted if work.segment.device == "X"]
    assert sum(work.macs for work in device) == weights + attention
    assert sum(work.weight_bytes for work in device) == weights
    assert sum(work.macs for work in counted if work.segment.device == CPU) == 0


def test_a_gemm_s_weight_may_lie_either_way(tmp_path: Path) -> None:
    """PyTorch exports a linear layer with its weight turned, (out, in)."""
    path = export.export_part(torch.nn.Linear(16, 64), torch.randn(1, 16), tmp_path / "gemm.onnx")
    graph = onnx.load(path)
    assert [node.op_type for node in graph.graph.node] == ["Gemm"]
    gemm = Operators("X", frozenset({"Gemm"}), lambda node, values: (node.op_type,), "these tests")
    assert [work.macs for work in offload.works(graph, partition(graph, gemm)) if work.macs] == [16 * 64]


def test_a_convolution_is_counted_with_its_kernel_its_bias_and_its_pixels(tmp_path: Path) -> None:
    graph = onnx.load(export.export_part(torch.nn.Conv2d(3, 8, 3), torch.randn(1, 3, 18, 18), tmp_path / "conv.onnx"))
    conv = Operators("X", frozenset({"Conv"}), lambda node, values: (node.op_type,), "these tests")
    (work,) = [work for work in offload.works(graph, partition(graph, conv)) if work.macs]
    assert (work.macs, work.weight_bytes, work.pixels) == (8 * 16 * 16 * 27, 8 * 27 + 8, 16 * 16)


def test_data_cross_over_half_in_and_half_out() -> None:
    graph = onnx.shape_inference.infer_shapes(graph_of([(0, 1), (1, 2)], [False, True, False]))
    counted = offload.works(graph, partition(graph, TAKES))
    assert [work.moved_bytes for work in counted] == [0, 8, 0]
    seconds = [span.seconds for span in offload.timeline(OVERLAY, counted) if span.device == offload.CROSSING]
    assert seconds == pytest.approx([1e-3 + 4e-8] * 2)


def test_the_timeline_adds_up_and_can_be_turned_round(step: onnx.ModelProto) -> None:
    cut = partition(step, PRODUCTS)
    counted = offload.works(step, cut)
    spans = offload.timeline(OVERLAY, counted)
    assert all(a.start + a.seconds == pytest.approx(b.start) for a, b in zip(spans, spans[1:]))
    total = offload.token_seconds(OVERLAY, counted)
    assert spans[-1].start + spans[-1].seconds == pytest.approx(total)
    assert sum(span.device == offload.CROSSING for span in spans) == cut.crossings == offload.crossings(counted)
    weights, attention = 2 * 12 * 32 * 32 + 97 * 32, 2 * 2 * 32 * 16
    assert offload.cpu_only_seconds(OVERLAY, counted) == pytest.approx((weights + attention) / 1e6)
    assert offload.crossing_for(OVERLAY, counted, total) == pytest.approx(OVERLAY.crossing_s)
    assert offload.token_seconds(OVERLAY.with_crossing(2e-3), counted) == pytest.approx(total + 1e-3 * cut.crossings)
    for refused in (lambda: offload.crossing_for(OVERLAY, counted, 1e-9), lambda: OVERLAY.with_crossing(float("nan"))):
        with pytest.raises(BookError):
            refused()


def test_a_single_pixel_leaves_the_others_idle_and_memory_may_be_the_bound() -> None:
    segment = partition(graph_of([], [True]), TAKES).subgraphs[0]
    busy = offload.Work(segment, 10**6, 0, 4, 0)
    assert offload.device_seconds(OVERLAY, busy) == pytest.approx(1e6 / 1e8)
    assert offload.device_seconds(OVERLAY, offload.Work(segment, 10**6, 0, 1, 0)) == pytest.approx(4e6 / 1e8)
    assert offload.device_seconds(OVERLAY, offload.Work(segment, 1, 10**8, 4, 0)) == pytest.approx(1.0)


def test_the_roofline_is_the_errata_page_s() -> None:
    b4096 = offload.Overlay("DPU", 2048, 300e6, 8, 19.2e9, 0, 1, {})
    config = GPTConfig(n_layer=6, n_head=6, n_embd=384, block=256)
    weights = 12 * 6 * 384**2 + 97 * 384
    assert offload.roofline_seconds(b4096, config, weights) == pytest.approx(0.555e-3, rel=1e-3)
    assert offload.roofline_seconds(b4096, config, weights, cached=False) == pytest.approx(4.686e-3, rel=1e-3)
