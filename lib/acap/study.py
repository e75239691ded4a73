"""Table VII in kind: every method on one image set, over several seeds, compared image by image.

    python -m lib.acap.study --dataset cifar10 --out out/study --workers 2

The command trains what ``data/acap/<dataset>.safetensors`` holds: for each method and seed, which images of the full
test set it got right. It goes on where it was stopped. Differences between methods are paired: the same images, the
same seeds, and an interval that resamples both.
"""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Sequence

import joblib
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lib import ROOT
from lib.acap.images import DATASETS, ImageSet
from lib.acap.qat import (
    CALIBRATION,
    RUNS,
    QatTraining,
    add_models,
    chosen_models,
    load_quantised,
    save_quantised,
    train_method,
)
from lib.acap.quantise import ABLATIONS, RECIPES, quantise, recipe
from lib.acap.train import TRAININGS, ImageTrainer, ImageTraining, chosen_images, digest, right
from lib.acap.vit import ViT
from lib.bench import threads
from lib.checkpoint import load_tensors, save_tensors
from lib.errors import BookError, run_command
from lib.train import hardware

STUDIES = ROOT / "data" / "acap"
SEEDS = (1, 2, 3)
RESAMPLES = 2000

Run = tuple[str, int]  # a method and a seed


@dataclass(frozen=True)
class Study:
    """What was right: for each method and seed a bool array over the images of the test set. ``facts`` says of what."""

    right: Mapping[Run, np.ndarray]
    facts: Mapping[str, Any]

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(method for method, _ in self.right))

    def seeds(self, method: str) -> list[int]:
        """List a method's seeds; BookError for a method that the study lacks."""
        found = [seed for name, seed in self.right if name == method]
        if not found:
            raise BookError(f"the study holds no method {method!r}; it holds: {', '.join(self.methods)}")
        return found

    def table(self, method: str) -> np.ndarray:
        """Return bool (seeds, images)."""
        return np.stack([self.right[method, seed] for seed in self.seeds(method)])

    def accuracy(self, method: str) -> float:
        """Per cent of the test set, averaged over the seeds."""
        return 100 * float(self.table(method).mean())

    def difference(self, method: str, other: str = "fp32") -> tuple[float, float, float]:
        """Return how much better ``method`` is than ``other``, in points of accuracy, and the 95 % interval's two ends.

        Paired bootstrap over images and seeds: with three seeds the interval speaks for these images' kind rather than
        for all seeds there could be. Only seeds that both were run on count; BookError if there are none.
        """
        seeds = sorted(set(self.seeds(method)) & set(self.seeds(other)))
        if not seeds:
            raise BookError(f"{method} and {other} were run on no seed in common; compare methods that were")
        won = np.stack([self.right[method, s].astype(np.int8) - self.right[other, s] for s in seeds])  # -1, 0 or 1
        rng = np.random.default_rng(0)
        means = [
            won[rng.integers(0, len(won), len(won))][:, rng.integers(0, won.shape[1], won.shape[1])].mean()
            for _ in range(RESAMPLES)
        ]
        low, high = np.percentile(means, (2.5, 97.5))
        return 100 * float(won.mean()), 100 * float(low), 100 * float(high)


# ---- Running it. ----


@dataclass(frozen=True)
class Starting:
    """A seed's trained model, what it learns from, and how it is trained on."""

    base: ViT
    teacher: ViT
    training: QatTraining


def train_one(method: str, seed: int, start: Starting, data: ImageSet, out: Path | None = None) -> ViT:
    """Train one method from a seed's model, on one core; ``out`` receives the state of the training.

    The order of the images is the seed's, the same for every method.
    """
    config = dataclasses.replace(start.training, method=method, seed=seed)
    with threads(1):
        return train_method(config, data, start.base, start.teacher, out=out, resume=True, progress=False)


def calibrate_one(method: str, fp32: ViT, data: ImageSet) -> ViT:
    """Quantise a trained FP32 model by a method that needs no training."""
    return quantise(fp32, recipe(method), data.train.images[:CALIBRATION])


def run_all(
    methods: Sequence[str], starts: Mapping[int, Starting], data: ImageSet, workers: int = 2, progress: bool = True
) -> dict[Run, ViT]:
    """Run methods on every seed, so many at a time, each on one core; return the models.

    Methods that need no training quantise the ``fp32`` model of their seed, which has seen the same images as those
    that do, and learned from the larger teacher.
    """
    trained = ["fp32", *(m for m in methods if m != "fp32" and recipe(m).trained)]
    runs = [(method, seed) for method in trained for seed in starts]
    jobs = (joblib.delayed(train_one)(method, seed, starts[seed], data) for method, seed in runs)
    found = joblib.Parallel(workers, return_as="generator")(jobs)
    models = dict(zip(runs, tqdm(found, total=len(runs), desc="methods", leave=False, disable=not progress)))
    for method in methods:
        if not recipe(method).trained:
            models |= {(method, seed): calibrate_one(method, models["fp32", seed], data) for seed in starts}
    return {(method, seed): models[method, seed] for method in methods for seed in starts}


def train_bases(
    dataset: str, seeds: Sequence[int], data: ImageSet, workers: int = 2, progress: bool = True
) -> dict[int, Starting]:
    """Train, from random weights, one larger model and for each seed a small one that will learn from it."""
    names = [f"teacher_{dataset}"] + [f"pico_{dataset}" for _ in seeds]
    configs = [dataclasses.replace(TRAININGS[name], seed=seed) for name, seed in zip(names, (1, *seeds))]
    jobs = (joblib.delayed(_train_base)(config, data) for config in configs)
    found = joblib.Parallel(workers, return_as="generator")(jobs)
    teacher, *bases = tqdm(found, total=len(configs), desc="FP32 models", leave=False, disable=not progress)
    return {seed: Starting(base, teacher, RUNS[f"pico_{dataset}"]) for seed, base in zip(seeds, bases)}


