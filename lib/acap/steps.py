"""From one accelerator and off-chip memory to EQ-ViT's design, step by step: Table VIII's last column, modelled.

Each step adds one of the paper's four ideas. The first two move every operand through off-chip memory, the third keeps
activations and weights on chip but has one accelerator for all products, the fourth gives each product its own, the
last lets what lies between the products run while the data pass.
"""

from __future__ import annotations

import numpy as np

from lib.acap.boards import INT8, Board, Widths
from lib.acap.mapping import BROADCAST, ENDS, STACK, TILE, Mapping, between, latency, layers, schedule, solve
from lib.acap.vit import ViTConfig

EFFICIENCY = 0.6  # of off-chip memory's peak that transfers reach: assumed, and decisive for the first two steps
STEPS = ("fp32", "int8", "forwarding", "spatial", "pipelining")


def moved_between(config: ViTConfig) -> int:
    """Count the numbers that a block's other operators read and write, when each goes to memory and back.

    Beside the PL engines' work, queries, keys, values and the context are transposed.
    """
    engines = between(config)
    return sum(engine.moved for engine in engines) + 2 * 4 * engines[0].numbers


def off_chip(config: ViTConfig, board: Board, batch: int, widths: Widths, efficiency: float = EFFICIENCY) -> float:
    """Return the latency of a batch, ms, with one accelerator of all engines and every operand in off-chip memory."""
    rate = board.off_chip * efficiency  # bytes a nanosecond
    size, total = widths.activations / 8, 0.0
    for layer in layers(config):
        times = 1 if layer.name in ENDS else config.depth
        multiply = layer.macs(batch) / (board.engines * board.macs_at(widths) * board.engine_ghz)
        total += times * max(multiply, layer.moved(batch) * size / rate)
    return (total + config.depth * batch * moved_between(config) * size / rate) / 1e6


def one_accelerator(config: ViTConfig, board: Board, batch: int, between_ns: int) -> float:
    """Return the latency of a batch, ms, with all data on chip and the best single accelerator for all products.

    It takes windows of h x k by k x n, the same for every product, from PL; products take turns with what lies between
    them, ``between_ns`` a block and image.
    """
    A, B, C, k, n = (
        grid.ravel() for grid in np.meshgrid(*[np.arange(1, 25)] * 3, (32, 48, 64, 96), (32, 48, 64, 96), indexing="ij")
    )
    rows = 64
    fits = (A * B * C <= board.engines) & (A * C <= board.ports_out)
    fits &= A * B * -(-C // BROADCAST) + B * C * -(-A // BROADCAST) <= board.ports_in
    fits &= 2 * k * n + 2 * TILE * (k + n) + STACK <= board.memory
    A, B, C, k, n = (x[fits] for x in (A, B, C, k, n))
    load, fetch, store = rows * k / board.port, k * n / board.port, rows * n / board.port
    window = np.maximum(load, fetch) + rows * k * n / board.macs_at(INT8) / board.engine_ghz + store
    total = np.zeros(len(A))
    for layer in layers(config):
        times = batch * layer.copies * (1 if layer.name in ENDS else config.depth)
        total += (
            times * -(-layer.rows // (A * rows)) * -(-layer.inner // (B * k)) * -(-layer.columns // (C * n)) * window
        )
    return float(total.min() + batch * config.depth * between_ns) / 1e6


def unpipelined(design: Mapping) -> float:
    """Return the latency of a batch, ms, where PL engines wait for a whole product, and products for them."""
    in_block = [option.time for name, option in design.chosen.items() if name not in ENDS]
    slow = [lanes.time for lanes in design.lanes.values()]
    block = max(design.batch * max(*in_block, *slow), sum(in_block) + sum(slow))
    patch, head = (design.chosen[name].time if name in design.chosen else 0 for name in ENDS)
    return (design.batch * patch + design.config.depth * block + head) / 1e6


def ablation(config: ViTConfig, board: Board, batch: int = 6, efficiency: float = EFFICIENCY) -> dict[str, float]:
    """Return the latency of a batch, ms, after each of ``STEPS``."""
    design = solve(config, board, batch)
    found = (
        off_chip(config, board, batch, Widths(32, 32), efficiency),
        off_chip(config, board, batch, INT8, efficiency),
        one_accelerator(config, board, batch, sum(lanes.time for lanes in design.lanes.values())),
        unpipelined(design),
        latency(schedule(design)),
    )
    return dict(zip(STEPS, found))
