"""Pruning: which weights go, when they go, and how the rest recovers.

    python -m lib.prune --pattern unstructured --sparsity 0.5 --out out/prune-unstructured

A *pattern* says which weights of a model to keep; a *schedule* says how many go at which step of a
fine-tuning run. Only the Linear layers inside the blocks are pruned: the token embedding, which is
also the head, the position embedding, biases and LayerNorm stay dense. Masks are those of
``torch.nn.utils.prune``: while a model is being pruned each weight is its ``weight_orig`` times its
``weight_mask``; ``remove`` makes plain weights, some of them zero, of the two.
"""

from __future__ import annotations

import argparse
import copy
import os
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.utils import prune

from lib.checkpoint import load_shipped
from lib.corpus import Corpus
from lib.errors import BookError, run_command
from lib.gpt import CONFIGS, GPT
from lib.train import Place, TrainConfig, Trainer, add_options, chosen_corpus, option, override, place, report_best, run

Masks = dict[str, Tensor]  # a Linear's name -> bool (out, in), true where the weight stays
Pattern = Callable[[GPT, float], Masks]

RATE = 0.1  # of what remains, pruned in a round: section 2.2 of the report
LANES = 64  # multipliers of the hardware that the shipped lane-balanced checkpoint is for
BANK = 16


def block_linears(model: GPT) -> dict[str, nn.Module]:
    """Return the layers that pruning touches: all in the blocks that hold a matrix, quantised ones too, by name."""
    inside = {name: module for name, module in model.named_modules() if name.startswith("blocks.")}
    return {name: module for name, module in inside.items() if getattr(module, "weight", torch.empty(0)).dim() == 2}


def magnitudes(model: GPT) -> dict[str, Tensor]:
    """Return |weight| of each of them, (out, in), zero where a mask has already taken the weight."""
    found = {}
    for name, linear in block_linears(model).items():
        weight = linear.weight_orig * linear.weight_mask if prune.is_pruned(linear) else linear.weight
        found[name] = weight.detach().abs()
    return found


def sparsity_of(model: GPT) -> float:
    """Return the share of zeros among the weights of the blocks' Linear layers."""
    found = magnitudes(model).values()
    return sum(int((m == 0).sum()) for m in found) / sum(m.numel() for m in found)


def check_sparsity(sparsity: float) -> float:
    """Return ``sparsity`` if it is a share that leaves something; raise BookError otherwise."""
    if not 0 <= sparsity < 1:
        raise BookError(f"the sparsity {sparsity} is outside [0, 1); give the share of weights to prune, as in 0.5")
    return sparsity


# ---- Patterns. ----


def keep_largest(scores: Tensor, keep: int) -> Tensor:
    """Mark the ``keep`` largest of each row of scores (groups, members): bool, same shape."""
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :keep]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, order, True)


def n_of_m(model: GPT, sparsity: float, m: int | None) -> Masks:
    """Keep the same number of weights in each run of ``m`` inputs of a row; None makes it the whole row.

    ``m`` = 4 at a sparsity of a half is the 2:4 of NVIDIA's sparse tensor cores, 16 is a bank of memory
    (bank-balanced sparsity, Cao et al., FPGA 2019), a whole row is what one output's accumulator reads.
    Raises BookError if a run would keep a fraction of a weight.
    """
    masks = {}
    for name, scores in magnitudes(model).items():
        size = m or scores.shape[1]
        if scores.shape[1] % size:
            raise BookError(f"{name} has {scores.shape[1]} inputs, which do not divide into runs of {size}; change it")
        masks[name] = keep_largest(scores.reshape(-1, size), kept_of(size, sparsity)).view_as(scores)
    return masks


def kept_of(size: int, sparsity: float, remedy: str = "") -> int:
    """Return how many of ``size`` weights stay. BookError, ending in ``remedy``, if it is a fraction of one."""
    keep = size * (1 - sparsity)
    if abs(keep - round(keep)) > 1e-9:
        raise BookError(
            f"sparsity {sparsity:g} leaves {keep:g} weights in each {size}; choose a multiple of 1/{size}{remedy}"
        )
    return round(keep)


