"""NNCF, the quantiser of OpenVINO's makers, on the ONNX graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from lib.deploy import DeployedGPT
from lib.evaluate import Logits
from lib.export import onnx_logits, save_onnx
from lib.ptq.graph import feeds, prepare
from lib.ptq.quiet import quiet

with quiet("nncf"):
    import nncf


def quantise(model: DeployedGPT, windows: np.ndarray, path: Path) -> Logits:
    """Quantise with NNCF's scheme for Transformers: SmoothQuant, symmetric ranges, bias correction."""
    prepared = prepare(model, path)
    batches = list(feeds(windows))
    with quiet("nncf"):
        quantised = nncf.quantize(
            onnx.load(prepared),
            nncf.Dataset(batches),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(batches),
        )
    save_onnx(quantised, path)
    prepared.unlink()
    return onnx_logits(path)
