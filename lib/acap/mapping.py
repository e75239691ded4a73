"""Which engines make which matrix product: EQ-ViT's design space and its exploration, Eq. (1) to (7).

Each product of a block has an accelerator of its own, a grid of AI Engines (AIEs); what lies between two products
runs in programmable logic (PL) as the data pass. ``options`` lists what an accelerator can be and what it costs in
time and in resources, ``solve`` chooses one option for each by constraint programming, ``schedule`` plays a batch of
images through the chosen design. The paper's formulation as one problem is ``lib.acap.monolith``.

How long one call of an accelerator takes, the paper leaves open. Here an engine loads a window of rows, multiplies it
and sends the result on, one after the other. Each weight lies in one engine only, as
in the published tiling of DeiT-T. Times are in nanoseconds, sizes in bytes.
"""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass, field

import numpy as np
from ortools.sat.python import cp_model

from lib.acap import aie
from lib.acap.boards import INT8, Board, Widths
from lib.acap.vit import CONFIGS, ViTConfig, products
from lib.errors import BookError

TILE = 8  # rows of one instruction, and the step in which the inner side and the columns are cut
STACK = 2048  # bytes of an engine's memory that its program keeps
BROADCAST = 8  # engines that one stream can feed
ENDS = ("patch", "head")  # the products that are no block's
SPLITS = 48  # accelerators are cut into at most so many columns, and inner parts of two thirds as many


@dataclass(frozen=True)
class Layer:
    """A matrix product of one image: ``copies`` products (rows x inner) by (inner x columns) at a time.

    ``blocks``: how many sets of weights of this shape there are; 0 if both factors are activations.
    """

    name: str
    rows: int
    inner: int
    columns: int
    copies: int = 1
    blocks: int = 0

    def macs(self, batch: int) -> int:
        """Count the multiply-accumulates of a batch through the product once."""
        return batch * self.copies * self.rows * self.inner * self.columns

    def moved(self, batch: int) -> int:
        """Count the numbers that a batch reads and writes if all of them lie elsewhere; weights are read once."""
        right = self.inner * self.columns * (1 if self.blocks else batch * self.copies)
        return batch * self.copies * self.rows * (self.inner + self.columns) + right


