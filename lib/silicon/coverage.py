"""Did the tests ever move every wire? Line and toggle coverage of the core, by Verilator.

    python -m lib.silicon.coverage    (writes data/silicon/coverage.json)

A few small cores run random models with stalls, refills, resets and bad tokens, in the way of tests/test_core.py. A
point (a line, or one bit of a signal going up or down) counts as covered if any instance in any of them reached it.
Points that no run can reach are left out, each by a rule that says why.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterable

import numpy as np

from lib.errors import run_command
from lib.files import write_json
from lib.silicon import study
from lib.silicon.golden import Shape, random_model
from lib.silicon.simulate import Core, build
from lib.silicon.image import Layout

RUNS = (  # shape, lanes, drain: fewer lanes than columns, as many, several groups
    (Shape(2, 32, 4, 16, 70, 8), 16, 2),
    (Shape(2, 32, 2, 16, 40, 8), 32, 8),
    (Shape(1, 32, 2, 8, 97, 4), 128, 4),
    (Shape(3, 16, 2, 32, 256, 8), 16, 1),
)
TOKENS = 150


def points(folder: Path, models: int = 3) -> Counter[tuple[str, str]]:
    """Run the cores, and count how often each point was reached, by (module, what)."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda run: build(Layout(*run), cover=True), RUNS))
    reached: Counter[tuple[str, str]] = Counter()
    for i, (shape, lanes, drain) in enumerate(RUNS):
        for seed in range(models):
            core = Core(random_model(shape, seed), lanes, drain, seed=seed + 1, cover=True)
            rng = np.random.default_rng(seed)
            core.run(rng.integers(0, min(shape.vocab + 3, 256), TOKENS), 0.7, 0.4, seed=seed + 1)
            for _ in range(10):
                core.interrupt(int(rng.integers(0, shape.vocab)), int(rng.integers(1, 3000)))
                core.run(rng.integers(0, shape.vocab, 3))
            file = folder / f"{i}-{seed}.dat"
            core.cover(file)
            reached.update(_read(file))
    return reached


def _read(file: Path) -> Counter[tuple[str, str]]:
    """Read Verilator's points: fields of a point stand between bytes 1 and 2, its count at the line's end."""
    found: Counter[tuple[str, str]] = Counter()
    for line in file.read_text(errors="replace").splitlines():
        if match := re.match(r"C '(.*)' (\d+)$", line):
            fields = dict(part.split("\x02", 1) for part in match[1].split("\x01") if "\x02" in part)
            kind, _, module = fields["page"].partition("/")
            what = fields["o"] if kind == "v_toggle" else f"line {fields['l']} {fields['o']}"
            found[re.sub(r"__.*", "", module), what] += int(match[2])
    return found
