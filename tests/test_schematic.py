"""Drawings of units: every wire runs from left to right, and nothing lies on anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib.errors import BookError
from lib.silicon.schematic import schematic
from lib.silicon.units import RTL
from lib.silicon.verilate import Unit


def test_rounding_and_saturating_is_eight_operations_in_layers() -> None:
    drawn = schematic(Unit("round_shift", (RTL / "round_shift.sv",), (), ()), {"IN_W": 40, "OUT_W": 8})
    labels = sorted(box.label for box in drawn.boxes.values())
    assert labels == ["+ 1", ">>>", "and", "choose", "not", "not", "or", "shift_i", "value_i", "value_o", "≠"]
    assert drawn.wires["value_i", next(n for n, b in drawn.boxes.items() if b.label == ">>>")] == 40
    places = [(box.layer, box.row) for box in drawn.boxes.values()]
    places += [crossing for bends in drawn.bends.values() for crossing in bends.items()]
    assert len(places) == len(set(places))
    for source, reader in drawn.wires:
        layers = [drawn.boxes[source].layer, *drawn.bends.get((source, reader), {}), drawn.boxes[reader].layer]
        assert layers == list(range(layers[0], layers[-1] + 1))


def test_a_loop_is_refused_in_one_sentence(tmp_path: Path) -> None:
    source = tmp_path / "loop.sv"
    source.write_text("module loop (input logic a, output logic y); assign y = ~(a & y); endmodule\n")
    with pytest.raises(BookError, match="the unit has a loop"):
        schematic(Unit("loop", (source,), (), ()))
