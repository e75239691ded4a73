"""Training Vision Transformers: ``python -m lib.acap.train --model pico_cifar10 --out out/pico``.

As in ``lib.train``, every random choice is a function of (seed, step): a run that is interrupted and resumed sees the
same batches, cut and mirrored the same way, and ends with the same weights. ``lib.acap.qat`` trains on from here with
quantisers in place, through the same ``ImageTrainer``.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from lib.acap.images import ImageSet, Split, load_images
from lib.acap.vit import CONFIGS, PIXEL_ZERO, ViT, ViTConfig
from lib.checkpoint import load_tensors, save_tensors
from lib.errors import BookError, run_command
from lib.files import read_json, write_json
from lib.gpt import check_seed
from lib.train import (
    add_fields,
    check_above_zero,
    check_not_negative,
    hardware,
    learning_rate,
    option,
    override,
    stop_politely,
)

BETAS = (0.9, 0.98)
SAVE_EVERY = 200  # steps


@dataclass(frozen=True)
class ImageTraining:
    """A training run. Every field is a command-line flag."""

    model: str = option("pico_digits", "model configuration, whose last word names the image set")
    steps: int = option(1000, "optimiser steps")
    batch: int = option(128, "images in a step")
    lr: float = option(2e-3, "peak learning rate")
    min_lr: float = option(2e-5, "learning rate at the end")
    warmup: int = option(100, "steps of linear warm-up")
    weight_decay: float = option(0.05, "AdamW's weight decay, on matrices only")
    clip: float = option(1.0, "largest gradient norm")
    seed: int = option(1, "seed of the initial weights and of every batch")
    bf16: str = option("off", "bfloat16 autocast: on or off")

    def __post_init__(self) -> None:
        if self.model not in TRAINABLE:
            raise BookError(f"the model {self.model!r} is not one to train here; choose one of {', '.join(TRAINABLE)}")
        if self.bf16 not in ("on", "off"):
            raise BookError(f"bf16 is {self.bf16!r}; choose on or off")
        check_above_zero(self, "steps", "batch", "lr", "clip")
        check_not_negative(self, "min_lr", "warmup", "weight_decay")
        check_seed(self.seed)

    @property
    def dataset(self) -> str:
        return self.model.rsplit("_", 1)[1]


TRAINABLE = tuple(name for name, config in CONFIGS.items() if config.classes == 10)
TRAININGS = {
    # What the shipped CIFAR-10 checkpoints were trained with, on one CPU core each.
    "pico_cifar10": ImageTraining("pico_cifar10", steps=9400, lr=2e-3, warmup=400, bf16="on"),
    "teacher_cifar10": ImageTraining("teacher_cifar10", steps=6250, lr=1.5e-3, warmup=400, bf16="on"),
    # Small enough to train while the chapter runs.
    "pico_digits": ImageTraining("pico_digits", steps=1000, batch=64, lr=6e-3, warmup=50),
    "teacher_digits": ImageTraining("teacher_digits", steps=1000, batch=64, lr=3e-3, warmup=50),
}


# ---- Batches. ----


def batch_at(split: Split, config: ImageTraining, step: int) -> tuple[Tensor, Tensor]:
    """Return the images uint8 (batch, channels, side, side), each changed a little at random, and labels of a step.

    An epoch is a permutation of the split. Photographs are shifted and mirrored, digits shifted and turned.
    """
    epoch, position = divmod(step, max(1, len(split) // config.batch))
    order = np.random.default_rng([config.seed, 0, epoch]).permutation(len(split))
    chosen = torch.from_numpy(order[position * config.batch : (position + 1) * config.batch])
    rng = np.random.default_rng([config.seed, 1, step])
    change = turned if config.dataset == "digits" else cropped
    return change(split.images[chosen], rng), split.labels[chosen]


def cropped(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Shift images by up to an eighth of their side, grey coming in at the edges, and mirror half of them."""
    side = images.shape[-1]
    reach = side // 8
    padded = F.pad(images, (reach,) * 4, value=PIXEL_ZERO)
    starts = torch.from_numpy(rng.integers(0, 2 * reach + 1, size=(2, len(images), 1)))
    rows, columns = starts + torch.arange(side)  # each (batch, side)
    mirrored = torch.from_numpy(rng.random(len(images)) < 0.5)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    which = torch.arange(len(images))[:, None, None, None]
    channel = torch.arange(images.shape[1])[:, None, None]
    return padded[which, channel, rows[:, None, :, None], columns[:, None, None, :]]


