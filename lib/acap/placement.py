"""Where on the array each engine of a design lies: cascades along the rows, every accelerator in one piece.

The engines of the first generation form rows (VCK190: 8 of 50), and partial sums pass from an engine to its neighbour
only: to the right in even rows, to the left in odd ones, and upwards where a row ends (AM009). So all engines lie on
one line that winds through the array, and a cascade of B engines is any B places of it in a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from lib.acap.boards import Board
from lib.acap.mapping import Mapping
from lib.errors import BookError

Place = tuple[int, int]  # column, row


@dataclass(frozen=True)
class Cascade:
    """The engines of one chain, in the order in which partial sums pass: part (a, c, h) of an accelerator."""

    unit: str
    a: int
    c: int
    h: int
    places: tuple[Place, ...]


def along_the_line(board: Board, index: int) -> Place:
    """Return the place of an engine by its position on the winding line."""
    row, along = divmod(index, board.columns)
    return (along if row % 2 == 0 else board.columns - 1 - along), row


def place(mapping: Mapping) -> list[Cascade]:
    """Lay a design's cascades on the array; BookError if it has more engines than the array.

    Accelerators follow one another on the line in the order of the data, so that neighbours in the model are neighbours
    on the array and no place between two cascades is lost.
    """
    board, chains, at = mapping.board, [], 0
    if (taken := mapping.takes("engines")) > board.engines:
        raise BookError(f"the design has {taken} engines and {board.name} has {board.engines}; solve it for this board")
    for layer in mapping.layers:
        tiling = mapping.chosen[layer.name].tiling
        for h in range(tiling.H):
            for a in range(tiling.A):
                for c in range(tiling.C):
                    places = tuple(along_the_line(board, at + b) for b in range(tiling.B))
                    chains.append(Cascade(layer.name, a, c, h, places))
                    at += tiling.B
    return chains


def legal(board: Board, chain: Cascade) -> bool:
    """Tell whether every engine of a cascade has its successor where the array's cascade leads."""

    def follows(one: Place, other: Place) -> bool:
        (x, y), step = one, 1 if one[1] % 2 == 0 else -1
        return other == ((x + step, y) if 0 <= x + step < board.columns else (x, y + 1))

    return all(follows(one, other) for one, other in zip(chain.places, chain.places[1:]))


def by_engine(chains: list[Cascade]) -> dict[str, Place]:
    """Return the place of every engine by the name that generated sources give it."""
    return {
        f"{chain.unit}_a{chain.a}_b{b}_c{chain.c}_h{chain.h}": place
        for chain in chains
        for b, place in enumerate(chain.places)
    }
