"""Writes stories with the core on a board: the host's side of the serial line.

    python -m lib.silicon.host --port /dev/ttyUSB0 "Once upon a time"
    python -m lib.silicon.host --port sim "Once upon a time"

``Link`` turns a line that loses bytes into requests with answers, ``Board`` a board that is reset into a context that
is not lost. What neither can mend is a BookError; a wrong answer is never returned.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Callable, Iterator, TypeVar

import numpy as np
from tqdm import tqdm

from lib.errors import BookError, run_command
from lib.gpt import window_start
from lib.silicon.board import SimulatedBoard, Terminal
from lib.silicon.frames import MOST, MOST_LOGITS, REPLY, VERSION, Decoder, Frame, Kind, Status, encode
from lib.silicon.golden import IntegerModel, Shape
from lib.silicon.image import Image, Layout, image
from lib.silicon.model_file import fingerprint, load, load_shipped
from lib.silicon.port import Line, SerialPort
from lib.text import decode, encode_prompt

T = TypeVar("T")

HEAD = struct.Struct("<BHH")  # of a reply: status, nonce, context
HELLO = struct.Struct("<BHBHBHHBBBQ")
PATIENCE = 0.5  # seconds of silence; a token takes milliseconds, a USB adapter tens of them
SIMULATED_PATIENCE = 30.0  # a refill of pocket's context takes seconds to simulate


# ---- Requests and their replies, whatever the line loses. ----


@dataclass(frozen=True)
class Reply:
    """What the board answered: what became of the request, who it is, how many tokens it holds, and the rest."""

    status: int
    nonce: int
    context: int
    body: bytes


class Link:
    """Sends a request until its reply has come.

    patience: seconds of silence after which a request is sent again; at least what the board takes for a token, and
    longer than the silence that ends a frame there. Every frame of the board's is checked and numbered, and all that
    it does may be asked for twice (``frames.sv``), so a lost or damaged frame costs time and nothing else.
    """

    def __init__(self, line: Line, patience: float = PATIENCE, attempts: int = 10) -> None:
        self.line, self.patience, self.attempts = line, patience, attempts
        self.repeats = 0  # requests sent again, in all
        self._sequence = 0
        self._decoder = Decoder()

    def request(self, kind: Kind, payload: bytes = b"") -> Reply:
        """Return the board's reply; BookError when none comes, and for a reply that means the two do not fit."""
        self._sequence = (self._sequence + 1) % 256
        data, heard = encode(Frame(kind, self._sequence, payload)), False
        for attempt in range(self.attempts):
            self.repeats += attempt > 0
            self.line.write(data)
            for frame in self._arriving():
                heard = True
                if isinstance(frame, Frame) and (frame.kind, frame.sequence) == (kind | REPLY, self._sequence):
                    return self._read(kind, frame.payload)
        if heard:
            raise BookError(
                f"{self.line.name} answers, but not as this book's board does; check port, rate and bitstream"
            )
        raise BookError(f"nothing answers at {self.line.name}; check the cable, the bitstream and the reset button")

    def _arriving(self) -> Iterator[Frame | None]:
        """Yield frames as they arrive, and None for bytes that are none yet, until the line falls silent.

        A line that never does is given up after as many bytes as no board would send.
        """
        budget = 16 * MOST
        while budget > 0 and (data := self.line.read(self.patience)):
            budget -= len(data)
            yield from self._decoder.feed(data)
            yield None
        yield from self._decoder.flush()

    def _read(self, kind: Kind, payload: bytes) -> Reply:
        if len(payload) >= HEAD.size:
            reply = Reply(*HEAD.unpack_from(payload), payload[HEAD.size :])
            if reply.status != Status.MALFORMED:
                return reply
        raise BookError(
            f"the board at {self.line.name} does not know the request {kind.name.lower()} as this host sends it; "
            "program it with the bitstream of this version of the book"
        )


# ---- The board, whatever resets it. ----


class _Restarted(Exception):
    """The board is no longer the one that was greeted: it was reset or powered anew."""


@dataclass(frozen=True)
class Core:
    """What a board says of itself: its core, the bytes of a load word, and the name of its model, 0 for none."""

    layout: Layout
    word: int
    model: int