def turned(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Turn images by up to 15 degrees, shear and stretch them by up to 15 %, shift them by up to 1/8 of their side."""
    count = len(images)
    angle = np.radians(rng.uniform(-15, 15, count))
    rotation = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=1).reshape(count, 2, 2)
    stretch = np.eye(2) + rng.uniform(-0.15, 0.15, (count, 2, 2))
    shift = rng.uniform(-0.25, 0.25, (count, 2, 1))  # of half a side
    matrix = torch.from_numpy(np.concatenate((rotation @ stretch, shift), axis=2)).float()
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False).round().to(torch.uint8)


# ---- A teacher. ----


@dataclass
class Teaching:
    """What a student learns from: the labels, a teacher's probabilities, and what the teacher's tokens attend to.

    ``soft``: weight of the teacher's probabilities against the labels (Hinton et al. 2015). ``similarity``: weight of
    Q-ViT's distribution-guided distillation (Li et al. 2022, section 3.3): the student's queries, and its keys, must
    resemble one another as the teacher's do, in the last block.
    """

    teacher: ViT | None = None
    soft: float = 0.5
    similarity: float = 0.1

    def loss(self, student: ViT, images: Tensor, labels: Tensor) -> Tensor:
        """Return the student's loss on a batch, in nats."""
        if self.teacher is None:
            return F.cross_entropy(student(images).float(), labels)
        with Listening(student) as own, Listening(self.teacher) as taught:
            logits = student(images).float()
            with torch.no_grad():
                target = self.teacher(images).float().softmax(dim=1)
        loss = (1 - self.soft) * F.cross_entropy(logits, labels) + self.soft * F.cross_entropy(logits, target)
        for mine, yours in zip(own.heard, taught.heard):
            loss = loss + self.similarity * (resemblance(mine) - resemblance(yours)).square().sum((1, 2)).mean()
        return loss


class Listening:
    """Hear the queries and keys, (B, H, T, D), that leave the last block's sites while a model runs."""

    def __init__(self, model: ViT) -> None:
        self.sites = (model.blocks[-1].attention.q, model.blocks[-1].attention.k)

    def __enter__(self) -> Listening:
        self.heard: list[Tensor] = []
        self.handles = [site.register_forward_hook(lambda _m, _i, out: self.heard.append(out)) for site in self.sites]
        return self

    def __exit__(self, *_error: object) -> None:
        for handle in self.handles:
            handle.remove()


def resemblance(heads: Tensor) -> Tensor:
    """Return how the tokens of heads (B, H, T, D) resemble one another: x x^T over all heads, of Frobenius norm 1."""
    x = heads.transpose(1, 2).flatten(2).float()  # (B, T, C)
    gram = x @ x.transpose(1, 2)
    return gram / gram.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)


# ---- Training. ----