def layers(config: ViTConfig) -> list[Layer]:
    """List the products of a model in order; tokens are padded to whole tiles of 8 rows (197 to 200).

    A convolution stem is no product and is not mapped: tokens arrive ready.
    """
    tokens, found = -(-config.tokens // TILE) * TILE, []
    for p in products(config):
        if p.name == "patch" and config.stem == "conv":
            continue
        rows = tokens if p.rows > 1 else TILE
        inner = tokens if p.inner == config.tokens else p.inner
        columns = tokens if p.columns == config.tokens else p.columns
        in_blocks = p.name not in ENDS
        copies = p.copies // config.depth if in_blocks else p.copies
        blocks = 0 if p.type1 else config.depth if in_blocks else 1
        found.append(Layer(p.name, rows, inner, columns, copies, blocks))
    return found


# Table III's models as they are mapped. LV-ViT has four convolutions for a patch product; the paper leaves them out.
MODELS = {name: CONFIGS[name] for name in ("deit_t", "deit_160", "deit_256")} | {"lv_vit_t": CONFIGS["lv_vit_t_stem"]}
RESOURCES = ("engines", "ports in", "ports out", "buffers", "DSPs")


@dataclass(frozen=True)
class Limits:
    """What a design may take of a board; None stands for all of it."""

    engines: int | None = None
    ports_in: int | None = None
    ports_out: int | None = None

    def of(self, board: Board) -> tuple[int, ...]:
        own = (self.engines, self.ports_in, self.ports_out)
        whole = (board.engines, board.ports_in, board.ports_out)
        return (*(b if a is None else a for a, b in zip(own, whole)), board.buffers, board.dsps)


@dataclass(frozen=True)
class Tiling:
    """An accelerator: rows cut into A parts, the inner side into B (a cascade), columns into C, for H copies at a time.

    ``streamed``: weights come from PL for every call instead of lying in the engines' memories.
    """

    A: int
    B: int
    C: int
    H: int = 1
    streamed: bool = False

    @property
    def engines(self) -> int:
        return self.A * self.B * self.C * self.H


@dataclass(frozen=True)
class Option:
    """A tiling with its cost: the time of one call, and how much it takes of each of ``RESOURCES``."""

    tiling: Tiling
    time: int
    takes: tuple[int, ...]


def _up(x: np.ndarray, to: int) -> np.ndarray:
    return -(-x // to) * to


@dataclass(frozen=True)
class Kernel:
    """How the engines compute. ``generated``: as ``lib.acap.codegen`` writes them, for the models of this book.

    These have a scale for each column, 8 bytes a column and block beside the weights, where the paper has one for all;
    attention's second product decodes its codes in memory; and patch and head hand out sums of 32 bits.
    """

    widths: Widths = INT8
    generated: bool = False


def cost(layer: Layer, board: Board, A, B, C, H, streamed, kernel: Kernel = Kernel()) -> dict[str, np.ndarray]:
    """Return time, resources and engine memory of tilings, all arrays of one shape (or whole numbers)."""
    widths = kernel.widths
    rows, inner, columns = (_up(-(-x // n), TILE) for x, n in ((layer.rows, A), (layer.inner, B), (layer.columns, C)))
    weights = layer.blocks > 0
    resident = weights & ~streamed
    left, right = widths.activations / 8, (widths.weights if weights else widths.activations) / 8  # bytes of a factor
    macs = board.macs_at(widths if weights else Widths(widths.activations, widths.activations))
    if kernel.generated and layer.name == "av":
        macs //= 2  # hw/acap decodes softmax's codes to 16 bits, which engines multiply by 8 at half the rate (UG1079)
    load = rows * inner * left / board.port
    fetch = np.where(resident, 0, inner * columns * right / board.port)
    multiply = (rows * inner * columns / macs + aie.PAPER.call) / board.engine_ghz
    store = rows * columns * (4 if kernel.generated and layer.name in ENDS else left) / board.port
    calls = -(-layer.copies // H)
    held = np.where(resident, layer.blocks, 2) * inner * columns * right + 2 * TILE * (inner + columns) * left + STACK
    if kernel.generated:
        held = held + 8 * columns * layer.blocks + (2 * TILE * inner if layer.name == "av" else 0)
    lhs = A * B * -(-C // BROADCAST) * H
    rhs = np.where(resident, 0, B * C * -(-A // BROADCAST) * H)
    activations = layer.copies * layer.rows * (layer.inner + layer.columns) * left
    kept = np.where(weights & streamed, layer.blocks * layer.inner * layer.columns * right, 0)
    return {
        "time": np.ceil(calls * (np.maximum(load, fetch) + multiply + store)),
        "engines": A * B * C * H,
        "ports in": lhs + rhs,
        "ports out": A * C * H,
        "buffers": np.ceil(2 * activations + kept + 0 * A),  # ping and pong
        "DSPs": 0 * A,
        "held": np.ceil(held),
    }


def options(layer: Layer, board: Board, kernel: Kernel = Kernel()) -> list[Option]:
    """List the accelerators worth considering for a layer: no other is at least as good in time and every resource."""
    weights = layer.blocks > 0
    splits = [np.arange(1, most + 1) for most in (1 if weights else TILE, 2 * SPLITS // 3, SPLITS, layer.copies)]
    grids = [grid.ravel() for grid in np.meshgrid(*splits, [False, True] if weights else [True], indexing="ij")]
    A, B, C, H, streamed = grids
    found = cost(layer, board, A, B, C, H, streamed, kernel) | {"H": H}
    whole = np.ones(len(A), bool)
    for size, n in ((layer.rows, A), (layer.inner, B), (layer.columns, C)):
        whole &= (n - 1) * _up(-(-size // n), TILE) < size  # no part is empty
    fits = whole & (layer.copies % H == 0) & (found["held"] <= board.memory)
    limits = Limits().of(board)
    for name, limit in zip(RESOURCES, limits):
        fits &= found[name] <= limit
    where = np.flatnonzero(fits)
    if not len(where):
        raise BookError(_why_not(layer, board, found, whole, limits))
    table = np.stack([found[name][where] for name in ("time", *RESOURCES)], axis=1).astype(np.int64)
    chosen = where[_undominated(table)]
    return [
        Option(
            Tiling(int(A[i]), int(B[i]), int(C[i]), int(H[i]), bool(streamed[i] and weights)),
            int(found["time"][i]),
            tuple(int(found[name][i]) for name in RESOURCES),
        )
        for i in chosen
    ]


def _undominated(table: np.ndarray) -> np.ndarray:
    """Return the rows that no other row equals or undercuts in every column; of equal rows the first."""
    order = np.lexsort(table.T[::-1])
    kept: list[int] = []
    best = np.empty((0, table.shape[1]), np.int64)
    for start in range(0, len(order), 512):
        some = order[start : start + 512]
        some = some[~(best[None] <= table[some][:, None]).all(axis=2).any(axis=1)] if len(best) else some
        for i in some:
            if not (table[kept] <= table[i]).all(axis=1).any():
                kept.append(int(i))
        best = table[kept]
    return np.array(kept)


def _why_not(layer: Layer, board: Board, found: dict[str, np.ndarray], whole: np.ndarray, limits: tuple) -> str:
    """Say which resource the tilings that fit all earlier ones are short of, and by how much at best."""
    possible = whole & (layer.copies % found["H"] == 0)
    for name, limit in zip(("held", *RESOURCES), (board.memory, *limits)):
        least = found[name][possible].min()
        if least > limit:
            what = "bytes of an engine's memory" if name == "held" else name
            return f"{layer.name} does not fit {board.name}: it takes {least:.0f} {what} at best, and there are {limit}"
        possible &= found[name] <= limit
    raise AssertionError("a tiling fits after all")


# ---- What lies between the products: engines in programmable logic. ----


@dataclass(frozen=True)
class Between:
    """A PL engine that works while its data pass: ``numbers`` of one image, and DSPs for each number a cycle."""

    name: str
    numbers: int
    dsps: int

    @property
    def moved(self) -> int:
        """The numbers read and written if all of them lie elsewhere: an addition reads two."""
        return self.numbers * (3 if self.name.startswith("add") else 2)


LANES = tuple(2**k for k in range(11))


def between(config: ViTConfig) -> list[Between]:
    """List the PL engines of a block. A LayerNorm squares, divides and applies its gain; an addition rescales."""
    tokens = -(-config.tokens // TILE) * TILE
    width, scores = tokens * config.dim, config.heads * tokens**2
    return [
        Between("norm1", width, 5),
        Between("softmax", scores, 0),
        Between("add1", width, 1),
        Between("norm2", width, 5),
        Between("gelu", width * config.mlp_ratio, 0),
        Between("add2", width, 1),
    ]


@dataclass(frozen=True)
class Lanes:
    """A PL engine of so many numbers a cycle."""

    lanes: int
    time: int
    dsps: int


def lane_options(engine: Between, board: Board) -> list[Lanes]:
    return [Lanes(n, int(np.ceil(engine.numbers / n / board.pl_ghz)), n * engine.dsps) for n in LANES]


# ---- Choosing. ----


@dataclass(frozen=True)
class Mapping:
    """A chosen design: its latency as the search counts it (``objective``), and what no choice beats (``bound``)."""

    config: ViTConfig
    board: Board
    batch: int
    kernel: Kernel
    layers: list[Layer]
    chosen: dict[str, Option]
    lanes: dict[str, Lanes]
    objective: int
    bound: int
    seconds: float = field(compare=False)

    @property
    def optimal(self) -> bool:
        return self.objective == self.bound

    def takes(self, resource: str) -> int:
        """Return how much of a resource the accelerators take in all (DSPs: with the PL engines')."""
        total = sum(option.takes[RESOURCES.index(resource)] for option in self.chosen.values())
        return total + (sum(lanes.dsps for lanes in self.lanes.values()) if resource == "DSPs" else 0)


def solve(
    config: ViTConfig,
    board: Board,
    batch: int = 6,
    kernel: Kernel = Kernel(),
    limits: Limits = Limits(),
    seconds: float = 60.0,
) -> Mapping:
    """Choose an accelerator for every product so that a batch is done soonest; BookError if none fits or time ran out.

    Eq. (1) to (7), decomposed: all blocks use the same accelerators, so an accelerator works ``batch`` times a block,
    and one image passes them all; a block therefore takes max(batch x slowest, sum of all). The last image waits for
    the others' patches, or for their turns in the first block, and leaves the last block by itself.
    """
    started, own = time.monotonic(), layers(config)
    model, chosen, spent = cp_model.CpModel(), {}, {layer.name: options(layer, board, kernel) for layer in own}
    pl = {engine.name: lane_options(engine, board) for engine in between(config)}
    for name, some in (spent | pl).items():
        chosen[name] = [model.new_bool_var(f"{name} {i}") for i in range(len(some))]
        model.add_exactly_one(chosen[name])
    takes = {name: sum(x * o.time for x, o in zip(chosen[name], some)) for name, some in (spent | pl).items()}
    for i, limit in enumerate(limits.of(board)):
        total = sum(x * o.takes[i] for name in spent for x, o in zip(chosen[name], spent[name]))
        if RESOURCES[i] == "DSPs":
            total += sum(x * lane.dsps for name in pl for x, lane in zip(chosen[name], pl[name]))
        model.add(total <= limit)
    in_block = [layer.name for layer in own if layer.name not in ENDS]
    slowest, block, start = (model.new_int_var(0, 10**10, name) for name in ("slowest", "block", "start"))
    for name in (*in_block, *pl):
        model.add(takes[name] <= slowest)
    path = sum(takes[name] for name in in_block)
    model.add(block >= batch * slowest)
    model.add(block >= path)
    patch = takes.get("patch", 0)
    model.add(start >= batch * patch)
    model.add(start >= patch + (batch - 1) * slowest)
    model.minimize(start + (config.depth - 1) * block + path + takes["head"])
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.max_time_in_seconds = seconds
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        raise BookError(f"no choice of accelerators fits {board.name}: {_shortest(spent, limits.of(board))}")
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        raise BookError(f"no design was found in {seconds:g} s; give the search more time")
    found = {name: some[[solver.value(x) for x in chosen[name]].index(1)] for name, some in spent.items()}
    pace = max(found[name].time for name in in_block)
    found |= {
        name: next((o for o in some if o.time <= pace), some[-1]) for name, some in pl.items()
    }  # no wider than needed
    return Mapping(
        config,
        board,
        batch,
        kernel,
        own,
        {name: found[name] for name in spent},
        {name: found[name] for name in pl},
        round(solver.objective_value),
        round(solver.best_objective_bound),
        time.monotonic() - started,
    )


def _shortest(spent: dict[str, list[Option]], limits: tuple[int, ...]) -> str:
    """Say which resource is short even if every accelerator takes as little of it as it can."""
    for i, limit in enumerate(limits):
        least = sum(min(option.takes[i] for option in some) for some in spent.values())
        if least > limit:
            return f"the products take {least} {RESOURCES[i]} at least, and there are {limit}"
    return "each resource alone would do, together they do not; a larger board, or a smaller model, would"


# ---- Playing a batch through a design. ----


@dataclass(frozen=True)
class Slot:
    """One product of one image and block on its accelerator, from start to end, ns."""

    unit: str
    image: int
    block: int
    start: int
    end: int


def schedule(mapping: Mapping, batch: int | None = None) -> list[Slot]:
    """Play a batch: whenever an accelerator is free it takes the image that has waited longest.

    A product can start once the one before it is done and eight rows have passed the PL engines between (line buffers).
    """
    names = [layer.name for layer in mapping.layers]
    once = [(name, 0) for name in names if name in ENDS]  # patch, if there is one, and head
    steps = once[:-1] + [(n, b) for b in range(mapping.config.depth) for n in names if n not in ENDS] + once[-1:]
    fill = {layer.name: line_fill(layer, mapping) for layer in mapping.layers}
    free = dict.fromkeys(names, 0)
    waiting = [(0, 0, image, 0) for image in range(batch or mapping.batch)]  # (when to look, ready since, image, step)
    heapq.heapify(waiting)
    slots: list[Slot] = []
    while waiting:
        now, since, image, step = heapq.heappop(waiting)
        unit, block = steps[step]
        if free[unit] > now:
            heapq.heappush(waiting, (free[unit], since, image, step))
            continue
        end = now + mapping.chosen[unit].time
        free[unit] = end
        slots.append(Slot(unit, image, block, now, end))
        if step + 1 < len(steps):
            ready = end + fill[steps[step + 1][0]]
            heapq.heappush(waiting, (ready, ready, image, step + 1))
    return slots


def line_fill(layer: Layer, mapping: Mapping) -> int:
    """Return the ns until the first eight rows of a product's input have passed through line buffers."""
    tiling, size = mapping.chosen[layer.name].tiling, mapping.kernel.widths.activations / 8
    return int(np.ceil(TILE * -(-layer.inner // tiling.B) * size / mapping.board.port))


def latency(slots: list[Slot]) -> float:
    """Return when the last image is done, ms."""
    return max(slot.end for slot in slots) / 1e6
