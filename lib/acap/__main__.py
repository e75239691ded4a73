"""``python -m lib.acap design``: from a model, a board and a budget to the sources of a design."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from lib.acap import boards, budget, codegen, qat
from lib.acap.design import check_written
from lib.acap.integer import IntegerViT, random_integers
from lib.acap.mapping import RESOURCES
from lib.acap.placement import by_engine, place
from lib.acap.vit import ViTConfig
from lib.errors import BookError, run_command


def integers(name: str, config: ViTConfig) -> tuple[IntegerViT, str]:
    """Return the integers that a design computes, and what they are: the shipped model's, or random ones."""
    shipped = qat.shipped(f"{name}_eqvit")
    if shipped.exists():
        model, _ = qat.load_quantised(shipped, name)
        return IntegerViT.of(model), f"the weights of {shipped.name}"
    return random_integers(config), "random weights: sizes and speed are the model's, answers are not"


def report(name: str, design: budget.Design) -> None:
    """Print what was chosen."""
    mapping = design.mapping
    proof = (
        "optimal" if mapping.optimal else f"not proven optimal; no design takes less than {mapping.bound / 1e6:.3f} ms"
    )
    print(f"{name} on {mapping.board.name} in {design.widths}, {budget.accuracy(name).source} accuracy")
    print(
        f"{mapping.batch} images in {design.latency_ms:.3f} ms (modelled, {proof}), {design.images_per_s:,.0f} a second"
    )
    for layer in mapping.layers:
        t = mapping.chosen[layer.name].tiling
        streamed = ", weights streamed" if t.streamed else ""
        print(
            f"  {layer.name:6} {t.A} x {t.B} x {t.C} x {t.H} engines, {mapping.chosen[layer.name].time:,} ns{streamed}"
        )
    print("in all " + ", ".join(f"{mapping.takes(resource):,} {resource}" for resource in RESOURCES))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.acap", description="EQ-ViT's designs for Versal.")
    commands = parser.add_subparsers(dest="command", required=True)
    asked = commands.add_parser("design", help="choose widths, batch and mapping; generate the sources")
    asked.add_argument("--model", required=True, help="deit-t, deit-160, deit-256, lv-vit-t or pico-cifar10")
    asked.add_argument("--board", default="vck190", help=", ".join(boards.BOARDS))
    asked.add_argument("--latency-ms", type=float, required=True, help="budget for a batch")
    asked.add_argument("--min-accuracy", type=float, required=True, help="top-1, in per cent")
    asked.add_argument("--seconds", type=float, default=60.0, help="for each search")
    asked.add_argument("--out", type=Path, help="folder for the sources; without it the design is only reported")
    given = parser.parse_args()
    name, config = budget.model(given.model)
    generated = given.out is not None
    board = boards.board(given.board)
    if generated and board is not boards.VCK190:
        raise BookError(f"sources are written for vck190 only; leave --out away to see the design for {board.name}")
    if generated:  # what cannot be written is refused before the search and not after it
        codegen.old_files(given.out)
        check_written(config, budget.cheapest_widths(name, board, given.min_accuracy))
    design = budget.choose(name, board, given.latency_ms, given.min_accuracy, generated, given.seconds)
    report(name, design)
    if generated:
        model, what = integers(name, config)
        batch = design.mapping.batch
        shape = (batch, config.channels, config.image, config.image)
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        written = codegen.generate(design.mapping, model, given.out, by_engine(place(design.mapping)), images)
        print(f"{len(written)} files in {given.out}, with {what}, and {batch} random images with their logits")


if __name__ == "__main__":
    run_command(main)
