"""The report's route (section 2.1): eager static quantisation with torch.ao.quantization.

A QuantStub at the model's entry, as the report has it, meets integer tokens and does nothing, and
LayerNorm, softmax and GELU have no quantised kernels to follow it. So each Linear gets a stub before
it and a DeQuantStub behind it, and everything else stays in floating point.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor
from torch.ao import quantization

from lib.affine import Grid
from lib.deploy import DeployedGPT, linears
from lib.errors import BookError
from lib.evaluate import Logits, torch_logits
from lib.export import export_prefill, onnx_logits
from lib.ptq import BATCH
from lib.ptq.graph import check_file
from lib.ptq.quiet import quiet

EXPORT_OPSET = 20


def quantise(model: DeployedGPT, windows: np.ndarray, path: Path, engine: str) -> Logits:
    """Observe, convert and export ``model`` for one of PyTorch's quantised engines, fbgemm or qnnpack.

    Activations: per tensor, affine, uint8, ranges by histogram (fbgemm halves their range, since
    older x86 kernels sum products in 16 bits). Weights: per channel, symmetric, int8.
    """
    reference = torch_logits(model)(windows[:BATCH])
    with using(engine), quiet():
        stubs = with_stubs(model, engine)
        prepared = quantization.prepare(stubs)
        with torch.inference_mode():
            for some in torch.from_numpy(windows).split(BATCH):
                prepared(some)
        converted = quantization.convert(prepared)
        export_prefill(converted, path, EXPORT_OPSET, batch=BATCH, tolerance=None)
    running = torch_logits(converted)

    def logits(tokens: np.ndarray) -> np.ndarray:
        with using(engine):
            return running(tokens)

    check_file(path, onnx_logits(path)(windows[:BATCH]), logits(windows[:BATCH]), reference)
    return logits


def with_stubs(model: DeployedGPT, engine: str) -> DeployedGPT:
    """Put a QuantStub before and a DeQuantStub behind every Linear, and say how each is to be quantised."""
    activation = quantization.get_default_qconfig(engine).activation
    qconfig = quantization.QConfig(activation, quantization.default_per_channel_weight_observer)
    for name, linear in linears(model).items():
        linear.qconfig = qconfig
        model.set_submodule(name, quantization.QuantWrapper(linear))
    return model


@contextmanager
def using(engine: str) -> Iterator[None]:
    """Run quantised kernels with one engine for as long as the block lasts; BookError where there is none."""
    if engine not in torch.backends.quantized.supported_engines:
        raise BookError(f"PyTorch has no quantised engine {engine} on this processor; go on with the other routes")
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


# ---- One Linear alone, with every integer in sight: chapter 3 compares them with its own. ----


@dataclass(frozen=True)
class OneLinear:
    """The integers of a converted Linear: input (N, in), weight (out, in), output (N, out), and their grids."""

    input: np.ndarray
    weight: np.ndarray
    output: np.ndarray
    weight_scale: np.ndarray  # float32 (out,)
    output_grid: Grid


def convert_one(linear: nn.Linear, x: Tensor) -> OneLinear:
    """Quantise one Linear with min-max ranges of x (N, in) itself, and run fbgemm's integer kernel on x."""
    activation = quantization.MinMaxObserver.with_args(dtype=torch.quint8)
    with using("fbgemm"), quiet():
        alone = nn.Sequential(quantization.QuantStub(), linear).eval()
        alone.qconfig = quantization.QConfig(activation, quantization.default_per_channel_weight_observer)
        prepared = quantization.prepare(alone)
        prepared(x)
        stub, converted = quantization.convert(prepared)
        entered = stub(x)
        left = converted(entered)
    weight = converted.weight()
    scale, zero = np.float32(left.q_scale()), np.int64(left.q_zero_point())
    return OneLinear(
        entered.int_repr().numpy(),
        weight.int_repr().numpy(),
        left.int_repr().numpy(),
        weight.q_per_channel_scales().float().numpy(),
        Grid(scale, zero, 0, 255),
    )
