"""Eq. (1) to (7) as one problem: which accelerator, and when each product of each image and block runs on it.

What ``lib.acap.mapping`` decomposes is here left to the solver whole: for every product an option, for every call a
start. It grows with images times blocks, and the search stalls: the bound and the best design found tell how far apart.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

from ortools.sat.python import cp_model

from lib.acap.boards import Board
from lib.acap.mapping import ENDS, Limits, layers, options, solve
from lib.acap.vit import ViTConfig
from lib.errors import BookError


@dataclass(frozen=True)
class Joint:
    """What the joint search came to: latency found and bound, ms; calls scheduled; whether the gap was closed."""

    latency: float
    bound: float
    calls: int
    optimal: bool
    seconds: float

    @property
    def gap(self) -> float:
        """By how much the design found might still be bettered, as a fraction of it."""
        return 1 - self.bound / self.latency


def solve_jointly(config: ViTConfig, board: Board, blocks: int, batch: int, seconds: float) -> Joint:
    """Search allocation and schedule of the first ``blocks`` blocks together, the decomposition's design as a hint.

    Patches and head are left out. BookError if nothing was found in time.
    """
    started, short = time.monotonic(), dataclasses.replace(config, depth=blocks)
    own = [layer for layer in layers(short) if layer.name not in ENDS]
    spent = {layer.name: options(layer, board) for layer in own}
    hint = solve(short, board, batch)
    model, chosen, lasts = cp_model.CpModel(), {}, {}
    horizon = 4 * hint.objective
    for name, some in spent.items():
        chosen[name] = [model.new_bool_var(f"{name} {i}") for i in range(len(some))]
        model.add_exactly_one(chosen[name])
        lasts[name] = model.new_int_var(min(o.time for o in some), max(o.time for o in some), name)
        model.add(lasts[name] == sum(x * o.time for x, o in zip(chosen[name], some)))
        for x, option in zip(chosen[name], some):
            model.add_hint(x, option == hint.chosen[name])
    for i, limit in enumerate(Limits().of(board)):
        model.add(sum(x * o.takes[i] for n in spent for x, o in zip(chosen[n], spent[n])) <= limit)
    on_unit: dict[str, list[cp_model.IntervalVar]] = {name: [] for name in spent}
    done = model.new_int_var(0, horizon, "done")
    for image in range(batch):
        ready: cp_model.IntVar | int = 0
        for block in range(blocks):
            for layer in own:
                start, end = (model.new_int_var(0, horizon, f"{edge} {layer.name} {image} {block}") for edge in "se")
                on_unit[layer.name].append(model.new_interval_var(start, lasts[layer.name], end, ""))
                model.add(start >= ready)
                ready = end
        model.add(done >= ready)
    for intervals in on_unit.values():
        model.add_no_overlap(intervals)
    model.minimize(done)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers, solver.parameters.max_time_in_seconds = 1, seconds
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        raise BookError(f"the joint search found no design in {seconds:g} s; give it more time, or fewer blocks")
    return Joint(
        solver.objective_value / 1e6,
        solver.best_objective_bound / 1e6,
        batch * blocks * len(own),
        status == cp_model.OPTIMAL,
        time.monotonic() - started,
    )
