"""From a model to a bitstream: what the memories hold, and that a routed design takes another model."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib.errors import BookError
from lib.silicon.bitstream import contents
from lib.silicon.board import SimulatedBoard
from lib.silicon.golden import Golden, Shape, random_model
from lib.silicon.host import Board, Link
from lib.silicon.image import Layout

SHAPE = Shape(layers=2, width=32, heads=2, block=8, vocab=40, weight_bits=6)
LAYOUT = Layout(SHAPE, lanes=32, drain=2)
PATIENCE = 2.5e-5


def test_a_board_has_its_model_from_power_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(SHAPE, 1)
    for number, memory in contents(model, LAYOUT).items():
        (tmp_path / f"memory{number}.hex").write_text(memory.hex())
    monkeypatch.chdir(tmp_path)
    line = SimulatedBoard(LAYOUT, fixed=True)
    board, golden = Board(Link(line, PATIENCE), model), Golden(model)
    for token in (1, 39, 0, 7, 7, 20, 3, 11, 2, 5):  # two of them after a refill
        assert (board.feed(token)[1] == golden.feed(token)).all()
    line.reset()
    assert (board.feed(9)[1] == golden.feed(9)).all() and board.restarts == 1
    other = random_model(SHAPE, 2)
    with pytest.raises(BookError, match="the board holds another model"):
        Board(Link(line, PATIENCE), other)
    with pytest.raises(BookError, match="the board's model is part of its bitstream"):
        Board(Link(line, PATIENCE), other, replace=True)
