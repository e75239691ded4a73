"""The cores of ``hw/rtl`` as Python objects: Verilator makes a library of one, and one call runs many tokens.

A model is loaded through the core's own port. Libraries are cached by their sources and parameters, so that models of
one shape share one. A token costs its clocks, some millions of which pass in a second.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import numpy as np

from lib.errors import BookError
from lib.silicon import sparse
from lib.silicon.golden import IntegerModel
from lib.silicon.image import Image, Layout, image
from lib.silicon.sparse import SparseLayout
from lib.silicon.units import CORE, SPARSE_CORE
from lib.silicon.verilate import library

HARNESS = Path(__file__).with_name("core.cpp")
PHASES = ("idle", "fetch", "embed", "query", "key", "score", "value", "mix", "out", "up", "down", "head", "wait")
# The first head's softmax unit, for a waveform.
SOFTMAX_PORTS = ("valid_i", "score_i", "last_i", "valid_o", "ready_i", "value_o", "sum_o", "last_o")
SOFTMAX_PATH = "__DOT__u_attention__DOT__g_head__BRA__0__KET____DOT__u_softmax__DOT__"


class _Step(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("taken", "complete", "ready", "argmax", "bad")]


@dataclass(frozen=True)
class Run:
    """What a run of M tokens gave, an entry a token.

    logits: int64 (M, V); argmax: int64 (M,); bad: bool (M,), tokens outside the vocabulary, whose logits are 0 and
    whose argmax is -1. In clocks from a token's being taken: cycles, int64 (M,), until the last logit was there;
    intervals, int64 (M,), until the core could take the next token, the logits having been read.
    """

    logits: np.ndarray
    argmax: np.ndarray
    bad: np.ndarray
    cycles: np.ndarray
    intervals: np.ndarray


class Core:
    """A core with a model in it, its context empty at first.

    seed: of the noise in its registers and memories before they are reset or loaded; probe: for ``trace``; optimise:
    how much g++ does, "-O1" for a core that has little to compute. After ``step`` its results stand in ``argmax``,
    ``bad``, ``cycles`` and ``interval``, as in a ``Run``. Raises BookError for a combination of shape, lanes and drain
    that no core has, and when a tool is missing.
    """

    def __init__(
        self,
        model: IntegerModel,
        lanes: int,
        drain: int = 8,
        seed: int = 1,
        probe: bool = False,
        optimise: str = "-O2",
        cover: bool = False,
    ) -> None:
        layout = Layout(model.shape, lanes, drain)
        self._start(layout, image(model, layout), seed, probe, optimise, cover)

    def _start(self, layout: Layout, words: Image, seed: int, probe: bool, optimise: str, cover: bool) -> None:
        self.layout = layout
        self._probes = SOFTMAX_PORTS if probe else ()
        library = build(layout, self._probes, optimise, cover)
        self._library = ctypes.CDLL(os.fspath(library))
        self._library.core_new.restype = ctypes.c_void_p
        self._library.core_run.restype = ctypes.c_size_t
        self._core = ctypes.c_void_p(self._library.core_new(ctypes.c_uint64(seed)))
        count = ctypes.c_size_t(len(words.data))
        self._library.core_load(self._core, _pointer(words.address), _pointer(words.data), count)

    def __del__(self) -> None:
        if hasattr(self, "_core"):
            self._library.core_free(self._core)

    def reset(self) -> None:
        """Forget the context, and the token in work if there is one. The model stays."""
        self._library.core_reset(self._core)

    def run(self, tokens: Sequence[int], offer: float = 1.0, accept: float = 1.0, seed: int = 1) -> Run:
        """Feed tokens, 0 to 255, behind those before.

        offer, accept: in what share of the clocks, at random, a token is offered and a logit taken; accept above 0.
        """
        run, finished = self._run(tokens, offer, accept, seed)
        if finished < len(tokens):
            raise BookError(f"the core took more than {self._limit()} clocks for a token; its source is broken")
        return run

    def step(self, token: int) -> np.ndarray:
        """Feed one token; return the logits int64 (V,) over the next one."""
        run = self.run([token])
        self.argmax, self.bad = int(run.argmax[0]), bool(run.bad[0])
        self.cycles, self.interval = int(run.cycles[0]), int(run.intervals[0])
        return run.logits[0]

    def cover(self, file: Path) -> None:
        """Write what a core made with ``cover`` has reached, in Verilator's format."""
        self._library.core_cover(self._core, os.fspath(file).encode())

    def interrupt(self, token: int, clocks: int) -> None:
        """Offer a token, and reset the core so many clocks later, wherever it is then."""
        self._run([token], 1.0, 1.0, 1, limit=clocks)
        self.reset()

    def phases(self, token: int) -> list[tuple[str, int, int]]:
        """Feed one token; return runs (phase, start, stop) of what the multipliers did, in clocks from its being taken.

        A phase is one of PHASES; in "wait" the multipliers stand still, in "embed" they are not needed.
        """
        phases = self.trace(token)["phase_o"]
        edges = np.flatnonzero(np.diff(phases)) + 1
        starts, stops = [0, *edges.tolist()], [*edges.tolist(), len(phases)]
        return [(PHASES[phases[start]], start, stop) for start, stop in zip(starts, stops)]

    def trace(self, token: int) -> dict[str, np.ndarray]:
        """Feed one token; return signals by name, uint64 (clocks,) from the clock after its being taken.

        phase_o, and of a core made with ``probe`` the ports of the first head's softmax unit; positions that enter or
        leave it in one clock lie side by side in score_i, 16 bits each, and value_o, 8 bits each, the first one lowest.
        """
        trace = np.zeros((self._clocks() * self.layout.shape.block, 1 + len(self._probes)), np.uint64)
        run, _ = self._run([token], 1.0, 1.0, 1, trace)
        columns = trace[: run.intervals[0]].T
        return dict(zip(("phase_o", *self._probes), columns))

    def _clocks(self) -> int:
        """Clocks that no position needs whose logits are read at once."""
        shape = self.layout.shape
        return 4 * (shape.layers + 1) * (100 + 12 * shape.width**2 // self.layout.lanes + 2 * shape.block) + shape.vocab

    def _limit(self) -> int:
        """Clocks that no token needs, a refill and slow readers included."""
        return 1000 * self._clocks() * self.layout.shape.block

    def _run(
        self,
        tokens: Sequence[int],
        offer: float,
        accept: float,
        seed: int,
        trace: np.ndarray | None = None,
        limit: int | None = None,
    ) -> tuple[Run, int]:
        given = np.asarray(tokens)
        if given.size and not 0 <= given.min() <= given.max() <= 255:
            raise BookError("a token is outside 0 to 255, and cannot be offered to the core; encode text with lib.text")
        n, given = len(given), given.astype(np.uint8)
        steps, logits = (_Step * n)(), np.zeros((n, self.layout.shape.vocab), np.int16)
        finished = self._library.core_run(
            *(self._core, _pointer(given), ctypes.c_size_t(n)),
            *(ctypes.c_uint32(round(256 * offer)), ctypes.c_uint32(round(256 * accept)), ctypes.c_uint64(seed)),
            *(steps, _pointer(logits), None if trace is None else _pointer(trace)),
            *(ctypes.c_size_t(0 if trace is None else len(trace)), ctypes.c_int64(limit or self._limit())),
        )
        table = np.array([[getattr(step, name) for name, _ in _Step._fields_] for step in steps]).reshape(n, 5).T
        run = Run(logits.astype(np.int64), table[3], table[4].astype(bool), table[1], table[2])
        return run, finished


class SparseCore(Core):
    """The core that skips zeros, ``hw/rtl/sparse_core.sv``, with a model in it; otherwise a ``Core``.

    Its memories are as large as the model needs, ``layout`` says how large. Raises BookError as ``Core`` does.
    """

    layout: SparseLayout

    def __init__(
        self,
        model: IntegerModel,
        lanes: int,
        seed: int = 1,
        probe: bool = False,
        optimise: str = "-O2",
        cover: bool = False,
    ) -> None:
        layout = SparseLayout.of(model, lanes)
        self._start(layout, sparse.image(model, layout), seed, probe, optimise, cover)


def build(layout: Layout, probes: Sequence[str] = (), optimise: str = "-O2", cover: bool = False) -> Path:
    """Return the library of a core, a sparse one of a sparse layout, built unless the cache has it.

    probes: ports of softmax.sv to be looked at; cover: count how often every line and toggle was reached.
    """
    unit = SPARSE_CORE if isinstance(layout, SparseLayout) else CORE
    visible = "".join(f'public_flat_rd -module "softmax" -var "{port}"\n' for port in probes)
    macros = [f"-DVOCAB={layout.shape.vocab}"]
    if probes:
        macros.append("-DPROBES=" + " ".join(f"X({unit.top}{SOFTMAX_PATH}{port})" for port in probes))
    settings = f"`verilator_config\n{visible}" if probes else ""
    return library(unit, layout.parameters(), HARNESS, lambda header: macros, settings, optimise, cover)


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
