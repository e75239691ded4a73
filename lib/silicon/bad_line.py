"""A line that damages, drops and doubles bytes, to a board that somebody keeps resetting: what a host must survive."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from lib.errors import BookError
from lib.silicon.board import CLOCKS, SimulatedBoard
from lib.silicon.frames import Kind
from lib.silicon.golden import Golden, IntegerModel
from lib.silicon.host import Board, Link, Reply
from lib.silicon.image import Layout


@dataclass(frozen=True)
class Faults:
    """Probabilities: of a byte to be damaged, dropped, doubled; at a request, of a reset, and of a loss of power."""

    damage: float = 0.002
    drop: float = 0.001
    double: float = 0.001
    reset: float = 0.01
    power: float = 0.0


class BadLine:
    """A ``Line`` to a simulated board with faults in both directions, the same ones for the same seed.

    faults: how many there have been so far.
    """

    def __init__(self, board: SimulatedBoard, chances: Faults, seed: int = 1) -> None:
        self.name = board.name
        self.board, self.chances, self.faults = board, chances, 0
        self._random = random.Random(seed)
        good = 1 - chances.damage - chances.drop - chances.double
        self._weights = list(accumulate((good, chances.damage, chances.drop, chances.double)))

    def write(self, data: bytes) -> None:
        if self._random.random() < self.chances.reset:  # during the request, the computation or the reply
            self.faults += 1
            self.board.reset(self._random.randrange(20 * CLOCKS * len(data)))
        if self._random.random() < self.chances.power:
            self.faults += 1
            self.board.power()
        self.board.write(self._spoil(data))

    def read(self, seconds: float) -> bytes:
        while data := self.board.read(seconds):  # what is dropped whole was still no silence
            if spoilt := self._spoil(data):
                return spoilt
        return b""

    def _spoil(self, data: bytes) -> bytes:
        made = bytearray()
        for byte in data:
            match self._random.choices(("", "damage", "drop", "double"), cum_weights=self._weights)[0]:
                case "":
                    made.append(byte)
                    continue
                case "damage":
                    made.append(byte ^ self._random.randrange(1, 256))
                case "double":
                    made += bytes([byte, byte])
            self.faults += 1
        return bytes(made)


@dataclass
class Counts:
    """What became of the exchanges of a frame for a frame, and of the tokens they carried.

    frames: exchanges; corrupted: those during which a fault came about; recovered: those of them that ended with a
    reply all the same; reported: those that ended with a BookError; restarts: resets that the host noticed and mended;
    tokens: answers accepted; wrong: those that are not golden's, in the likeliest token or any logit.
    """

    frames: int = 0
    corrupted: int = 0
    recovered: int = 0
    reported: int = 0
    restarts: int = 0
    tokens: int = 0
    wrong: int = 0


class CountedLink(Link):
    """A ``Link`` over a ``BadLine`` that keeps count of exchanges."""

    def __init__(self, line: BadLine, counts: Counts, patience: float) -> None:
        super().__init__(line, patience)
        self._bad, self._counts = line, counts

    def request(self, kind: Kind, payload: bytes = b"") -> Reply:
        before, counts = self._bad.faults, self._counts
        counts.frames += 1
        try:
            reply = super().request(kind, payload)
        except BookError:
            counts.reported += 1
            counts.corrupted += self._bad.faults > before
            raise
        if self._bad.faults > before:
            counts.corrupted += 1
            counts.recovered += 1
        return reply


def stress(
    model: IntegerModel,
    layout: Layout,
    frames: int = 1000,
    whole: float = 0.2,
    chances: Faults = Faults(),
    seed: int = 1,
    patience: float = 4e-5,
) -> Counts:
    """Feed stories of random tokens over a bad line until so many frames have been exchanged; compare with golden.

    The board has its model before the line goes bad, and is sent it anew over the bad line only after a loss of power.

    whole: at what share of the tokens, by chance, all logits are asked for, and not the likeliest token alone.
    patience: seconds of the board's, as in ``Link``: longer than the silence that ends a frame, and than a token.
    """
    counts, rng, golden = Counts(), random.Random(seed), Golden(model)
    simulated = SimulatedBoard(layout, seed=seed)
    Board(Link(simulated, patience), model)  # loads, while the line is good
    link = CountedLink(BadLine(simulated, chances, seed), counts, patience)
    board: Board | None = None
    while counts.frames < frames:
        golden.reset()
        try:
            if board is None:
                board = Board(link, model)
            board.reset()
            for _ in range(rng.randrange(1, 4 * model.shape.block)):
                token = rng.randrange(model.shape.vocab)
                argmax, logits = board.feed(token, logits=rng.random() < whole)
                wanted = golden.feed(token)
                counts.tokens += 1
                counts.wrong += argmax != wanted.argmax() or not np.array_equal(logits, wanted[: len(logits)])
        except BookError:
            continue  # counted by the link; the next story begins anew
    counts.restarts = board.restarts if board else 0
    simulated.close()
    return counts
