"""Did the tests ever move every wire? Line and toggle coverage of the core, by Verilator.

    python -m lib.silicon.coverage    (writes data/silicon/coverage.json)

A few small cores run random models with stalls, refills, resets and bad tokens, as tests/test_core.py has them. A
point (a branch, or one bit of a signal going up or down) counts as reached if it was in any instance of its module, in
any of the runs. Nothing is left out of the count; what was not reached is listed by its signal.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lib.errors import run_command
from lib.files import write_json
from lib.silicon.golden import Shape, random_model
from lib.silicon.image import Layout
from lib.silicon.simulate import Core, build
from lib.silicon.study import FOLDER, sources_hash

RUNS = (  # fewer lanes than columns, as many, several groups, the largest vocabulary: shape, lanes, drain
    (Shape(2, 32, 4, 16, 70, 8), 16, 2),
    (Shape(2, 32, 2, 16, 40, 8), 32, 8),
    (Shape(1, 16, 1, 8, 97, 4), 64, 4),
    (Shape(3, 16, 2, 32, 256, 8), 16, 1),
)
MODELS, TOKENS = 2, 150
SIGNAL = r"[^\[:]*"  # of a bit's name, up to its index or its direction


def points(folder: Path) -> Counter[tuple[str, str]]:
    """Run the cores, leaving files in ``folder``; return how often each point was reached, by (module, what)."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda run: build(Layout(*run), optimise="-O0", cover=True), RUNS))
    reached: Counter[tuple[str, str]] = Counter()
    for (shape, lanes, drain), seed in tqdm([(run, seed) for run in RUNS for seed in range(MODELS)]):
        core = Core(random_model(shape, seed), lanes, drain, seed=seed + 1, optimise="-O0", cover=True)
        rng = np.random.default_rng(seed)
        core.run(rng.integers(0, min(shape.vocab + 3, 256), TOKENS), offer=0.7, accept=0.4, seed=seed + 1)
        for _ in range(10):
            core.interrupt(int(rng.integers(0, shape.vocab)), int(rng.integers(1, 3000)))
            core.run(rng.integers(0, shape.vocab, 3))
        file = folder / "coverage.dat"
        core.cover(file)
        reached.update(_read(file))
    return reached


def _read(file: Path) -> Counter[tuple[str, str]]:
    """Read Verilator's points: the fields of one stand between bytes 1 and 2, its count at the line's end."""
    found: Counter[tuple[str, str]] = Counter()
    for line in file.read_text(errors="replace").splitlines():
        if match := re.match(r"C '(.*)' (\d+)$", line):
            fields = dict(part.split("\x02", 1) for part in match[1].split("\x01") if "\x02" in part)
            kind, _, module = fields["page"].partition("/")
            what = fields["o"] if kind == "v_toggle" else f"line {fields['l']} {fields['o']}"
            found[re.sub(r"__.*", "", module), what] += int(match[2])
    return found


def summary(reached: Counter[tuple[str, str]]) -> dict[str, Any]:
    """Count the points, and those that were not reached by module and signal, the most first."""
    unreached = (point for point, count in reached.items() if count == 0)
    missed = Counter(f"{module}: {re.match(SIGNAL, what)[0]}" for module, what in unreached)
    share = 1 - missed.total() / len(reached)
    return {"points": len(reached), "share": share, "missed": dict(missed.most_common())}


def main() -> None:
    argparse.ArgumentParser(prog="python -m lib.silicon.coverage", description="Measure coverage.").parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = summary(points(Path(folder)))
    versions = {"sources": sources_hash(), "verilator": importlib.metadata.version("verilator")}
    write_json(FOLDER / "coverage.json", versions | found)


if __name__ == "__main__":
    run_command(main)
