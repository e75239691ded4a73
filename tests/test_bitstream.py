"""From a model to a bitstream: what the memories hold, and that a routed design takes another model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Callable

import pytest

from lib.checkpoint import CHECKPOINTS
from lib.errors import BookError
from lib.silicon import study
from lib.silicon.__main__ import main as silicon_main
from lib.silicon.bitstream import (
    BLOCKS,
    CLOCK_MHZ,
    PULL_UP,
    Contents,
    Design,
    blocks,
    budget,
    contents,
    noise,
    packed,
    pulled_up,
    route,
    swap,
)
from lib.silicon.board import SimulatedBoard
from lib.silicon.golden import Golden, Shape, random_model
from lib.silicon.host import Board, Link
from lib.silicon.image import Layout
from lib.silicon.model_file import INTEGER
from lib.silicon.registers import absorb
from lib.silicon.synth import elaborated, made
from lib.silicon.units import RTL
from lib.silicon.verilate import Unit

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


SMALL = """
module small (input logic clk_i, input logic [10:0] row_i, output logic [143:0] weights_o, head_o);
  weights #(.EIGHTS(3), .WEIGHT_W(6), .ROWS(1536), .HEAD_ROWS(100), .INIT(1'b1)) u_weights (
    .clk_i, .rst_ni(1'b1), .load_i(1'b0), .load_head_i(1'b0), .load_bank_i('0), .load_row_i('0), .load_data_i('0),
    .read_i(1'b1), .row_i, .weights_o, .read_head_i(1'b1), .head_row_i(row_i[6:0]), .head_o
  );
endmodule
"""


@pytest.fixture
def small(tmp_path: Path) -> Unit:
    (tmp_path / "small.sv").write_text(SMALL)
    parts = (RTL / "core" / f"{name}.sv" for name in ("weights", "deep_memory", "memory"))
    return Unit("small", (tmp_path / "small.sv", *parts), (), ())


def small_contents(seed: int) -> dict[int, Contents]:
    return noise({1000: Contents(144, (seed,) * 1536), 1100: Contents(144, (seed,) * 100)}, seed)


def test_a_routed_design_takes_another_model(small: Unit) -> None:
    """Contents exchanged in the routed design are those of a design that was routed with them."""
    design, first, second = Design(small, {}), small_contents(1), small_contents(2)
    routed = route(design, first)
    assert swap(routed, second) == route(design, second).config != routed.config == swap(routed, first)
    assert routed.cells["DP16KD"] == blocks(144, 1536) + blocks(144, 100) == 16
    with pytest.raises(BookError, match="does not fit the routed core's memories"):
        swap(routed, {1000: second[1000]})


TINY = """
module tiny (input logic a_i, input logic wifi_gpio0, output logic y_o);
  assign y_o = ~a_i;