class ImageTrainer:
    """A model, what it learns from, its optimiser and the number of steps done."""

    def __init__(
        self, config: ImageTraining, data: ImageSet, model: ViT | None = None, teaching: Teaching | None = None
    ):
        """Start from ``model``, which is trained in place, or from random weights."""
        check_data(config, data)
        self.config, self.data, self.teaching = config, data, teaching or Teaching()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = (model if model is not None else fresh(config)).to(self.device)
        if self.teaching.teacher is not None:
            self.teaching.teacher.to(self.device).eval()
        self.origin = {"model": digest(self.model), "teacher": digest(self.teaching.teacher)}
        self.optimizer = self.make_optimizer()
        self.step, self.seconds, self.loss = 0, 0.0, math.nan

    def make_optimizer(self) -> torch.optim.AdamW:
        """AdamW that decays the Linears' weights, and neither gains, biases, embeddings nor scales."""
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        matrices = [p for name, p in named if name.endswith("weight") and p.dim() == 2]
        others = [p for name, p in named if not (name.endswith("weight") and p.dim() == 2)]
        groups = [
            {"params": matrices, "weight_decay": self.config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.config.lr, betas=BETAS, fused=True)

    def take_step(self) -> None:
        """Make one optimiser step. BookError if the loss is not finite."""
        self.model.train()
        images, labels = (part.to(self.device) for part in batch_at(self.data.train, self.config, self.step))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        with self.autocast():
            loss = self.teaching.loss(self.model, images, labels) + self.extra_loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.loss = loss.item()
        if not math.isfinite(self.loss):
            raise BookError(f"the loss at step {self.step} is not finite; choose a lower --lr")

    def extra_loss(self) -> Tensor | float:
        """Return what a kind of training adds to the loss: nothing here."""
        return 0.0

    def autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16) if self.config.bf16 == "on" else nullcontext()

    def run(self, out: Path | None = None, resume: bool = False, progress: bool = True) -> ViT:
        """Take all steps and return the model in evaluation mode; ``out``, if given, receives the state to resume from.

        Raises BookError for an ``out`` that holds a run when not resuming, or one of another configuration;
        KeyboardInterrupt on Ctrl-C, with the state saved.
        """
        state = out / "state.safetensors" if out else None
        if state and state.exists():
            if not resume:
                raise BookError(f"{out} already holds a run; add --resume to go on with it, or choose another --out")
            self.load_state(state)
        bar = tqdm(total=self.config.steps, initial=self.step, unit="step", disable=not progress, leave=False)
        mark = time.perf_counter()
        with stop_politely() as stop_asked, bar:
            while self.step < self.config.steps:
                self.take_step()
                bar.update()
                bar.set_postfix_str(f"loss {self.loss:.3f}", refresh=False)
                stop = stop_asked()
                if state and (stop or self.step % SAVE_EVERY == 0 or self.step == self.config.steps):
                    self.seconds += time.perf_counter() - mark
                    self.save_state(state)
                    mark = time.perf_counter()
                if stop:
                    saved = f"the state after step {self.step} is saved; add --resume to go on" if state else "stopped"
                    raise KeyboardInterrupt(saved)
        return self.model.eval()

    def save_state(self, path: Path) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for moment, tensor in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{moment}.{name}"] = tensor
        run = {"config": dataclasses.asdict(self.config), "origin": self.origin}
        save_tensors(path, tensors, run | {"step": self.step, "seconds": self.seconds})

    def load_state(self, path: Path) -> None:
        tensors, run = load_tensors(path)
        if not isinstance(run, dict) or run.get("config") != dataclasses.asdict(self.config):
            raise BookError(f"{path} belongs to a run with other settings; repeat its flags, or choose another --out")
        if run.get("origin") != self.origin:
            raise BookError(
                f"{path} belongs to a run from another model or teacher; repeat them, or choose another --out"
            )
        try:
            weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
            self.model.load_state_dict(weights)
            for name, parameter in self.model.named_parameters():
                if f"exp_avg.{name}" in tensors:
                    moments = ("step", "exp_avg", "exp_avg_sq")
                    self.optimizer.state[parameter] = {m: tensors[f"{m}.{name}"].to(self.device) for m in moments}
            self.step, self.seconds = run["step"], run["seconds"]
        except (KeyError, RuntimeError):
            raise BookError(f"{path} is no whole state of this run; choose another --out") from None


def digest(model: nn.Module | None) -> str | None:
    """Return the SHA-256 of a model's weights, by which a resumed run knows what it started from."""
    if model is None:
        return None
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return found.hexdigest()