def lane_balanced(model: GPT, sparsity: float, lanes: int = LANES) -> Masks:
    """Keep equally many weights for each of ``lanes`` hardware lanes, over each whole matrix.

    Lane i computes the outputs (rows) i, i + lanes, i + 2 lanes ... of every matrix, skips their zeros,
    and finishes with the others because all have the same number of weights to multiply. How many
    weights a matrix keeps follows from one threshold over the whole model, rounded to whole lanes.
    """
    scores = magnitudes(model)
    quota = lane_quota(scores, sparsity, lanes)
    masks = {}
    for name, matrix in scores.items():
        by_lane = matrix.view(-1, lanes, matrix.shape[1]).transpose(0, 1)  # (lanes, rows of a lane, in)
        kept = keep_largest(by_lane.flatten(1), quota[name]).view_as(by_lane)
        masks[name] = kept.transpose(0, 1).reshape(matrix.shape)
    return masks


def lane_quota(scores: dict[str, Tensor], sparsity: float, lanes: int) -> dict[str, int]:
    """Return how many weights each lane keeps of each matrix."""
    wide = [name for name, matrix in scores.items() if matrix.shape[0] % lanes]
    if wide:
        raise BookError(f"{wide[0]} has {len(scores[wide[0]])} rows, which do not divide into {lanes} lanes; change it")
    total = round(sum(m.numel() for m in scores.values()) * (1 - sparsity) / lanes)  # weights a lane, in all
    flat = torch.cat([m.flatten() for m in scores.values()])
    kept = keep_largest(flat[None], total * lanes)[0].split([m.numel() for m in scores.values()])
    shares = torch.tensor([int(part.sum()) / lanes for part in kept])
    quota = shares.floor()
    quota[(shares - quota).argsort(descending=True, stable=True)[: total - int(quota.sum())]] += 1
    return {name: int(q) for name, q in zip(scores, quota)}


def heads(model: GPT, sparsity: float) -> Masks:
    """Keep whole attention heads: a share of the *attention's* weights goes, a third of all weights.

    A head's importance is the sum of squares of its query, key and value rows and its output columns;
    heads of all layers compete.
    """
    return _units(model, sparsity, "attention", ("qkv", "out"), model.config.n_head)


def neurons(model: GPT, sparsity: float) -> Masks:
    """Keep whole feed-forward neurons: a share of the *feed-forward's* weights goes, two thirds of all.

    A neuron's importance is the sum of squares of its row of ``up`` and its column of ``down``.
    """
    return _units(model, sparsity, "feed_forward", ("up", "down"), 4 * model.config.n_embd)


def heads_and_neurons(model: GPT, sparsity: float) -> Masks:
    """Keep whole heads and whole neurons: the same share of either goes, so that share of all weights."""
    return heads(model, sparsity) | neurons(model, sparsity)


