"""What FINN's compiler makes of pocket's feed-forward: layers, clocks and cells, as it estimates them.

FINN's pins do not go with the book's (another Brevitas, another setuptools), so this file runs in an environment of its
own, which takes about three minutes and several gigabytes; no AMD tool is needed for estimates:

    python3 -m venv FOLDER && FOLDER/bin/pip install finn-plus==1.6.1 psutil
    FOLDER/bin/python hw/finn/estimate.py --out data/finn/feed_forward.json

The weights are random: shapes and bits decide what is estimated. ReLU stands for GELU, which has no layer there.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import importlib.util
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import brevitas.nn as qnn
import torch
from brevitas.export import export_qonnx
from torch import nn

WIDTH, HIDDEN, BITS = 128, 512, 4
PART = "xczu7ev-ffvc1156-2-e"
FOLDS = {"one_multiplier": (1, 1), "sixty_four": (8, 8)}  # (outputs, inputs) at once, of each matrix


class FeedForward(nn.Module):
    """Two Linears with ReLU between them, everything in BITS bits: (B, WIDTH) to (B, WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = qnn.QuantIdentity(bit_width=BITS, return_quant_tensor=True)
        self.up = qnn.QuantLinear(WIDTH, HIDDEN, bias=False, weight_bit_width=BITS)
        self.relu = qnn.QuantReLU(bit_width=BITS, return_quant_tensor=True)
        self.down = qnn.QuantLinear(HIDDEN, WIDTH, bias=False, weight_bit_width=BITS)
        self.given = qnn.QuantIdentity(bit_width=BITS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.given(self.down(self.relu(self.up(self.taken(x)))))


def exported(folder: Path) -> Path:
    """Write the feed-forward as QONNX, its ranges taken from noise."""
    torch.manual_seed(0)
    model = FeedForward()
    for _ in range(20):
        model(torch.randn(64, WIDTH))
    path = folder / "feed_forward.onnx"
    export_qonnx(model.eval(), torch.randn(1, WIDTH), str(path))
    return path


def compiled(path: Path) -> Any:
    """Take a QONNX file through FINN's own steps to hardware layers: a qonnx ModelWrapper."""
    from finn.util import settings

    settings.initialize_dummy_settings()  # the steps below need no AMD tool, but ask for settings
    from finn.transformation.fpgadataflow.convert_to_hw.quantized_matrix_vector_activation import (
        InferQuantizedMatrixVectorActivation,
    )
    from finn.transformation.fpgadataflow.convert_to_hw.thresholding import InferThresholdingLayer
    from finn.transformation.fpgadataflow.specialize_layers import SpecializeLayers
    from finn.transformation.qonnx.convert_qonnx_to_finn import ConvertQONNXtoFINN
    from finn.transformation.streamline import Streamline
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.general import GiveUniqueNodeNames
    from qonnx.util.cleanup import cleanup_model

    model = cleanup_model(ModelWrapper(str(path)))
    for step in (
        ConvertQONNXtoFINN(),
        Streamline(),
        InferQuantizedMatrixVectorActivation(),
        InferThresholdingLayer(),
        SpecializeLayers(PART),
        GiveUniqueNodeNames(),
    ):
        model = model.transform(step)
    return model


def estimated(model: Any, outputs: int, inputs: int) -> dict[str, Any]:
    """Fold every matrix so that it multiplies outputs x inputs weights a clock; return clocks and cells by layer."""
    from finn.analysis.fpgadataflow.exp_cycles_per_layer import exp_cycles_per_layer
    from finn.analysis.fpgadataflow.res_estimation import res_estimation
    from qonnx.custom_op.registry import getCustomOp

    for node in model.graph.node:
        if node.op_type.startswith("MVAU"):
            layer = getCustomOp(node)
            layer.set_nodeattr("PE", outputs)
            layer.set_nodeattr("SIMD", inputs)
    cells = model.analysis(functools.partial(res_estimation, fpgapart=PART))
    kinds = ("LUT", "DSP", "BRAM_18K")
    return {
        "clocks": {name: int(clocks) for name, clocks in model.analysis(exp_cycles_per_layer).items()},
        "cells": {name: {kind: int(found[kind]) for kind in kinds} for name, found in cells.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Estimate pocket's feed-forward with FINN.")
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    if importlib.util.find_spec("finn") is None:
        print("error: finn is not installed; run this in the environment that its first lines make", file=sys.stderr)
        raise SystemExit(2)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        model = compiled(exported(Path(folder)))
    study = {
        "date": time.strftime("%Y-%m-%d"),
        "finn_plus": importlib.metadata.version("finn-plus"),
        "part": PART,
        "shape": [WIDTH, HIDDEN, WIDTH],
        "bits": BITS,
        "layers": [node.op_type for node in model.graph.node],
        "folds": {name: estimated(model, *fold) for name, fold in FOLDS.items()},
    }
    out.write_text(json.dumps(study, indent=2) + "\n")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