class Board:
    """A core behind a link, holding a model and a context that survive resets of the board.

    A board without a model is sent this one, which for nano takes seconds. replace: another model there is replaced.
    Raises BookError for a board that does not answer, is of another shape, or has another model without ``replace``.
    """

    RESTARTS = 20  # in a row, for one token or one loading

    def __init__(self, link: Link, model: IntegerModel, replace: bool = False) -> None:
        self.link, self.model, self.replace = link, model, replace
        self.name = fingerprint(model)
        self.restarts = 0  # in all
        self.history: list[int] = []
        self._start = 0  # of the board's context in the history
        self._nonce = int.from_bytes(os.urandom(2), "little")
        self._greeted = False
        self._insist(lambda: None)

    def reset(self) -> None:
        """Forget the context."""
        self.history, self._greeted = [], False
        self._insist(lambda: None)

    def feed(self, token: int, logits: bool = True) -> tuple[int, np.ndarray]:
        """Take the next token; return the likeliest one after it, and the logits, int64 (V,), or none of them (0,).

        Raises BookError for a token outside the vocabulary, and for what the board and the line cannot mend.
        """
        vocab = self.model.shape.vocab
        if not 0 <= token < vocab:
            raise BookError(f"the token {token} is outside 0 to {vocab - 1}; encode text with lib.text")
        answer = self._insist(lambda: self._feed(token, vocab if logits else 0))
        self.history.append(token)
        return answer

    def clocks(self) -> int:
        """Return the clocks that the core took for the last token."""
        return int.from_bytes(self._insist(lambda: self._ask(Kind.STATUS)).body[2:6], "little")

    # ---- Every action is carried out on a board that has been greeted, and once more after each reset. ----

    def _insist(self, action: Callable[[], T]) -> T:
        for _ in range(self.RESTARTS):
            try:
                if not self._greeted:
                    self._greet()
                return action()
            except _Restarted:
                self.restarts += 1
                self._greeted = False
        raise BookError(
            f"the board at {self.link.line.name} was reset {self.RESTARTS} times in a row; check its power and button"
        )

    def _greet(self) -> None:
        """Make sure of the board, its model and its context, whatever it holds."""
        self.core = self._hello()
        self._nonce = self._nonce % 0xFFFF + 1  # never 0, which is a board's after a reset
        self._ask(Kind.RESET, struct.pack("<H", self._nonce))
        if self.core.model != self.name:
            self._load()
        self._start = window_start(max(0, len(self.history) - 1), self.model.shape.block)
        for position, token in enumerate(self.history[self._start :]):
            self._token(token, position, 0)
        self._greeted = True

    def _hello(self) -> Core:
        body = self.link.request(Kind.HELLO).body
        if len(body) != HELLO.size or body[0] != VERSION:
            raise BookError(
                f"the board at {self.link.line.name} speaks version {body[0] if body else 0} of the protocol, this "
                f"host version {VERSION}; program the board with the bitstream of this version of the book"
            )
        _, lanes, *sizes, drain, word, model = HELLO.unpack(body)
        if (shape := Shape(*sizes)) != self.model.shape:
            raise BookError(
                f"the core at {self.link.line.name} is made for {shape}, the model is {self.model.shape}; "
                "choose a model that fits, or program this one's bitstream"
            )
        core = Core(Layout(shape, lanes, drain), word, model)
        if core.model not in (0, self.name) and not self.replace:
            raise BookError(
                f"the board holds another model ({core.model:016x}) than the one chosen ({self.name:016x}); "
                "choose that one, program the bitstream of this one, or replace the weights with --load"
            )
        return core

    def _load(self) -> None:
        """Write the image in frames, then the model's name: a board reset or cut off half-way has none."""
        parts = list(blocks(image(self.model, self.core.layout), (MOST - 4) // self.core.word))
        for address, words in tqdm(parts, desc="loading the model", leave=False, disable=None):  # silent in a pipe
            self._ask(Kind.LOAD, struct.pack("<I", address) + words.astype("<u8").tobytes())
        self._ask(Kind.MODEL, struct.pack("<Q", self.name))

    def _feed(self, token: int, wanted: int) -> tuple[int, np.ndarray]:
        """Feed a token and fetch the first ``wanted`` logits."""
        body = self._token(token, len(self.history) - self._start, min(wanted, MOST_LOGITS))
        argmax, found = body[0], body[1:]
        while len(found) < 2 * wanted:
            first = len(found) // 2
            found += self._ask(Kind.LOGITS, bytes([first, min(wanted - first, MOST_LOGITS)])).body
        return argmax, np.frombuffer(found, "<i2").astype(np.int64)

    def _token(self, token: int, position: int, wanted: int) -> bytes:
        return self._ask(Kind.TOKEN, struct.pack("<BHBB", token, position % 2**16, 0, wanted)).body

    def _ask(self, kind: Kind, payload: bytes = b"") -> Reply:
        """Request something of the board that was greeted; _Restarted when that is no longer there."""
        reply = self.link.request(kind, payload)
        if reply.status == Status.READ_ONLY:
            raise BookError(
                "the board's model is part of its bitstream, and no other can be loaded; "
                "make this model's bitstream with python -m lib.silicon build, and program it"
            )
        if reply.nonce != self._nonce or reply.status != Status.DONE:
            raise _Restarted  # without its nonce, its model or its context
        return reply


def blocks(words: Image, most: int) -> Iterator[tuple[int, np.ndarray]]:
    """Cut an image into runs of consecutive addresses: the first address, and at most so many words, uint64 (n,)."""
    order = np.argsort(words.address)
    address, data = words.address[order].astype(np.int64), words.data[order]
    for run in np.split(np.arange(len(address)), np.flatnonzero(np.diff(address) != 1) + 1):
        for start in range(0, len(run), most):
            part = run[start : start + most]
            yield int(address[part[0]]), data[part]


# ---- A story. ----


def story(board: Board, prompt: list[int], length: int, temperature: float, scale: float, seed: int) -> Iterator[int]:
    """Yield so many tokens that continue a prompt, from an empty context.

    temperature 0 takes the likeliest, of which the board sends nothing else; above it tokens are drawn, by the logits
    times ``scale``, the real value of one step.
    """
    rng = np.random.default_rng(seed)
    board.reset()
    for token in prompt[:-1]:
        board.feed(token, logits=False)
    token = prompt[-1]
    for _ in range(length):
        token, logits = board.feed(token, logits=temperature > 0)
        if temperature > 0:
            chances = np.exp((logits - logits.max()) * scale / temperature)
            token = int(rng.choice(len(chances), p=chances / chances.sum()))
        yield token


@contextmanager
def opened(port: str, shape: Shape, lanes: int) -> Iterator[SerialPort]:
    """Open a serial port; for ``sim`` that of a simulated board of so many lanes, built if need be, without a model."""
    with ExitStack() as stack:
        if port == "sim":
            port = stack.enter_context(Terminal(SimulatedBoard(Layout(shape, lanes)))).path
        yield stack.enter_context(SerialPort(port))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.silicon.host", description="Write a story with a board.")
    parser.add_argument("prompt")
    parser.add_argument("--port", required=True, help="the board's serial port, or sim for a simulated board")
    parser.add_argument("--model", default="nano_w6", help="integer model that the board runs: a name, or a file")
    parser.add_argument("--length", type=int, default=200, help="characters to write")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest character")
    parser.add_argument("--seed", type=int, default=0, help="of the characters drawn")
    parser.add_argument("--load", action="store_true", help="replace another model that the board holds")
    parser.add_argument("--lanes", type=int, default=64, help="of the simulated board")
    given = parser.parse_args()
    if min(given.length, given.seed) < 0 or not 0 <= given.temperature < float("inf"):
        raise BookError("--length, --seed and --temperature must be 0 or more and finite")
    prompt = encode_prompt(given.prompt)
    calibrated, _ = load(given.model) if given.model.endswith(".safetensors") else load_shipped(given.model)
    model = calibrated.model
    with opened(given.port, model.shape, given.lanes) as line:
        board = Board(Link(line, SIMULATED_PATIENCE if given.port == "sim" else PATIENCE), model, given.load)
        print(given.prompt, end="", flush=True)
        scale = calibrated.logits_scale
        for token in story(board, prompt, given.length, given.temperature, scale, given.seed):
            print(decode([token]), end="", flush=True)
        print()
        said = f"{board.clocks():,} clocks for the last character; {board.link.repeats} requests repeated"
        print(f"{said}, {board.restarts} resets of the board survived", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
