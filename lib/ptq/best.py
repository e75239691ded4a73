"""The book's own recipe: turn the basis first, so that nothing stands out, then give every input its best range.

1. ``lib.deploy.rotate``: LayerNorm folded, residual stream and values in a random orthogonal basis.
2. Ranges of least mean squared error, from the histograms of ``lib.ptq.observe``.
3. ONNX Runtime's quantiser writes the file, with these ranges in place of its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from lib.affine import Grid
from lib.deploy import DeployedGPT, linears, rotate
from lib.evaluate import Logits
from lib.export import onnx_logits
from lib.ptq.graph import prepare
from lib.ptq.observe import mse, observe
from lib.ptq.ort import insert_qdq


def quantise(model: DeployedGPT, windows: np.ndarray, path: Path) -> Logits:
    """Quantise every Linear's input and weight to int8; everything else, outputs too, stays float."""
    turned = rotate(model)
    grids = {name: mse(activity) for name, activity in observe(turned, windows).items()}
    prepared = prepare(turned, path)
    products = products_by_linear(onnx.load(prepared), turned)
    overrides = {node.input[0]: [_override(grids[name])] for name, node in products.items()}
    insert_qdq(
        prepared,
        windows,
        path,
        nodes_to_quantize=[node.name for node in products.values()],
        extra_options={"TensorQuantOverrides": overrides, "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
    )
    prepared.unlink()
    return onnx_logits(path)


def products_by_linear(graph: onnx.ModelProto, model: DeployedGPT) -> dict[str, onnx.NodeProto]:
    """Find the node that multiplies each Linear's weight: they come in the order in which the model runs."""
    constants = {tensor.name for tensor in graph.graph.initializer}
    products = [n for n in graph.graph.node if n.op_type in ("MatMul", "Gemm") and n.input[1] in constants]
    return dict(zip(linears(model), products, strict=True))


def _override(grid: Grid) -> dict[str, np.ndarray]:
    """Move a grid of 0 to 255 down by 128, to int8: the same steps, under other names."""
    return {"scale": np.array(grid.scale, np.float32), "zero_point": np.array(grid.zero - 128, np.int8)}
