"""Quantisation-aware training: ``python -m lib.qat --bits w4a8 --out out/w4a8``.

The model is rotated (``lib.deploy``), rounded by GPTQ (``lib.lowbit``), and trained on with the rounding
in place, the gradient passing straight through it, towards the FP32 model's own probabilities. It
resumes as ``lib.train`` does. What comes out is ``<model>_qat_<bits>.safetensors`` and its card.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lib.checkpoint import load_shipped
from lib.corpus import Corpus
from lib.deploy import deploy, rotate
from lib.errors import BookError, run_command
from lib.evaluate import check_characters
from lib.gpt import GPT
from lib.lowbit import BITS, gptq, save_quantised
from lib.ptq import calibration_windows
from lib.train import (
    Place,
    TrainConfig,
    Trainer,
    add_options,
    chosen_corpus,
    leads,
    make_optimizer,
    option,
    override,
    place,
    run,
    write_scored_card,
)


@dataclass(frozen=True)
class QatConfig(TrainConfig):
    """A quantisation-aware training. ``model`` names the shipped checkpoint it starts from."""

    batch: int = option(16, "sequences in a step")
    warmup: int = option(30, "steps of linear warm-up")
    min_lr: float = option(2e-6, "learning rate at the end")
    weight_decay: float = option(0.0, "AdamW's weight decay, on matrices only")
    bf16: str = option("on", "bfloat16 autocast: on, off, or auto (on for CUDA)")
    bits: str = option("w4a8", f"one of {', '.join(BITS)}")
    calibration: int = option(32, "windows of training text that set the ranges")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits not in BITS:
            raise BookError(f"bits is {self.bits!r}; choose one of {', '.join(BITS)}")
        if self.calibration < 1:
            raise BookError(f"calibration is {self.calibration}; it must be at least 1")


# Fewer bits start further from FP32, and want longer steps. All of them together: an hour on one CPU core.
RUNS = {
    "w8a8": QatConfig(bits="w8a8", steps=40, lr=3e-5, warmup=10),
    "w4a8": QatConfig(bits="w4a8", steps=500, lr=4e-4),
    "w4a4": QatConfig(bits="w4a4", steps=200, lr=4e-4),
    "ternary": QatConfig(bits="ternary", steps=200, lr=1e-3),
    "binary": QatConfig(bits="binary", steps=150, lr=1e-3),
}


class QatTrainer(Trainer):
    """Trains a quantised copy of a model, rotated and rounded by GPTQ, towards the model's own probabilities."""

    def __init__(self, config: QatConfig, data: Corpus, here: Place, teacher: GPT) -> None:
        windows = calibration_windows(data, config.calibration, teacher.config.block, config.seed)
        student = gptq(rotate(deploy(teacher)), BITS[config.bits], windows)
        super().__init__(config, data, here, student)
        self.teacher = teacher.to(here.device)

    def loss(self, logits: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Learn the teacher's probabilities, not the text."""
        return self.distillation(self.teacher, logits, inputs)

    def load_state(self, path: Path) -> None:
        """Go on from a state. Brevitas puts new parameters in place of its scales when it loads them."""
        super().load_state(path)
        moments, self.optimizer = self.optimizer.state, make_optimizer(self.model, self.config)
        self.optimizer.state.update(moments)
        self.parallel = self.shared()

    def snapshot(self) -> None:
        """Keep no best model on the way: the last one is kept, in a format of its own."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lib.qat", description="Train one of the book's models to bear few bits."
    )
    add_options(parser, QatConfig)
    parser.add_argument("--characters", type=int, default=200_000, help="validation characters to score at the end")
    given = parser.parse_args()
    if given.wandb:
        raise BookError("--wandb is for lib.train; drop it")
    if given.bits is not None and given.bits not in RUNS:
        raise BookError(f"bits is {given.bits!r}; choose one of {', '.join(RUNS)}")
    config = override(RUNS[given.bits or "w4a8"], given)
    teacher, _ = load_shipped(config.model)
    check_characters(given.characters, teacher.config.block)
    data = chosen_corpus(given)
    with place() as here:
        trainer = QatTrainer(config, data, here, teacher)
        trained = run(trainer, given.out, given.resume).eval().cpu()
    if not leads():
        return
    path = given.out / f"{config.model}_qat_{config.bits}.safetensors"
    save_quantised(path, trained, config.bits)
    write_scored_card(path, trainer, teacher, trained, given.characters)


if __name__ == "__main__":
    run_command(main)