endmodule
"""
PINS = """
LOCATE COMP "a_i" SITE "T1";
LOCATE COMP "y_o" SITE "B2";
LOCATE COMP "wifi_gpio0" SITE "L2";
IOBUF PORT "wifi_gpio0" PULLMODE=UP IO_TYPE=LVCMOS33;
"""


def test_the_line_to_the_esp32_is_pulled_up_as_nextpnr_would(tmp_path: Path) -> None:
    """The settings added to a routed design are those of one that was routed with such an input."""
    (tmp_path / "tiny.sv").write_text(TINY)
    (tmp_path / "tiny.lpf").write_text(PINS)
    config = route(Design(Unit("tiny", (tmp_path / "tiny.sv",), (), ()), {}, tmp_path / "tiny.lpf"), {}).config
    settings = {tile: "".join(f"enum: {setting}\n" for setting in found) for tile, found in PULL_UP.items()}
    for tile, lines in settings.items():
        assert f".tile {tile}\n{lines}" in config
    assert pulled_up(config) == config and pulled_up(pulled_up("")) == pulled_up("") != ""  # in use, or done
    first, second = PULL_UP
    bare = config.replace(f".tile {first}\n{settings[first]}", f".tile {first}\narc: A B\n")
    bare = bare.replace(f".tile {second}\n{settings[second]}", "")
    again = pulled_up(bare)
    assert f".tile {first}\n{settings[first]}arc: A B\n" in again and again.endswith(f"{second}\n{settings[second]}")
    assert len(packed(pulled_up(config))) > 1000


DISTURB = {  # one of the flip-flops, so that it must stay where it is, and all of its side or operand with it
    "read twice": lambda cells, name: cells["$other"]["connections"].update(DI=cells[name]["connections"]["DI"]),
    "read elsewhere": lambda cells, name: cells["$other"]["connections"].update(DI=cells[name]["connections"]["Q"]),
    "another clock": lambda cells, name: cells[name]["connections"].update(CLK=[99_999]),
    "falling edge": lambda cells, name: cells[name]["parameters"].update(CLKMUX="INV"),
    "reset": lambda cells, name: cells[name]["connections"].update(LSR=[99_999]),
    "another enable": lambda cells, name: cells[name].update(
        parameters=cells[name]["parameters"] | {"CEMUX": "CE"},
        connections=cells[name]["connections"] | {"CE": [99_999]},
        port_directions=cells[name]["port_directions"] | {"CE": "input"},
    ),
}


@pytest.mark.parametrize(
    ("kind", "moving", "together", "harmless"),
    # Yosys chooses among blocks of the weights before their register, which therefore stays; the head's moves.
    [("DP16KD", 144, 36, "read elsewhere"), ("MULT18X18D", 9, 9, "read twice")],
)
def test_flip_flops_move_into_blocks(kind: str, moving: int, together: int, harmless: str, small: Unit) -> None:
    """They leave, their block takes their place, and nothing else changes; none of a side moves if one cannot."""
    unit = small if kind == "DP16KD" else Unit("column", (RTL / "core" / "column.sv",), (), ())
    files = {f"memory{n}.hex": memory.hex() for n, memory in small_contents(1).items()} if unit == small else {}
    script = [elaborated(unit, {}), f"synth_ecp5 -top {unit.top} -json made"]
    netlist = made(unit, script, ".json", files).read_text()

    def cells_of(text: str) -> dict[str, dict]:
        return json.loads(text)["modules"][unit.top]["cells"]

    text, saved = absorb(netlist)
    before, after = cells_of(netlist), cells_of(text)
    moved = before.keys() - after.keys()
    assert saved == len(moved) == moving and {before[name]["type"] for name in moved} == {"TRELLIS_FF"}
    assert {name: cell for name, cell in after.items() if cell["type"] != kind} == {
        name: cell for name, cell in before.items() if cell["type"] != kind and name not in moved
    }
    outer = "Q" if kind == "DP16KD" else "DI"
    blocks = [cell["connections"] for cell in after.values() if cell["type"] == kind]
    nets = {net for connections in blocks for bits in connections.values() for net in bits}
    assert nets >= {before[name]["connections"][outer][0] for name in moved}
    assert absorb(text) == (text, 0)

    name = sorted(moved)[0]
    for what, disturb in DISTURB.items():
        design = json.loads(netlist)
        cells = design["modules"][unit.top]["cells"]
        cells["$other"] = json.loads(json.dumps(cells[name]))
        cells["$other"]["connections"] |= {"DI": ["0"], "Q": [100_000]}
        disturb(cells, name)
        text, saved = absorb(json.dumps(design))
        stays = what != harmless
        assert (name in cells_of(text), saved) == (stays, moving - together * stays), what
    design = json.loads(netlist)
    for name in moved:  # each by a net of its own, inverted
        design["modules"][unit.top]["cells"][name]["parameters"]["CEMUX"] = "INV"
    assert absorb(json.dumps(design))[1] == 0


def test_the_committed_board_is_of_these_sources_and_fits() -> None:
    board = study.load("routed")["boards"]["64"]  # refuses other sources
    needed = sum(budget(study.BOARDS[0].layout).values())
    assert board["cells"]["DP16KD"] == needed == sum(board["ebr"].values()) < BLOCKS
    assert board["fmax_mhz"][str(board["best"])] == max(board["fmax_mhz"].values()) > CLOCK_MHZ
    assert board["swap"]["equal"] and board["swap"]["seconds"] < 30
    assert len(board["clocks"]) == 64 and sum(board["clocks"]) / 64 < 7_100


def test_twice_the_lanes_write_more_at_a_lower_clock() -> None:
    boards = study.load("routed")["boards"]
    rates = {n: max(b["fmax_mhz"].values()) / sum(b["clocks"]) for n, b in boards.items()}
    wide = boards["128"]
    assert wide["cells"]["DP16KD"] == sum(budget(study.BOARDS[1].layout).values()) == sum(wide["ebr"].values())
    assert 1.3 < rates["128"] / rates["64"] < 1.5 and max(wide["fmax_mhz"].values()) < CLOCK_MHZ


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("nano", "the model needs 233 EBR with 64 lanes, 25 more than the part has"),
        ("pocket", r"the model needs \d+ EBR with 64 lanes"),
    ],
)
def test_a_model_that_does_not_fit_is_told_by_how_much(
    model: str, said: str, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    path = INTEGER / f"{model}.safetensors"
    code, out, err = command(silicon_main, "build", path, "--out", tmp_path)
    assert (code, out) == (2, "") and re.match(f"error: {said}", err)


def test_a_file_that_holds_no_model_is_one_sentence(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "no.safetensors").write_bytes(b"no")
    code, out, err = command(silicon_main, "build", tmp_path / "no.safetensors", "--out", tmp_path)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1


def test_a_checkpoint_is_not_taken_for_the_integer_model_made_of_it(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    checkpoint = tmp_path / "mine.safetensors"
    checkpoint.write_bytes((CHECKPOINTS / "nano.safetensors").read_bytes())
    code, out, err = command(silicon_main, "build", checkpoint, "--out", tmp_path)
    assert (code, out) == (2, "") and "choose another folder with --out" in err
