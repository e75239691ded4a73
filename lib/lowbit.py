"""Below eight bits: weights of 8, 4, about 1.6 and 1 bit, in Brevitas.

Every Linear of the deployed model becomes a Brevitas ``QuantLinear``: weights on a symmetric grid with a
scale for each output channel, inputs on a static grid of the whole tensor, chosen by least mean squared
error on training text. LayerNorm, softmax, GELU and attention's own products stay float. ``quantise``
rounds to nearest; ``gptq`` rounds column by column and lets the columns still to come make up for the
error (Frantar et al. 2023, Algorithm 1); ``lib.qat`` goes on to train with the rounding in place.

What is kept is the integer codes, packed, and the scales: ``save_quantised`` and ``load_quantised``.
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

with warnings.catch_warnings():  # an optional package for speed that this book does not need
    warnings.filterwarnings("ignore", "fast_hadamard_transform package not found", UserWarning)
    import brevitas.nn as qnn
    from brevitas.core.scaling import ScalingImplType
    from brevitas.graph.calibrate import calibration_mode
    from brevitas.inject.enum import RestrictValueType, ScalingPerOutputType, StatsOp
    from brevitas.quant import (
        Int8ActPerTensorFloatMSE,
        Int8WeightPerChannelFloatMSE,
        ShiftedUint8ActPerTensorFloatMSE,
        SignedBinaryWeightPerTensorConst,
    )

from lib.checkpoint import CHECKPOINTS, load_tensors, save_tensors
from lib.deploy import DeployedGPT, deploy, linears
from lib.errors import BookError
from lib.files import read_json
from lib.gpt import GPT, GPTConfig
from lib.gptq import gptq_round
from lib.ptq import check_windows

# Brevitas passes an argument of torch's by position, and says of every product whose input has a zero point that
# it knows no zero point of the sum, which is float here.
warnings.filterwarnings("ignore", "Positional args are being deprecated", FutureWarning, "brevitas")
warnings.filterwarnings("ignore", "Computing zero point of output accumulator", UserWarning)


@dataclass(frozen=True)
class Bits:
    """How many bits: of the blocks' weights, of every Linear's input, of the head's weights."""

    weight: int
    activation: int
    head: int


BITS = {
    "w8a8": Bits(8, 8, 8),
    "w4a8": Bits(4, 8, 4),
    "w4a4": Bits(4, 4, 4),
    "ternary": Bits(2, 8, 8),  # -1, 0, 1: two bits each on disk, log2(3) = 1.58 in principle
    "binary": Bits(1, 8, 8),  # -1, 1
}


class BinaryWeight(SignedBinaryWeightPerTensorConst):
    """Brevitas' binary weights, with a learned scale for each output channel, at first the mean magnitude."""

    scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS
    scaling_stats_op = StatsOp.AVE
    scaling_per_output_type = ScalingPerOutputType.CHANNEL
    restrict_scaling_type = RestrictValueType.FP


# ---- The quantised model. ----


def _structure(config: GPTConfig, bits: Bits) -> DeployedGPT:
    """Build a deployed model of Brevitas Linears; its weights and scales are still to be filled in."""
    with torch.random.fork_rng(devices=[]):
        model = DeployedGPT(dataclasses.replace(config, dropout=0.0))
        for name, layer in linears(model).items():
            model.set_submodule(name, _quant_linear(layer, name, bits))
    return model.eval()


def _weight_bits(name: str, bits: Bits) -> int:
    return bits.head if name == "unembed" else bits.weight


def _quant_linear(layer: nn.Linear, name: str, bits: Bits) -> qnn.QuantLinear:
    weight_bits = _weight_bits(name, bits)
    weights = {"weight_quant": BinaryWeight}
    if weight_bits > 1:
        weights = {"weight_quant": Int8WeightPerChannelFloatMSE, "weight_bit_width": weight_bits}
    after_gelu = name.endswith("feed_forward.down")  # never below -0.17: a signed grid would waste half its steps
    inputs = ShiftedUint8ActPerTensorFloatMSE if after_gelu else Int8ActPerTensorFloatMSE
    return qnn.QuantLinear(
        layer.in_features, layer.out_features, input_quant=inputs, input_bit_width=bits.activation, **weights
    )


@torch.no_grad()
def quantise(model: GPT, bits: Bits, windows: np.ndarray) -> DeployedGPT:
    """Return a copy of ``model`` rounded to nearest, its ranges taken on windows of training text.

    windows: int64 (N, block). BookError if there are none, or they hold symbols outside the vocabulary.
    """
    check_windows(windows, model)
    quantised = _structure(model.config, bits)
    quantised.load_state_dict(deploy(model).state_dict(), strict=False)  # the scales are not there yet
    with calibration_mode(quantised):
        for some in torch.from_numpy(windows).split(16):
            quantised(some)
    quantised(torch.from_numpy(windows[:1]))  # the weights' scales are set by the first pass that uses them
    return quantised


