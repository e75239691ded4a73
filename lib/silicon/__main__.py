"""Takes a reader's own checkpoint to silicon: an integer model, a simulation of it, and a bitstream for the ULX3S.

    python -m lib.silicon build my.safetensors
    python -m lib.silicon build data/integer/nano_w6.safetensors    (a model that is made of integers already)

What exists already, of the same checkpoint and the same core, is not made again: a core is placed and routed once for
all models of its shape, and after that a model takes seconds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from lib.checkpoint import load_metadata
from lib.corpus import SOURCES, load_stories
from lib.errors import BookError, run_command
from lib.files import atomic_write, sha256
from lib.silicon import bitstream, golden, model_file, study
from lib.silicon.bitstream import CLOCK_MHZ
from lib.silicon.calibrate import make
from lib.silicon.image import Layout
from lib.silicon.model_file import Calibrated, fingerprint
from lib.silicon.simulate import Core

TOKENS = 100  # at random, on which the simulated core is held against the golden model


def integer_model(checkpoint: Path, path: Path, weight_bits: int, source: str) -> Calibrated:
    """Return the integer model of a checkpoint, from ``path`` if it lies there, else calibrated and saved there.

    A file that holds an integer model is that model already. BookError where the two would be one file, besides what
    ``make`` and ``model_file.load`` raise.
    """
    if "numbers" in load_metadata(checkpoint):
        return model_file.load(checkpoint)[0]
    if path.resolve() == checkpoint.resolve():
        raise BookError(f"the integer model would take the place of {checkpoint}; choose another folder with --out")
    if path.exists():
        calibrated, card = model_file.load(path)
        same = card["checkpoint"]["sha256"] == sha256(checkpoint)
        if same and calibrated.model.shape.weight_bits == weight_bits:
            return calibrated
    calibrated, card = make(checkpoint, weight_bits, load_stories(source))
    model_file.save(path, calibrated, card)
    return calibrated


def best_seed(layout: Layout) -> int:
    """Return the seed of the placement that the committed study found best for this core; 1 for another core."""
    known = study.load("routed")["boards"]
    return next((known[str(board.lanes)]["best"] for board in study.BOARDS if board.layout == layout), 1)


def simulated(calibrated: Calibrated, layout: Layout) -> tuple[int, int]:
    """Run TOKENS through the simulated core and the golden model: tokens that differ, and clocks in all."""
    model = calibrated.model
    fed = np.random.default_rng(1).integers(0, model.shape.vocab, TOKENS)
    run, reference = Core(model, layout.lanes, layout.drain).run(fed), golden.Golden(model)
    wrong = sum(bool((reference.feed(int(token)) != logits).any()) for token, logits in zip(fed, run.logits))
    return wrong, int(run.cycles.sum())


def build(given: argparse.Namespace) -> None:
    """Make everything, printing a line for each step. Raises BookError for what does not fit or cannot be read."""
    name = given.checkpoint.stem
    calibrated = integer_model(given.checkpoint, given.out / f"{name}.safetensors", given.weight_bits, given.source)
    layout = Layout(calibrated.model.shape, given.lanes, given.drain)
    needed = bitstream.check_fits(layout)
    print(f"integer model {fingerprint(calibrated.model):016x}, {needed} of {bitstream.BLOCKS} EBR")
    wrong, clocks = simulated(calibrated, layout)
    if wrong:
        differ = f"{wrong} of {TOKENS} tokens of the simulated core differ from the golden model"
        raise BookError(f"{differ}; the core is broken")
    print(f"simulated: {TOKENS} tokens as the golden model's, {clocks // TOKENS:,} clocks each, refills included")
    seed = given.seed or best_seed(layout)
    print("placing and routing, if that core is new: some ten minutes", flush=True)
    routed = bitstream.route(bitstream.board(layout), bitstream.placeholder(layout), seed)
    if routed.fmax_mhz < CLOCK_MHZ:
        raise BookError(
            f"routing reached {routed.fmax_mhz:.1f} MHz, and the board runs at {CLOCK_MHZ:.1f}; try another --seed, "
            "or lower --lanes"
        )
    rate = 1e6 * CLOCK_MHZ * TOKENS / clocks
    print(f"routed: {routed.fmax_mhz:.1f} MHz; at {CLOCK_MHZ:.1f} MHz {rate:,.0f} tokens/s")
    start = time.monotonic()
    configuration = bitstream.swap(routed, bitstream.contents(calibrated.model, layout))
    with atomic_write(given.out / f"{name}.bit") as file:
        file.write(bitstream.packed(bitstream.pulled_up(configuration)))
    print(f"{given.out / name}.bit: the model put in in {time.monotonic() - start:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.silicon", description="From a checkpoint to a bitstream.")
    parser.add_argument("action", choices=("build",))
    parser.add_argument("checkpoint", type=Path, help="of a GPT, or an integer model")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the model and its bitstream")
    parser.add_argument("--weight-bits", type=int, default=6, help="bits of a weight, 4 to 8")
    parser.add_argument("--lanes", type=int, default=64, help="multipliers")
    parser.add_argument("--drain", type=int, default=2, help="requantisers that empty the lanes")
    parser.add_argument("--seed", type=int, help="of the placement; by default the best one known")
    parser.add_argument("--source", choices=SOURCES, default="auto", help="where the text for calibration comes from")
    build(parser.parse_args())


if __name__ == "__main__":
    run_command(main)
