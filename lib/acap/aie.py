"""One AI Engine: how many cycles a matrix product takes, cycle by cycle, and why.

An AI Engine of the first generation (VCK190) makes 128 INT8 multiply-accumulates a cycle. EQ-ViT's kernel (Fig. 7)
forms them as 8 rows x 8 deep x 2 columns, and keeps two 8x8 registers of the left factor and two 8x4 registers of the
right one, so that the next are loaded while the present ones are used. ``simulate`` plays that pipeline cycle by
cycle; ``cycles`` is its closed form, with the overhead that the paper leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass

from lib.errors import BookError

ROWS, DEPTH, COLUMNS = 8, 8, 2  # of one instruction: 128 multiply-accumulates
TILE_COLUMNS = 4  # of one output tile, 8x4: two instructions for each step of 8 in depth
MACS = ROWS * DEPTH * COLUMNS
LOAD_PORTS = 2  # of 32 bytes each, every cycle
PRELOAD = 2  # cycles until the first operands are there


@dataclass(frozen=True)
class Overhead:
    """Cycles beside the multiplications: at the end of each 8x4 tile (round, saturate, store), and once a call."""

    tile: int = 0
    call: int = PRELOAD


PAPER = Overhead()  # "at the expense of only two preload cycles"
REALISTIC = Overhead(tile=4, call=40)  # what a loop that is not pipelined across tiles pays


@dataclass(frozen=True)
class Event:
    """What one unit does in one cycle: unit is "load 0", "load 1" or "mac"; step counts the depth-8 steps."""

    cycle: int
    unit: str
    step: int
    operand: str  # lhs, rhs, or the pair of columns


def check_shape(rows: int, depth: int, columns: int) -> None:
    """Raise BookError unless a product fills whole instructions and tiles."""
    for name, size, unit in (("rows", rows, ROWS), ("depth", depth, DEPTH), ("columns", columns, TILE_COLUMNS)):
        if size < unit or size % unit:
            raise BookError(f"{size} {name} do not divide into tiles of {unit}; pad them to {-(-size // unit) * unit}")


def cycles(rows: int, depth: int, columns: int, overhead: Overhead = PAPER) -> int:
    """Return the cycles of a product (rows x depth) by (depth x columns) on one AI Engine."""
    check_shape(rows, depth, columns)
    tiles = rows // ROWS * (columns // TILE_COLUMNS)
    return rows * depth * columns // MACS + overhead.tile * tiles + overhead.call


def utilisation(rows: int, depth: int, columns: int, overhead: Overhead = PAPER) -> float:
    """Return the share of cycles that multiply."""
    return rows * depth * columns / MACS / cycles(rows, depth, columns, overhead)


def simulate(rows: int, depth: int, columns: int) -> list[Event]:
    """Play the pipeline of Fig. 7: every load and every instruction, in order of its cycle.

    A step needs 64 bytes of the left factor (two loads) and 32 of the right (one), and feeds two instructions. An
    operand can be used the cycle after its load; a register is free again once its last instruction was issued.
    """
    check_shape(rows, depth, columns)
    steps = rows // ROWS * (columns // TILE_COLUMNS) * (depth // DEPTH)
    loads = [(step, operand) for step in range(steps) for operand in ("lhs", "lhs", "rhs")]
    instructions = [(step, pair) for step in range(steps) for pair in ("columns 0-1", "columns 2-3")]
    events, loaded, issued, cycle = [], [0] * steps, [0] * steps, 0
    while instructions:
        step, pair = instructions[0]
        ready = loaded[step] == 3  # what was loaded in the cycles before
        for port in range(LOAD_PORTS):
            if loads and (loads[0][0] < 2 or issued[loads[0][0] - 2] == 2):  # two registers of each kind
                of, operand = loads.pop(0)
                loaded[of] += 1
                events.append(Event(cycle, f"load {port}", of, operand))
        if ready:
            instructions.pop(0)
            issued[step] += 1
            events.append(Event(cycle, "mac", step, pair))
        cycle += 1
    return events
