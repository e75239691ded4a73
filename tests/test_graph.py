"""The drawing of a block: every node once, readers below what they read."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import matplotlib.pyplot as plt
import onnx
import pytest

from lib import export, graph
from lib.errors import BookError
from lib.gpt import GPT, GPTConfig

SMALL = GPTConfig(n_layer=2, n_head=2, n_embd=32, block=16)


def test_readers_lie_below_and_every_node_is_drawn(random_model: Callable[..., GPT], tmp_path: Path) -> None:
    model = random_model(SMALL)
    saved = onnx.load(export.export_prefill(model, tmp_path / "m.onnx", batch=1))
    nodes = graph.block_nodes(saved, 1)
    depth = graph.layers(nodes, graph.fixed_values(saved))
    assert min(depth) == 0
    for index, above in enumerate(graph.sources(nodes)):
        assert all(depth[source] < depth[index] for source in above)
    kinds = [graph.kind(node.op_type) for node in nodes]
    assert (kinds.count("product"), kinds.count("normalise"), kinds.count("quantise")) == (6, 3, 0)
    figure, axes = plt.subplots()
    graph.draw(axes, saved, 1, "block 1")
    drawn = [label.get_text() for label in axes.texts if label.get_text()]
    plt.close(figure)
    assert sorted(drawn) == sorted(node.op_type for node in nodes)
    with pytest.raises(BookError, match="no nodes named after block 2"):
        graph.block_nodes(saved, 2)
