"""INT8 by NNCF, on OpenVINO's own graph: no ONNX tool in between."""

from __future__ import annotations

import numpy as np
import openvino as ov

from lib.ptq.graph import feeds
from lib.ptq.quiet import quiet

with quiet("nncf"):
    import nncf


def quantise(model: ov.Model, windows: np.ndarray) -> ov.Model:
    """Quantise a full pass as ``lib.ptq.nncf_ptq`` does an ONNX graph, calibrated on windows (N, T), int64.

    NNCF's scheme for Transformers: SmoothQuant, symmetric ranges, bias correction. A step graph in INT8 comes from
    ``lib.ptq.best.quantise_step``.
    """
    batches = list(feeds(windows, model.input("tokens").shape[0]))
    with quiet("nncf"):
        return nncf.quantize(
            model, nncf.Dataset(batches), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(batches)
        )