def _units(model: GPT, sparsity: float, part: str, ends: tuple[str, str], units: int) -> Masks:
    """Keep whole units of every layer: each a set of rows of the first matrix, of columns of the second."""
    scores = magnitudes(model)
    names = [(f"blocks.{i}.{part}.{ends[0]}", f"blocks.{i}.{part}.{ends[1]}") for i in range(model.config.n_layer)]
    width = model.config.n_embd if part == "attention" else units  # a unit's rows lie in runs of width / units
    importance = []
    for first, last in names:
        rows = scores[first].square().sum(1).view(-1, units, width // units).sum((0, 2))  # q, k and v alike
        importance.append(rows + scores[last].square().sum(0).view(units, -1).sum(1))
    kept = keep_largest(torch.stack(importance).view(1, -1), round(len(names) * units * (1 - sparsity)))
    masks = {}
    for (first, last), layer in zip(names, kept.view(-1, units)):
        channel = layer.repeat_interleave(width // units)  # (width,)
        masks[first] = channel.repeat(len(scores[first]) // width)[:, None].expand_as(scores[first])
        masks[last] = channel[None, :].expand_as(scores[last])
    return masks


def unstructured(model: GPT, sparsity: float) -> Masks:
    """Keep the largest weights of the whole model, wherever they are: PyTorch's global L1 pruning."""
    model = finished(model)
    targets = [(linear, "weight") for linear in block_linears(model).values()]
    amount = round(sparsity * sum(linear.weight.numel() for linear, _ in targets))
    prune.global_unstructured(targets, prune.L1Unstructured, amount=amount)
    return {name: linear.weight_mask.bool() for name, linear in block_linears(model).items()}


def per_matrix(model: GPT, sparsity: float) -> Masks:
    """Keep the largest weights of each matrix, the same share of every one: PyTorch's L1 pruning, layer by layer."""
    scores = magnitudes(model)
    kept = {name: round(matrix.numel() * (1 - sparsity)) for name, matrix in scores.items()}
    return {name: keep_largest(matrix.view(1, -1), kept[name]).view_as(matrix) for name, matrix in scores.items()}


RUNS = {"row_balanced": None, "bank_balanced": BANK, "two_four": 4}  # pattern -> m of ``n_of_m``
PATTERNS: dict[str, Pattern] = {
    "unstructured": unstructured,
    "lane_balanced": lane_balanced,
    "per_matrix": per_matrix,
    **{name: partial(n_of_m, m=m) for name, m in RUNS.items()},
    "heads": heads,
    "neurons": neurons,
    "heads_and_neurons": heads_and_neurons,
}


def lane_loads(kept: Tensor, lanes: int = LANES) -> Tensor:
    """Count the weights that each lane multiplies: a mask or matrix (out, in) -> int64 (lanes,)."""
    return (kept != 0).view(-1, lanes, kept.shape[1]).sum((0, 2))


# ---- Masking and unmasking a model. ----


def apply(model: GPT, pattern: str, sparsity: float) -> None:
    """Mask a model in place, on top of the masks it has. BookError for an unknown pattern or a bad sparsity."""
    if pattern not in PATTERNS:
        raise BookError(f"the pattern {pattern!r} is unknown; choose one of {', '.join(PATTERNS)}")
    masks = PATTERNS[pattern](model, check_sparsity(sparsity))
    for name, linear in block_linears(model).items():
        if name in masks:
            prune.custom_from_mask(linear, "weight", masks[name])


@torch.no_grad()
def remove(model: GPT) -> GPT:
    """Make a masked model's pruned weights plain zeros, in place: ``prune.remove`` on every masked layer."""
    for linear in block_linears(model).values():
        if prune.is_pruned(linear):
            prune.remove(linear, "weight")
            linear.weight += 0.0  # a negative weight times its mask is -0.0, whose sign no file compressor can drop
    return model


def finished(model: GPT) -> GPT:
    """Return a copy of a model, as ``remove`` would make it; the model itself stays masked."""
    for linear in block_linears(model).values():
        if prune.is_pruned(linear):
            linear.weight = linear.weight.detach()  # deepcopy refuses the product of a computation
    return remove(copy.deepcopy(model))


def one_shot(model: GPT, pattern: str, sparsity: float) -> GPT:
    """Return a copy of a model, pruned at once and not fine-tuned."""
    masked = finished(model)
    apply(masked, pattern, sparsity)
    return remove(masked)


# ---- Fine-tuning. ----


@dataclass(frozen=True)
class PruneConfig(TrainConfig):
    """A pruning run from the shipped checkpoint ``model``: the pattern, its rounds, and the fine-tuning."""

    pattern: str = option("unstructured", "pattern of the zeros")
    sparsity: float = option(0.5, "share of the blocks' weights pruned at the end")
    rate: float = option(RATE, "share of what remains that a round prunes; 1 prunes at once")
    interval: int = option(100, "steps from one round to the next")
    distil: float = option(0.0, "weight, 0 to 1, of the dense model's probabilities as targets")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sparsity(self.sparsity)
        if self.pattern not in PATTERNS:
            raise BookError(f"the pattern {self.pattern!r} is unknown; choose one of {', '.join(PATTERNS)}")
        if not 0 < self.rate <= 1:
            raise BookError(f"rate is {self.rate}; it must be above 0 and at most 1")
        if not 0 <= self.distil <= 1:
            raise BookError(f"distil is {self.distil}; it must be from 0 to 1")
        if self.interval < 1 or self.interval * (len(rounds(self.sparsity, self.rate)) - 1) >= self.steps:
            raise BookError(
                f"{self.steps} steps end before the last round is reached; raise --steps or lower --interval"
            )
        if self.pattern in RUNS:
            size = RUNS[self.pattern] or CONFIGS[self.model].n_embd  # the longer rows are multiples of it
            for reached in reversed(rounds(self.sparsity, self.rate)):
                kept_of(size, reached, "" if reached == self.sparsity else ", or prune at once with --rate 1")


def rounds(sparsity: float, rate: float = RATE) -> list[float]:
    """Return the sparsity after each round, if each prunes ``rate`` of what remains and the last ends on it."""
    reached, kept = [], 1 - rate
    while 1 - kept < sparsity - 1e-9:
        reached.append(1 - kept)
        kept *= 1 - rate
    return [*reached, sparsity] if sparsity else []


# What the shipped checkpoints were pruned with; short trials chose the rate and the targets.
PRUNING = PruneConfig("pocket", 1800, 16, 1, 1.5e-3, 1e-5, 40, eval_every=90, bf16="on", interval=90, distil=1.0)


class Pruner(Trainer):
    """A trainer that masks its model as it goes. Masks are part of the model's state, so runs resume."""

    config: PruneConfig

    def __init__(self, config: PruneConfig, data: Corpus, here: Place, model: GPT | None = None) -> None:
        """Start from a copy of ``model``, or from the shipped checkpoint that the configuration names."""
        dense, _ = load_shipped(config.model)
        super().__init__(config, data, here, copy.deepcopy(model or dense))
        self.dense = dense.to(here.device)
        self.rounds = rounds(config.sparsity, config.rate)
        for linear in block_linears(self.model).values():
            prune.identity(linear, "weight")  # from here on, masks are among the model's buffers

    def take_step(self) -> None:
        done, rest = divmod(self.step, self.config.interval)
        if rest == 0 and done < len(self.rounds):
            apply(self.model, self.config.pattern, self.rounds[done])
        super().take_step()

    def loss(self, logits: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy against the text, the dense model's probabilities, or a mixture (Hinton et al., 2015)."""
        share = self.config.distil
        loss = (1 - share) * super().loss(logits, inputs, targets) if share < 1 else 0.0
        if share:
            loss = loss + share * self.distillation(self.dense, logits, inputs)
        return loss

    def snapshot(self) -> GPT | None:
        """Return the model without its masks once the last round is done."""
        final = not self.rounds or self.step > self.config.interval * (len(self.rounds) - 1)
        return finished(self.model) if final else None


def fine_tune(
    config: PruneConfig, data: Corpus, out: str | os.PathLike[str], model: GPT | None = None, **options: Any
) -> GPT:
    """Prune and fine-tune; return the final model, unmasked, on the CPU, in evaluation mode.

    ``model`` is where to start, by default the shipped checkpoint; ``out`` and the options are those of
    ``lib.train.run``, and so are the errors.
    """
    with place() as here:
        return remove(run(Pruner(config, data, here, model), out, **options)).eval().cpu()


# ---- The command. ----


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.prune", description="Prune and fine-tune a shipped model.")
    add_options(parser, PruneConfig)
    given = parser.parse_args()
    config = override(PRUNING, given)
    data = chosen_corpus(given)
    print(f"pruning {config.model} to {config.sparsity:.0%} ({config.pattern}) on {data.describe()}")
    fine_tune(config, data, given.out, resume=given.resume, wandb_project=given.wandb)
    report_best(given.out)


if __name__ == "__main__":
    run_command(main)
