"""What the ONNX tools start from: the prepared floating-point graph, and calibration windows fed batch by batch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Callable, Iterator

import numpy as np
from onnxruntime.quantization import CalibrationDataReader
from onnxruntime.quantization.shape_inference import quant_pre_process

from lib.deploy import DeployedGPT
from lib.errors import BookError
from lib.evaluate import divergence
from lib.export import export_prefill
from lib.ptq import BATCH
from lib.ptq.quiet import quiet

OPSET = 17


def prepare(model: DeployedGPT, path: Path, export: Callable[..., Path] = partial(export_prefill, batch=BATCH)) -> Path:
    """Export ``model`` beside ``path``, with the file's shapes inferred and its operators fused; return the file.

    ``export``, of ``lib.export``, decides which graph it is. ONNX Runtime's own preparation: each Linear becomes one
    Gemm, attention's products stay MatMul.
    """
    exported, prepared = path.with_suffix(".float.onnx"), path.with_suffix(".prepared.onnx")
    export(model, exported, OPSET)
    with quiet():
        quant_pre_process(exported, prepared, skip_symbolic_shape=True)
    exported.unlink()
    return prepared


def feeds(windows: np.ndarray, batch: int = BATCH) -> Iterator[dict[str, np.ndarray]]:
    """Yield windows (N, T) in batches of the graph's own size; the last one is filled up from the first windows."""
    whole = np.resize(windows, (-(-len(windows) // batch) * batch, windows.shape[1]))
    return ({"tokens": part} for part in np.split(whole, len(whole) // batch))


class Reader(CalibrationDataReader):
    """The same, as ONNX Runtime's quantiser and Quark's want it."""

    def __init__(self, windows: np.ndarray) -> None:
        self.feeds = feeds(windows)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


# ---- A file beside the kernels that it was exported from. ----

WORSE = 1.2


def check_file(path: Path, file: np.ndarray, kernels: np.ndarray, reference: np.ndarray) -> None:
    """Raise BookError if a file's logits are clearly further from FP32's than those it was exported from.

    All are (N, T, V) on the same calibration windows. Logits themselves cannot be held against each other: a
    rounding that falls the other way in an early layer changes what all later ones see.
    """
    own, other = divergence(reference, kernels), divergence(reference, file)
    if not other <= WORSE * own:
        raise BookError(
            f"{path} is {other / own:.1f} times as far from FP32 as the model it was exported from; check the export, "
            "or, if this processor has no VNNI, whose absence lets its sums saturate, take another route"
        )