@torch.no_grad()
def gptq(model: GPT, bits: Bits, windows: np.ndarray) -> DeployedGPT:
    """Return a copy of ``model`` rounded by GPTQ, layer after layer, each seeing what the ones before it give.

    windows: int64 (N, block), training text; N block should be some times the widest input, 4 n_embd.
    """
    quantised = quantise(model, bits, windows)
    positions = torch.arange(windows.shape[1])
    streams = [quantised.token(some) + quantised.position(positions) for some in torch.from_numpy(windows).split(16)]
    for block in quantised.blocks:
        for layer in linears(block).values():  # in the order of execution
            _round_layer(layer, _gram(layer, block, streams), bits.weight)
        streams = [block(x) for x in streams]
    _round_layer(quantised.unembed, _gram(quantised.unembed, quantised.head, streams), bits.head)
    return quantised


def _gram(layer: qnn.QuantLinear, run: Callable[[Tensor], Tensor], streams: list[Tensor]) -> Tensor:
    """Return X^T X, float64 (in_features, in_features), of the rounded inputs X that ``layer`` gets when run."""
    gram = torch.zeros(layer.in_features, layer.in_features, dtype=torch.float64)

    def add(_module: nn.Module, inputs: tuple[Tensor]) -> None:
        x = layer.input_quant(inputs[0]).value.flatten(0, -2)
        gram.add_((x.T @ x).double())

    handle = layer.register_forward_pre_hook(add)
    for x in streams:
        run(x)
    handle.remove()
    return gram


def _round_layer(layer: qnn.QuantLinear, gram: Tensor, bits: int) -> None:
    scale = layer.quant_weight().scale.double()
    layer.weight.copy_(gptq_round(layer.weight.double(), gram, scale, bits))


def codes(layer: qnn.QuantLinear) -> Tensor:
    """Return a layer's weights as integers, int8 (out_features, in_features)."""
    weight = layer.quant_weight()
    return torch.round(weight.value / weight.scale).to(torch.int8)


# ---- On disk: codes packed to their bits, and everything else as it is. ----


def pack(values: Tensor, bits: int) -> Tensor:
    """Pack integers, -(2^(bits-1) - 1) to 2^(bits-1) - 1, or -1 and 1 for one bit, into bytes, uint8 (N,)."""
    lifted = (values + 1) // 2 if bits == 1 else values + 2 ** (bits - 1)
    planes = np.unpackbits(lifted.numpy().astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
    return torch.from_numpy(np.packbits(planes))


def unpack(packed: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """Undo ``pack``: int8 of the given shape."""
    count = int(np.prod(shape))
    planes = np.unpackbits(packed.numpy(), count=count * bits).reshape(count, bits)
    lifted = planes @ (1 << np.arange(bits)[::-1])
    values = 2 * lifted - 1 if bits == 1 else lifted - 2 ** (bits - 1)
    return torch.from_numpy(values.astype(np.int8)).view(shape)


@torch.no_grad()
def save_quantised(path: str | Path, model: DeployedGPT, bits: str) -> None:
    """Write a quantised model: packed codes, scales, zero points, and the tensors that stay float."""
    tensors = dict(model.state_dict())
    for name, layer in linears(model).items():
        tensors[f"{name}.weight"] = pack(codes(layer), _weight_bits(name, BITS[bits]))
    save_tensors(path, tensors, {"config": dataclasses.asdict(model.config), "bits": bits})


@torch.no_grad()
def load_quantised(path: str | Path) -> tuple[DeployedGPT, str]:
    """Read what ``save_quantised`` wrote: the model, exactly, and the key of its bits.

    Raises BookError for a file that is missing, truncated, or no quantised model of this book.
    """
    tensors, metadata = load_tensors(path)
    try:
        bits, config = metadata["bits"], GPTConfig(**metadata["config"])
        model = _structure(config, BITS[bits])
        for name, layer in linears(model).items():
            integers = unpack(tensors[f"{name}.weight"], _weight_bits(name, BITS[bits]), layer.weight.shape)
            tensors[f"{name}.weight"] = integers.float()
        model.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise BookError(f"{path} holds no quantised model of this book; use one written by lib.qat") from None
    for layer in linears(model).values():
        layer.weight.mul_(layer.quant_weight().scale)  # in place: to assign a weight anew resets its quantiser
    return model, bits


def load_shipped_quantised(bits: str) -> tuple[DeployedGPT, dict[str, Any]]:
    """Return one of the book's own quantised ``pocket`` models and its card."""
    path = CHECKPOINTS / f"pocket_qat_{bits}.safetensors"
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in CHECKPOINTS.glob("pocket_qat_*.safetensors"))) or "none"
        raise BookError(f"the book ships no {path.stem}; it ships: {shipped}")
    return load_quantised(path)[0], read_json(path.with_suffix(".json"), "the card")
