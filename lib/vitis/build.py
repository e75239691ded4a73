"""From a checkpoint to a folder that a board can run: ``python -m lib.vitis.build --out out/dpu``.

Rewrite, cut, calibrate, quantise, split: what comes out is the calibration set, the quantised step graph,
one ONNX file for every piece, and the manifest. ``hw/vitis_ai/compile.sh`` turns the DPU's pieces into xmodels.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from lib.checkpoint import load_metadata, load_model
from lib.corpus import SOURCES, load_stories
from lib.errors import BookError, run_command
from lib.export import OnnxStep
from lib.gpt import GPT
from lib.partition import Partition
from lib.ptq import calibration_windows, check_windows
from lib.segments import split, write
from lib.vitis.eightbit import load_eightbit, load_shipped_eightbit
from lib.vitis.quantise import cut, dpu_nodes, prepare, quantise, write_calibration
from lib.vitis.rewrite import rewritten

PREPARED, QUANTISED = "prepared.onnx", "quantised.onnx"
EVERY = 16  # one step in so many is a calibration sample


@dataclass(frozen=True)
class Built:
    """A folder of pieces, and how it was cut; ``files`` are the calibration set."""

    folder: Path
    partition: Partition
    files: list[Path]

    @property
    def quantised(self) -> Path:
        return self.folder / QUANTISED

    @property
    def prepared(self) -> Path:
        return self.folder / PREPARED


def build(model: GPT, windows: np.ndarray, folder: Path, every: int = EVERY) -> Built:
    """Build a model for the DPU, calibrated on windows (N, block) of int64 tokens, one step in ``every``.

    What an earlier build left in the folder, and what was compiled from it, goes.
    Raises BookError for a calibration set that is not the model's (``lib.ptq.check_windows``).
    """
    check_windows(windows, model)
    folder.mkdir(parents=True, exist_ok=True)
    plain = prepare(rewritten(model), folder / PREPARED)
    pieces = cut(plain)
    files = write_calibration(OnnxStep(folder / PREPARED, threads=1), windows, every, folder / "calibration")
    quantised = quantise(folder / PREPARED, files, dpu_nodes(plain, pieces), folder / QUANTISED)
    for kind in ("onnx", "xir", "xmodel"):
        for old in folder.glob(f"[0-9][0-9]_*.{kind}"):
            old.unlink()  # an xmodel does not say which model it was compiled from: it must not outlive its piece
    write(folder, split(onnx.load(quantised), plain, pieces), model.config)
    return Built(folder, pieces, files)


def load_either(path: Path) -> GPT:
    """Read a model with ReLU that ``lib.vitis.activation`` wrote, or one that ``lib.vitis.eightbit`` did."""
    return load_eightbit(path) if "deployed" in load_metadata(path) else load_model(path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.vitis.build", description="Build a checkpoint for a DPU.")
    parser.add_argument("--checkpoint", type=Path, help="a model with ReLU (default: the shipped pocket_dpu)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pieces")
    parser.add_argument("--windows", type=int, default=16, help="windows of training text to calibrate on")
    parser.add_argument("--source", choices=SOURCES, default="auto", help="where the text comes from")
    given = parser.parse_args()
    model = load_shipped_eightbit()[0] if given.checkpoint is None else load_either(given.checkpoint)
    if model.config.activation != "relu":
        raise BookError(
            f"{given.checkpoint} has {model.config.activation}, which the DPU lacks; take one that "
            "lib.vitis.activation has taught ReLU"
        )
    windows = calibration_windows(load_stories(given.source), given.windows, model.config.block)
    built = build(model, windows, given.out)
    print(f"{given.out}: {len(built.partition.subgraphs)} DPU subgraphs, calibrated on {len(built.files)} steps")


if __name__ == "__main__":
    run_command(main)
