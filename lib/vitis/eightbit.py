"""Training under the DPU's integers: every tensor it stores in eight bits, every scale a power of two.

    python -m lib.vitis.eightbit --out out/dpu8

The residual stream is stored in eight bits after every add, sixteen times in a row, and that is what
post-training quantisation pays most for. So the ReLU model, turned (``lib.vitis.rewrite``), is trained
on with the rounding in place, the gradient passing straight through it, towards the
probabilities of the original model. What comes out is ``pocket_dpu.safetensors``, floating-point weights in the
form of a ``DeployedGPT``, for Quark to quantise.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor
from torch.nn import functional as F

from lib.checkpoint import CHECKPOINTS, load_shipped, load_tensors, save_tensors
from lib.corpus import Corpus
from lib.deploy import DeployedGPT, deploy, linears
from lib.errors import BookError, run_command
from lib.evaluate import check_characters
from lib.files import read_json
from lib.gpt import GPT, Block, GPTConfig
from lib.ptq import calibration_windows
from lib.train import (
    Place,
    TrainConfig,
    Trainer,
    add_options,
    chosen_corpus,
    leads,
    option,
    override,
    place,
    run,
    write_scored_card,
)
from lib.vitis.rewrite import folded

CANDIDATES = 3  # fix points tried, from the one that clips nothing upwards


class Fix(nn.Module):
    """Rounds to int8 times 2^-point.

    ``point`` is chosen on the first tensor seen: least squared error, as Quark does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.point: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()  # autocast hands over bfloat16, which has no more digits than the grid
        if self.point is None:
            self.point = best_point(x.detach())
        return torch.fake_quantize_per_tensor_affine(x, 2.0**-self.point, 0, -128, 127)


def best_point(x: Tensor) -> int:
    """Return the fix point that stores x with the least squared error."""
    safe = 7 - math.ceil(math.log2(max(float(x.abs().max()), 2.0**-20)))

    def error(point: int) -> float:
        return float((torch.fake_quantize_per_tensor_affine(x, 2.0**-point, 0, -128, 127) - x).square().mean())

    return min(range(safe, safe + CANDIDATES), key=error)


class FixedLinear(nn.Module):
    """A Linear whose input, weight, bias and, if ``stored``, output have eight bits."""

    def __init__(self, linear: nn.Linear, stored: bool) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.fix_input, self.fix_weight, self.fix_bias = Fix(), Fix(), Fix()
        self.fix_output = Fix() if stored else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.fix_output(F.linear(self.fix_input(x), self.fix_weight(self.weight), self.fix_bias(self.bias)))


class FixedBlock(nn.Module):
    """``lib.gpt.Block`` with its residual stream stored in eight bits after every add."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.norm1, self.attention = block.norm1, block.attention
        self.norm2, self.feed_forward = block.norm2, block.feed_forward
        self.fix_middle, self.fix_end = Fix(), Fix()

    def forward(self, x: Tensor) -> Tensor:
        x = self.fix_middle(x + self.attention(self.norm1(x)))
        return self.fix_end(x + self.feed_forward(self.norm2(x)))


def fixed(model: DeployedGPT, windows: np.ndarray) -> DeployedGPT:
    """Return a copy of a folded model that rounds as the DPU's nodes do, its points set on windows (N, T) of int64.

    ``up`` is followed by ReLU in the same instruction, so only ReLU's output, ``down``'s input, is stored.
    """
    copy = deploy(model)
    for name, linear in linears(copy).items():
        copy.set_submodule(name, FixedLinear(linear, stored=not name.endswith("up")))
    copy.blocks = nn.ModuleList(FixedBlock(block) for block in copy.blocks)
    copy.blocks.insert(0, Fix())  # the embeddings' sum enters the first add
    with torch.no_grad():
        copy(torch.from_numpy(windows))
    return copy


def released(model: DeployedGPT) -> DeployedGPT:
    """Return the floating-point model inside a fixed one."""
    plain = DeployedGPT(model.config)
    weights = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if parts[0] == "blocks":
            parts[1] = str(int(parts[1]) - 1)  # the first of ``blocks`` is a Fix
        weights[".".join(parts)] = tensor
    plain.load_state_dict(weights)
    return plain.eval()


@dataclass(frozen=True)
class EightbitConfig(TrainConfig):
    """A training under the DPU's integers. ``model`` names the teacher, ``student`` the shipped model to start from."""

    student: str = option("pocket_relu", "the shipped checkpoint to start from, with ReLU")
    calibration: int = option(16, "windows of training text that set the ranges")


