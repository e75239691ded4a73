"""The book's own recipe: turn the basis first, so that nothing stands out, then give every input its best range.

1. ``lib.deploy.rotate``: LayerNorm folded, residual stream and values in a random orthogonal basis.
2. Ranges of least mean squared error, from the histograms of ``lib.ptq.observe``.
3. ONNX Runtime's quantiser writes the file, with these ranges in place of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader

from lib.affine import Grid
from lib.deploy import DeployedGPT, deploy, linears, rotate
from lib.evaluate import Logits
from lib.export import export_step, onnx_logits
from lib.gpt import GPT
from lib.ptq import check_windows
from lib.ptq.graph import prepare
from lib.ptq.observe import mse, observe
from lib.ptq.ort import write_qdq


def quantise(model: DeployedGPT, windows: np.ndarray, path: Path) -> Logits:
    """Quantise every Linear's input and weight to int8; everything else, outputs too, stays float."""
    turned = rotate(model)
    _quantise_linears(turned, windows, prepare(turned, path), path)
    return onnx_logits(path)


def quantise_step(model: GPT, windows: np.ndarray, path: str | os.PathLike[str]) -> Path:
    """Write the step graph of ``model`` (see ``lib.export``), batch 1, with the integers of ``quantise``; return it.

    The ranges are observed on the full pass over windows (N, block), int64: a step sees the same values, one
    position at a time. Raises BookError for windows that are no calibration set for the model.
    """
    check_windows(windows, model)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    turned = rotate(deploy(model))
    _quantise_linears(turned, windows, prepare(turned, path, export_step), path)
    return path


def _quantise_linears(turned: DeployedGPT, windows: np.ndarray, prepared: Path, path: Path) -> None:
    """Quantise a prepared graph of ``turned``, whichever it is, to ``path``; the prepared file goes."""
    grids = {name: mse(activity) for name, activity in observe(turned, windows).items()}
    graph = onnx.load(prepared)
    products = products_by_linear(graph, turned)
    overrides = {node.input[0]: [_override(grids[name])] for name, node in products.items()}
    write_qdq(
        prepared,
        _Zeros(graph),
        path,
        nodes_to_quantize=[node.name for node in products.values()],
        extra_options={"TensorQuantOverrides": overrides, "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
    )
    prepared.unlink()


class _Zeros(CalibrationDataReader):
    """One pass over zeros: the quantiser insists on calibrating, and every range is already given."""

    def __init__(self, model: onnx.ModelProto) -> None:
        weights = {tensor.name for tensor in model.graph.initializer}
        types = {v.name: v.type.tensor_type for v in model.graph.input if v.name not in weights}
        shapes = {name: [dimension.dim_value for dimension in kind.shape.dim] for name, kind in types.items()}
        self.feeds = iter(
            [{n: np.zeros(shapes[n], helper.tensor_dtype_to_np_dtype(kind.elem_type)) for n, kind in types.items()}]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def products_by_linear(graph: onnx.ModelProto, model: DeployedGPT) -> dict[str, onnx.NodeProto]:
    """Find the node that multiplies each Linear's weight: they come in the order in which the model runs."""
    constants = {tensor.name for tensor in graph.graph.initializer}
    products = [n for n in graph.graph.node if n.op_type in ("MatMul", "Gemm") and n.input[1] in constants]
    return dict(zip(linears(model), products, strict=True))


def _override(grid: Grid) -> dict[str, np.ndarray]:
    """Move a grid of 0 to 255 down by 128, to int8: the same steps, under other names."""
    return {"scale": np.array(grid.scale, np.float32), "zero_point": np.array(grid.zero - 128, np.int8)}
