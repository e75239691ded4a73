"""GELU replaced by ReLU, which the DPU has, and the model taught to live with it.

    python -m lib.vitis.activation --out out/relu

The teacher is the shipped model itself, with its GELU: the student learns its probabilities, not the
text, as the pruned and the low-bit models of chapters 4 and 5 do. It resumes as ``lib.train`` does.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lib.checkpoint import load_shipped
from lib.corpus import Corpus
from lib.errors import BookError, run_command
from lib.gpt import ACTIVATIONS, GPT
from lib.train import Place, TrainConfig, Trainer, add_options, chosen_corpus, option, override, place, report_best, run


@dataclass(frozen=True)
class ActivationConfig(TrainConfig):
    """A fine-tuning of the shipped checkpoint ``model`` under another activation."""

    activation: str = option("relu", f"the activation to learn, one of {', '.join(ACTIVATIONS)}")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation not in ACTIVATIONS:
            raise BookError(f"activation is {self.activation!r}; choose one of {', '.join(ACTIVATIONS)}")


# What the shipped ``pocket_relu`` was made with.
RELU = ActivationConfig("pocket", steps=2400, batch=16, lr=1.5e-3, min_lr=1e-5, warmup=40, eval_every=200, bf16="on")


def with_activation(model: GPT, activation: str) -> GPT:
    """Return a copy of ``model``, same weights, with another activation in its feed-forwards."""
    copied = GPT(dataclasses.replace(model.config, activation=activation))
    copied.load_state_dict(model.state_dict())
    return copied.eval()


class ActivationTrainer(Trainer):
    """Trains a model under another activation towards the probabilities it gave under its own."""

    def __init__(self, config: ActivationConfig, data: Corpus, here: Place, teacher: GPT) -> None:
        super().__init__(config, data, here, with_activation(teacher, config.activation))
        self.teacher = teacher.to(here.device)

    def loss(self, logits: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Learn the teacher's probabilities, not the text."""
        return self.distillation(self.teacher, logits, inputs)


def fine_tune(
    config: ActivationConfig, data: Corpus, out: str | os.PathLike[str], teacher: GPT | None = None, **options: Any
) -> GPT:
    """Fine-tune and return the model of the last step; ``out``, the options and the errors are ``lib.train.run``'s.

    ``teacher`` is by default the shipped checkpoint that the configuration names.
    """
    with place() as here:
        trainer = ActivationTrainer(config, data, here, teacher or load_shipped(config.model)[0])
        return run(trainer, out, **options).eval().cpu()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lib.vitis.activation", description="Teach a model another activation."
    )
    add_options(parser, ActivationConfig)
    given = parser.parse_args()
    config = override(RELU, given)
    data = chosen_corpus(given)
    print(f"teaching {config.model} to live with {config.activation} on {data.describe()}")
    fine_tune(config, data, given.out, resume=given.resume, wandb_project=given.wandb)
    report_best(given.out)


if __name__ == "__main__":
    run_command(main)
