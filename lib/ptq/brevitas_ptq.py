"""Brevitas, used after training: quantised layers in place of Linears, calibrated and then frozen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn as nn

from lib.deploy import DeployedGPT
from lib.evaluate import Logits
from lib.export import onnx_logits, save_onnx, tidied
from lib.ptq import BATCH
from lib.ptq.quiet import quiet

with quiet():
    from brevitas.export import export_onnx_qcdq
    from brevitas.graph.calibrate import calibration_mode
    from brevitas.graph.quantize import layerwise_quantize
    from brevitas.nn import QuantLinear
    from brevitas.quant import fixed_point, scaled_int

OPSET = 17


def quantise(model: DeployedGPT, windows: np.ndarray, path: Path, power_of_two: bool) -> Logits:
    """Quantise every Linear: weights int8 per channel, inputs int8 symmetric at the 99.999th percentile.

    ``power_of_two`` restricts every scale to powers of two, so that rescaling is a shift.
    """
    quantisers = {
        "weight_quant": fixed_point.Int8WeightPerChannelFixedPoint
        if power_of_two
        else scaled_int.Int8WeightPerChannelFloat,
        "input_quant": fixed_point.Int8ActPerTensorFixedPoint if power_of_two else scaled_int.Int8ActPerTensorFloat,
        "return_quant_tensor": False,
    }
    with quiet():
        quantised = layerwise_quantize(model, compute_layer_map={nn.Linear: (QuantLinear, quantisers)})
        with torch.inference_mode(), calibration_mode(quantised):
            for some in torch.from_numpy(windows).split(BATCH):
                quantised(some)
        example = torch.zeros(BATCH, model.config.block, dtype=torch.int64)
        with torch.no_grad():
            export_onnx_qcdq(
                quantised.eval(),
                example,
                str(path),
                opset_version=OPSET,
                input_names=["tokens"],
                output_names=["logits"],
                keep_initializers_as_inputs=False,
                dynamo=False,
            )
    save_onnx(tidied(onnx.load(path)), path)
    return onnx_logits(path)
