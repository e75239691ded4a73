"""The board of ``hw/boards/ulx3s``, simulated: at the end of a line whose time is counted in clocks, or of a terminal.

``SimulatedBoard`` is a line itself, so a test knows every clock of it and waits for nothing. ``Terminal`` puts it
behind a pseudo-terminal, where a program finds it as it would find a board: as a file.
"""

from __future__ import annotations

import ctypes
import os
import select
import threading
import tty
from pathlib import Path

from lib import ROOT
from lib.silicon.image import Layout
from lib.silicon.units import CORE
from lib.silicon.verilate import Unit, library

FOLDER = ROOT / "hw" / "boards" / "ulx3s"
HARNESS = ROOT / "lib" / "silicon" / "board.cpp"
PARTS = ("boot", "crc32", "uart_rx", "uart_tx", "frame_rx", "frame_tx", "frames", "board")
BOARD = Unit("board", (*CORE.sources, *(FOLDER / f"{part}.sv" for part in PARTS)), (), ())

CLOCK_HZ = 100e6  # about that of the real one
CLOCKS = 4  # a bit: the fewest there may be, so that simulated time goes into the core
SILENCE = 100  # bits that end a frame
BUSY = 1 << 2  # of the diodes


def sizes(layout: Layout) -> dict[str, int]:
    """Return the core's parameters that a board has, too."""
    return {name: value for name, value in layout.parameters().items() if name != "ULTRA"}


def parameters(layout: Layout, fixed: bool = False) -> dict[str, int]:
    """Return the parameters of board.sv for a core without a model, or with a fixed one and an ECP5's multipliers."""
    return {**sizes(layout), "INIT": int(fixed), "SPLIT": int(fixed), "CLOCKS": CLOCKS, "SILENCE": SILENCE}


class SimulatedBoard:
    """A ``Line`` with the board at its other end. It runs only while it is read, and a second has CLOCK_HZ clocks.

    fixed: its memories hold what the files memory*.hex say that lie in the current folder when it gets power.
    """

    def __init__(self, layout: Layout, seed: int = 1, fixed: bool = False) -> None:
        self.name = "the simulated board"
        self.clocks = 0  # run so far
        self._library = _load(library(BOARD, parameters(layout, fixed), HARNESS, lambda header: []))
        self._seed = seed
        self._board: int | None = None
        self.power()

    def power(self) -> None:
        """Turn the board off and on: registers and memories, the model's too, hold noise again."""
        self.close()
        self._board = self._library.board_new(CLOCKS, self._seed)

    def close(self) -> None:
        """Free the model; harmless when done before."""
        if self._board is not None:
            self._library.board_delete(self._board)
            self._board = None

    def reset(self, delay: int = 0) -> None:
        """Press the button, so many clocks from now; the line knows nothing of it."""
        self._library.board_reset(self._board, delay)

    @property
    def busy(self) -> bool:
        """Whether a request is being served."""
        return bool(self._library.board_leds(self._board) & BUSY)

    def write(self, data: bytes) -> None:
        self._library.board_send(self._board, data, len(data))

    def read(self, seconds: float) -> bytes:
        """Run until a reply has come, or so many seconds of the board's have passed in which no byte moved."""
        received, passed = ctypes.create_string_buffer(4096), ctypes.c_uint64()
        clocks, pause = round(seconds * CLOCK_HZ), 20 * CLOCKS
        n = self._library.board_run(self._board, clocks, pause, received, len(received), ctypes.byref(passed))
        self.clocks += passed.value
        return received.raw[:n]


def _load(path: Path) -> ctypes.CDLL:
    """Load a built board and say what its functions take (``board.cpp``)."""
    made, board = ctypes.CDLL(os.fspath(path)), ctypes.c_void_p
    size, clocks = ctypes.c_size_t, ctypes.c_uint64
    made.board_new.argtypes, made.board_new.restype = [ctypes.c_int, clocks], board
    made.board_delete.argtypes, made.board_delete.restype = [board], None
    made.board_send.argtypes, made.board_send.restype = [board, ctypes.c_char_p, size], None
    made.board_reset.argtypes, made.board_reset.restype = [board, clocks], None
    made.board_leds.argtypes, made.board_leds.restype = [board], ctypes.c_int
    made.board_run.argtypes = [board, clocks, clocks, ctypes.c_char_p, size, ctypes.POINTER(clocks)]
    made.board_run.restype = size
    return made


class Terminal:
    """A simulated board behind a pseudo-terminal, in a thread, while the ``with`` block lasts. ``path`` is its file.

    Simulated time goes on while bytes arrive or the board is busy, and otherwise for as long as ends a frame.
    """

    SLICE = SILENCE / 8 * CLOCKS / CLOCK_HZ  # seconds of the board's between two looks at the terminal

    def __init__(self, board: SimulatedBoard) -> None:
        self.board = board
        self._master, self._slave = os.openpty()  # the slave is kept open: hosts come and go
        tty.setraw(self._slave)
        self.path = os.ttyname(self._slave)
        self._stop, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Terminal:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        os.write(self._wake, b"x")
        self._thread.join()
        for file in (self._master, self._slave, self._stop, self._wake):
            os.close(file)
        self.board.close()

    def _serve(self) -> None:
        idle = 0  # slices without a byte in either direction
        while True:
            ready = select.select([self._master, self._stop], [], [], None if idle > 10 else 0)[0]
            if self._stop in ready:
                return
            if self._master in ready:
                self.board.write(os.read(self._master, 4096))
                idle = 0
            replies = self.board.read(self.SLICE)
            if replies:
                os.write(self._master, replies)
            idle = 0 if replies or self.board.busy else idle + 1