def fresh(config: ImageTraining) -> ViT:
    """Make a model of random weights that the seed decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return ViT(CONFIGS[config.model])


def check_data(config: ImageTraining, data: ImageSet) -> None:
    """Raise BookError unless ``data`` is what the configuration's model learns from."""
    if data.name != config.dataset:
        raise BookError(f"{config.model} learns from {config.dataset}, not {data.name}; give it the images of its name")
    if len(data.train) < config.batch:
        raise BookError(f"batch {config.batch} is more than the {len(data.train)} training images; lower it")


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, batch: int = 250, progress: bool = False) -> Tensor:
    """Return the classes that a model names, int64 (N,), in single precision and evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    some = tqdm(images.split(batch), desc="test", leave=False, disable=not progress)
    return torch.cat([model(part.to(device)).argmax(1).cpu() for part in some])


def right(model: nn.Module, data: ImageSet) -> np.ndarray:
    """Return which images of the test set a model gets right, bool (images,)."""
    return (predict(model, data.test.images) == data.test.labels).numpy()


# ---- Checkpoints. ----


def save_vit(path: str | Path, model: ViT) -> None:
    save_tensors(path, model.state_dict(), {"vit": dataclasses.asdict(model.config)})


def read_vit(path: str | Path, config: ViTConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint's tensors and metadata; BookError as ``load_vit``, or if a value is not finite."""
    tensors, metadata = load_tensors(path)
    found = metadata.get("vit", "no Vision Transformer") if isinstance(metadata, dict) else "no Vision Transformer"
    if found != dataclasses.asdict(config):
        raise BookError(f"{path} holds another model ({found}); expected {config}")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise BookError(f"{path} holds values in {name} that are not finite; train it again")
    return tensors, metadata


def load_vit(path: str | Path, config: ViTConfig) -> ViT:
    """Read a model in evaluation mode; BookError if the file is missing, damaged, or not of a model like ``config``."""
    tensors, _ = read_vit(path, config)
    with torch.random.fork_rng(devices=[]):
        model = ViT(config)
    try:
        model.load_state_dict(tensors)
    except RuntimeError:
        raise BookError(f"{path} holds tensors that do not fit its configuration {config}; train it again") from None
    return model.eval()


def card(trainer: ImageTrainer, accuracy: float, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Describe a checkpoint: its shape, its training, its images, its machine and its test accuracy.

    ``before``: the card of the checkpoint it started from, if it started from one.
    """
    return {
        "model": dataclasses.asdict(trainer.model.config),
        "training": dataclasses.asdict(trainer.config),
        "data": {"name": trainer.data.name, "source": trainer.data.source, "images": len(trainer.data.train)},
        "training_seconds": round(trainer.seconds, 1),
        "hardware": hardware(trainer.device),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "test_accuracy_pct": round(accuracy, 3),
    } | ({"started_from": before} if before else {})


# ---- The command. ----


def add_options(parser: argparse.ArgumentParser, kind: type) -> None:
    """Add every field of a configuration but the model as a flag, and the flags that any run has."""
    add_fields(parser, kind, but=("model",))
    parser.add_argument("--source", choices=("auto", "hub"), default="auto", help="where CIFAR-10 comes from")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and the state")
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out, if there is one")


def chosen_images(name: str, source: str) -> ImageSet:
    """Return the image set a command needs; BookError if it is CIFAR-10 and no folder is named."""
    data = load_images(name, source)
    if data is None:
        raise BookError(f"training on {name} needs its images; set CIFAR10_DIR, or add --source hub")
    return data


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.acap.train", description="Train a small Vision Transformer.")
    parser.add_argument("--model", choices=TRAININGS, required=True, help="model configuration, and its image set")
    parser.add_argument("--init", type=Path, help="a checkpoint of the model to start from, in place of random weights")
    add_options(parser, ImageTraining)
    given = parser.parse_args()
    config = override(TRAININGS[given.model], given)
    data = chosen_images(config.dataset, given.source)
    start = load_vit(given.init, CONFIGS[config.model]) if given.init else None
    before = read_json(given.init.with_suffix(".json"), "the card of --init") if given.init else None
    trainer = ImageTrainer(config, data, start)
    model = trainer.run(given.out, given.resume)
    accuracy = 100 * right(model, data).mean().item()
    path = given.out / f"{config.model}.safetensors"
    save_vit(path, model.cpu())
    write_json(path.with_suffix(".json"), card(trainer, accuracy, before))
    print(f"{path}: {accuracy:.2f} % of {len(data.test):,} test images from {data.source}")


if __name__ == "__main__":
    run_command(main)
