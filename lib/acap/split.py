"""A model that does not fit one board: its blocks over several, in a row.

Every board holds an equal share of the blocks, and hands the residual stream to the next one over a link. The paper
names this as future work; here the same search decides how many boards it takes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from lib.acap.boards import Board
from lib.acap.mapping import ENDS, Kernel, Mapping, layers, solve
from lib.acap.vit import ViTConfig
from lib.errors import BookError

LINK = 12.5  # bytes a nanosecond: 100 Gbit/s, assumed
LINK_LATENCY = 1000  # ns from board to board, assumed


@dataclass(frozen=True)
class Split:
    """So many boards, each with ``share`` blocks on the design of ``mapping``; latency of the batch in ms."""

    boards: int
    share: int
    mapping: Mapping
    latency_ms: float


def split(config: ViTConfig, board: Board, batch: int = 6, kernel: Kernel = Kernel(), most: int | None = None) -> Split:
    """Return the smallest number of boards that holds a model; BookError if even one block a board does not fit."""
    failed: BookError | None = None
    for boards in range(1, (most or config.depth) + 1):
        share = -(-config.depth // boards)
        try:
            mapping = solve(dataclasses.replace(config, depth=share), board, batch, kernel)
        except BookError as error:
            failed = error
            continue
        return Split(boards, share, mapping, _latency(config, mapping, boards))
    raise BookError(f"the model fits no {most or config.depth} boards: {failed}")


def _latency(config: ViTConfig, mapping: Mapping, boards: int) -> float:
    """The other boards' blocks take turns as one board's do; from board to board the last image crosses a link."""
    in_block = [option.time for name, option in mapping.chosen.items() if name not in ENDS]
    block = max(mapping.batch * max(in_block), sum(in_block))
    rows = next(layer.rows for layer in layers(config) if layer.name == "qkv")
    crossing = LINK_LATENCY + rows * config.dim * mapping.kernel.widths.activations / 8 / LINK
    return (mapping.objective + (config.depth - mapping.config.depth) * block + (boards - 1) * crossing) / 1e6
