"""QONNX says what the quantised model does, and both forms compute what it computes."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import numpy as np
import onnx
import pytest

from lib import export, lowbit, qonnx
from lib.errors import BookError
from lib.evaluate import torch_logits
from lib.gpt import GPT, GPTConfig
from lib.lowbit import BITS

SMALL = GPTConfig(n_layer=1, n_head=2, n_embd=32, block=16)


@pytest.fixture(scope="module")
def model(random_model: Callable[..., GPT]) -> GPT:
    return random_model(SMALL)


def tokens(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, SMALL.vocab, (count, SMALL.block))


@pytest.mark.parametrize("bits", ["w4a8", "binary"])
def test_qonnx_computes_what_brevitas_does(model: GPT, tmp_path: Path, bits: str) -> None:
    quantised = lowbit.quantise(model, BITS[bits], tokens(4))
    path = qonnx.export_qonnx(quantised, tmp_path / "q.onnx")
    np.testing.assert_allclose(qonnx.qonnx_logits(path)(tokens(3)), torch_logits(quantised)(tokens(3)), atol=1e-4)
    nodes = qonnx.quant_nodes(onnx.load(path))
    weights = [node for node in nodes if "weight_quant" in node.name]
    inputs = [node for node in nodes if "input_quant" in node.name]
    assert len(weights) == len(inputs) == 5
    assert sorted(node.bits for node in weights) == ([4] * 5 if bits == "w4a8" else [1, 1, 1, 1, 8])
    assert all(node.narrow and node.signed and node.scales > 1 for node in weights)
    assert all(node.bits == 8 and node.scales == 1 for node in inputs)
    assert [node.signed for node in inputs].count(False) == 1  # behind GELU
    with pytest.raises(BookError, match="ONNX Runtime does not take"):
        export.onnx_logits(path)


def test_qcdq_computes_what_brevitas_does_and_keeps_its_weights_in_bytes(model: GPT, tmp_path: Path) -> None:
    quantised = lowbit.quantise(model, BITS["w4a8"], tokens(4))
    path = qonnx.export_qcdq(quantised, tmp_path / "q.onnx", batch=2)
    np.testing.assert_allclose(export.onnx_logits(path)(tokens(3)), torch_logits(quantised)(tokens(3)), atol=1e-4)
    counts = export.node_counts(onnx.load(path))
    assert (counts["QuantizeLinear"], counts["DequantizeLinear"]) == (5, 10)
    stored = [
        value for value in export.constants(onnx.load(path)).values() if value.dtype == np.int8 and value.ndim == 2
    ]
    assert len(stored) == 5 and max(np.abs(value.astype(int)).max() for value in stored) == 7


def test_binary_weights_have_no_qcdq(model: GPT, tmp_path: Path) -> None:
    quantised = lowbit.quantise(model, BITS["binary"], tokens(4))
    with pytest.raises(BookError, match="export it as QONNX"):
        qonnx.export_qcdq(quantised, tmp_path / "q.onnx")
