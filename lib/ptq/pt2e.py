"""The route that took the report's place: torchao's PT2E, on a graph that torch.export captures.

Its converted graph simulates the rounding in PyTorch; what is scored is the QDQ file.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch

from lib.deploy import DeployedGPT
from lib.evaluate import Logits, torch_logits
from lib.export import export_prefill, onnx_logits
from lib.ptq import BATCH
from lib.ptq.graph import check_file, feeds
from lib.ptq.quiet import quiet

with quiet("torchao", "torch.utils._pytree"):  # its kernels for GPUs, which do not load on a CPU
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

EXPORT_OPSET = 20


def quantise(model: DeployedGPT, windows: np.ndarray, path: Path) -> Logits:
    """Capture, observe and convert ``model``: activations per tensor, uint8; weights per channel, int8."""
    batches = [torch.from_numpy(feed["tokens"]) for feed in feeds(windows)]  # the captured graph is of static shape
    reference = torch_logits(model)(batches[0].numpy())
    captured = torch.export.export(model, (batches[0],)).module()
    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(captured, quantizer)
    with torch.inference_mode():
        for some in batches:
            prepared(some)
    converted = convert_pt2e(prepared)
    converted.config = model.config  # what the exporter asks a model for
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Exporting a model while it is in training mode")  # captured in evaluation
        export_prefill(converted, path, EXPORT_OPSET, dynamo=True, batch=BATCH, tolerance=None)
        kernels = converted(batches[0]).detach().numpy()
    logits = onnx_logits(path)
    check_file(path, logits(batches[0].numpy()), kernels, reference)
    return logits