def _train_base(config: ImageTraining, data: ImageSet) -> ViT:
    with threads(1):
        return ImageTrainer(config, data).run(progress=False).cpu()


# ---- On disk. ----


def save_study(path: Path, study: Study) -> None:
    """Write a study: one bit an image, atomically."""
    tensors = {
        f"{method}/{seed}": torch.from_numpy(np.packbits(found)) for (method, seed), found in study.right.items()
    }
    save_tensors(path, tensors, dict(study.facts))


def load_study(dataset: str) -> Study:
    """Read a committed study; BookError if it is missing, damaged, or of another image set."""
    path = STUDIES / f"{dataset}.safetensors"
    tensors, facts = load_tensors(path)
    if not isinstance(facts, dict) or facts.get("dataset") != dataset or not isinstance(facts.get("images"), int):
        raise BookError(f"{path} is no study of {dataset}; run lib.acap.study again")
    order = [f"{method}/{seed}" for method in (*RECIPES, *ABLATIONS, "base", "teacher") for seed in SEEDS]
    if not tensors or not set(tensors) <= set(order):
        raise BookError(f"{path} holds other methods than this book's; run lib.acap.study again")
    runs = [name for name in order if name in tensors]
    return Study({_run(name): _unpack(tensors[name], facts["images"], path) for name in runs}, facts)


def _run(name: str) -> Run:
    method, seed = name.split("/")
    return method, int(seed)


def _unpack(packed: Tensor, count: int, path: Path) -> np.ndarray:
    """Return the first ``count`` bits, bool; BookError if ``packed`` holds another number of bytes."""
    if packed.dtype != torch.uint8 or packed.shape != ((count + 7) // 8,):
        raise BookError(f"{path} does not hold one bit for each of {count:,} images; run lib.acap.study again")
    return np.unpackbits(packed.numpy(), count=count).astype(bool)


# ---- The command. ----


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.acap.study", description="Run every method of Table VII.")
    parser.add_argument("--dataset", choices=DATASETS, default="cifar10")
    parser.add_argument("--source", choices=("auto", "hub"), default="auto", help="where CIFAR-10 comes from")
    add_models(parser)
    parser.add_argument("--steps", type=int, help="optimiser steps of each training")
    parser.add_argument("--ablation-seeds", type=int, default=len(SEEDS), help="seeds of the ablation")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, each on one core")
    parser.add_argument("--out", type=Path, required=True, help="folder for states, checkpoints and the study")
    given = parser.parse_args()
    if given.workers < 1 or not 1 <= given.ablation_seeds <= len(SEEDS):
        raise BookError(f"--workers must be at least 1, and --ablation-seeds 1 to {len(SEEDS)}; correct them")
    data = chosen_images(given.dataset, given.source)
    student = f"pico_{given.dataset}"
    training = RUNS[student] if given.steps is None else dataclasses.replace(RUNS[student], steps=given.steps)
    start = Starting(*chosen_models(given.dataset, given), training)
    runs = [(method, seed) for seed in SEEDS for method in RECIPES]
    runs += [(method, seed) for seed in SEEDS[: given.ablation_seeds] for method in ABLATIONS]
    trained = [run for run in runs if recipe(run[0]).trained]
    jobs = (joblib.delayed(_kept_run)(method, seed, start, data, given.out) for method, seed in trained)
    found = joblib.Parallel(given.workers, return_as="generator")(jobs)
    results = dict(zip(trained, tqdm(found, total=len(trained), desc="trained methods")))
    for method, seed in tqdm([run for run in runs if run not in results], desc="calibrated methods"):
        fp32, _ = load_quantised(given.out / f"fp32_{seed}" / "model.safetensors", student)
        results[method, seed] = right(calibrate_one(method, fp32, data), data)
    for name, model in (("base", start.base), ("teacher", start.teacher)):
        results[name, SEEDS[0]] = right(model, data)
    with threads(1):  # what each run had
        facts = _facts(start, data) | {"torch": torch.__version__, "hardware": hardware(torch.device("cpu"))}
    study = Study(results, facts)
    save_study(given.out / f"{given.dataset}.safetensors", study)
    for method in study.methods:
        print(f"{method:14} {study.accuracy(method):6.2f} %")


def _facts(start: Starting, data: ImageSet) -> dict[str, Any]:
    """Return what a run depends on besides its method and seed."""
    models = {"base": digest(start.base), "teacher": digest(start.teacher)}
    images = {"dataset": data.name, "source": data.source, "images": len(data.test)}
    return images | models | {"training": dataclasses.asdict(start.training)}


def _kept_run(method: str, seed: int, start: Starting, data: ImageSet, out: Path) -> np.ndarray:
    """Train a method, or read what an earlier run of it left; BookError if that was another run."""
    folder = out / f"{method}_{seed}"
    kept, facts = folder / "right.safetensors", _facts(start, data) | {"method": method, "seed": seed}
    if kept.exists():
        tensors, found = load_tensors(kept)
        if found != facts:
            raise BookError(f"{folder} belongs to a run with other settings, models or images; choose another --out")
        return _unpack(tensors["right"], len(data.test), kept)
    model = train_one(method, seed, start, data, folder)
    found = right(model, data)
    save_quantised(folder / "model.safetensors", model, method)
    save_tensors(kept, {"right": torch.from_numpy(np.packbits(found))}, facts)
    return found


if __name__ == "__main__":
    run_command(main)