# What the shipped ``pocket_dpu`` was made with.
EIGHTBIT = EightbitConfig(
    "pocket", steps=700, batch=16, lr=2e-4, min_lr=2e-6, warmup=30, weight_decay=0.0, eval_every=100, bf16="on"
)


class EightbitTrainer(Trainer):
    """Trains a fixed copy of a ReLU model towards the probabilities of the model with GELU."""

    def __init__(self, config: EightbitConfig, data: Corpus, here: Place, teacher: GPT, student: GPT) -> None:
        windows = calibration_windows(data, config.calibration, teacher.config.block, config.seed)
        super().__init__(config, data, here, fixed(folded(student, turned=True), windows))
        self.teacher = teacher.to(here.device)

    def loss(self, logits: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Learn the teacher's probabilities, not the text."""
        return self.distillation(self.teacher, logits, inputs)

    def snapshot(self) -> None:
        """Keep no best model on the way: the last one is kept, in a form of its own."""


def train(
    config: EightbitConfig, data: Corpus, out: str | os.PathLike[str], teacher: GPT, student: GPT, **options: Any
) -> tuple[DeployedGPT, EightbitTrainer]:
    """Train; return the floating-point model of the last step, and the trainer. Errors as ``lib.train.run``'s."""
    with place() as here:
        trainer = EightbitTrainer(config, data, here, teacher, student)
        return released(run(trainer, out, **options).cpu()), trainer


def load_eightbit(path: Path) -> DeployedGPT:
    """Read what ``main`` wrote. BookError if it is missing, damaged, or not of this kind."""
    tensors, metadata = load_tensors(path)
    try:
        model = DeployedGPT(GPTConfig(**metadata["deployed"]))
        model.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError):
        raise BookError(f"{path} is no model trained for the DPU; make it with lib.vitis.eightbit") from None
    return model.eval()


def load_shipped_eightbit(name: str = "pocket_dpu") -> tuple[DeployedGPT, dict[str, Any]]:
    """Return the book's own model for the DPU, and its card."""
    path = CHECKPOINTS / f"{name}.safetensors"
    return load_eightbit(path), read_json(path.with_suffix(".json"), "the checkpoint's card")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.vitis.eightbit", description="Train under the DPU's integers.")
    add_options(parser, EightbitConfig)
    parser.add_argument("--characters", type=int, default=100_000, help="validation characters to score at the end")
    given = parser.parse_args()
    if given.wandb:
        raise BookError("--wandb is for lib.train; drop it")
    config = override(EIGHTBIT, given)
    data = chosen_corpus(given)
    teacher, student = load_shipped(config.model)[0], load_shipped(config.student)[0]
    if student.config != dataclasses.replace(teacher.config, activation="relu"):
        raise BookError(f"the student {config.student} is not {config.model} with ReLU; name one that is by --student")
    check_characters(given.characters, teacher.config.block)
    trained, trainer = train(config, data, given.out, teacher, student, resume=given.resume)
    if not leads():
        return
    path = given.out / "pocket_dpu.safetensors"
    save_tensors(path, trained.state_dict(), {"deployed": dataclasses.asdict(trained.config)})
    write_scored_card(path, trainer, teacher, trainer.model.eval(), given.characters)


if __name__ == "__main__":
    run_command(main)
