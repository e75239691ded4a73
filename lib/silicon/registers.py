"""The registers within the chip's own blocks: Yosys leaves them unused, and this moves flip-flops beside them in.

``memory.sv`` describes a block RAM's data register and one more behind it, ``column.sv`` registers before a
multiplier. Yosys makes flip-flops of the fabric of them, a wire away. Behind a block RAM that wire adds to the 5.8 ns
which the block takes to answer; with the register in the block it answers in 0.95 ns. A multiplier, 3.9 ns slow, with
its inputs' registers at a distance needs two long wires in one clock, and with them inside it one (Project Trellis'
timing of speed grade 6, with which nextpnr works).

The register behind a multiplier stays outside: which enable the one within would have is not documented there.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any, Iterable, NamedTuple

Cell = dict[str, Any]

BLOCK, MULTIPLIER, FLIP_FLOP, CARRY = "DP16KD", "MULT18X18D", "TRELLIS_FF", "CCU2C"
PINS = 18  # of each side of a block RAM, and of each operand
WIDE = 36  # bits a row; both sides of a block RAM then give out what side B reads


class Control(NamedTuple):
    """What makes a flip-flop change. Nets are numbers, constants digits."""

    enable: object  # "1": always
    clock: object
    edge: str  # "CLK": the rising one
    reset: object  # "0": never


class Nets:
    """Who drives and who reads each net of a flat module: cells and their ports; pins read under the port "pin"."""

    def __init__(self, module: Cell) -> None:
        self.cells: dict[str, Cell] = module["cells"]
        self.drivers: dict[object, str] = {}
        self.readers: dict[object, list[tuple[str, str]]] = defaultdict(list)
        for name, cell in self.cells.items():
            for port, bits in cell["connections"].items():
                for bit in bits:
                    if cell["port_directions"][port] == "input":
                        self.readers[bit].append((name, port))
                    else:
                        self.drivers[bit] = name
        for name, port in module["ports"].items():
            for bit in port["bits"]:
                self.readers[bit].append((name, "pin"))

    def kind(self, name: str | None) -> str | None:
        return self.cells[name]["type"] if name in self.cells else None

    def users(self, name: str) -> set[str]:
        """Return the names of the cells, or pins, that read a flip-flop."""
        return {user for user, _ in self.readers[_net(self.cells[name], "Q")]}


def absorb(netlist: str) -> tuple[str, int]:
    """Return a netlist, Yosys' JSON for ECP5, that uses the registers within its blocks, and how many that saves.

    A block RAM's side takes in the flip-flops behind it if each output in use goes to one of them and nowhere else; not
    if a multiplier is next, as they divide the way to it. A multiplier's operand takes in those that only it reads; not
    if a block RAM or an adder drives them, for the same reason. All flip-flops of a side or operand must have one
    enable and one clock, which for a block RAM is its own, and never be reset. What the netlist computes, and in which
    clock, stays as it is.
    """
    design = json.loads(netlist)
    module = next(m for m in design["modules"].values() if int(m["attributes"].get("top", "0"), 2))
    before = len(module["cells"])
    for kind, take_in in ((BLOCK, _behind_block), (MULTIPLIER, _before_multiplier)):
        nets = Nets(module)
        for name in [name for name in nets.cells if nets.kind(name) == kind]:
            take_in(nets, name)
    return json.dumps(design), before - len(module["cells"])


def _behind_block(nets: Nets, name: str) -> None:
    block = nets.cells[name]
    for sides in ["AB"] if int(block["parameters"]["DATA_WIDTH_B"], 2) == WIDE else ["A", "B"]:
        outputs = [f"DO{side}{n}" for side in sides for n in range(PINS)]
        readers = {port: nets.readers[_net(block, port)] for port in outputs if isinstance(_net(block, port), int)}
        readers = {port: found for port, found in readers.items() if found}
        if any(len(found) > 1 or found[0][1] != "DI" for found in readers.values()):
            continue
        behind = {port: found[0][0] for port, found in readers.items()}
        control = _common(nets, behind.values())
        clocks = {_net(block, f"CLK{side}") for side in sides if _net(block, f"CE{side}") != "0"}
        rising = all(block["parameters"][f"CLK{side}MUX"] == f"CLK{side}" for side in sides)
        taken = any(block["parameters"][f"REGMODE_{side}"] != "NOREG" for side in sides)
        slow = any(nets.kind(user) == MULTIPLIER for found in behind.values() for user in nets.users(found))
        if control is None or clocks != {control.clock} or not rising or taken or slow:
            continue
        for port, found in behind.items():
            block["connections"][port] = nets.cells.pop(found)["connections"]["Q"]
        for side in sides:
            block["parameters"][f"REGMODE_{side}"] = "OUTREG"
            block["connections"] |= {f"OCE{side}": [control.enable], f"CLK{side}": [control.clock]}


def _before_multiplier(nets: Nets, name: str) -> None:
    multiplier = nets.cells[name]
    for operand, enable in (("A", "CE0"), ("B", "CE1")):
        ports = [f"{operand}{n}" for n in range(PINS)]
        before = {port: nets.drivers.get(_net(multiplier, port)) for port in ports}
        if any(nets.kind(found) != FLIP_FLOP or nets.users(found) != {name} for found in before.values()):
            continue
        control = _common(nets, before.values())
        drivers = [nets.drivers.get(_net(nets.cells[found], "DI")) for found in before.values()]
        far = any(nets.kind(driver) in (BLOCK, CARRY) for driver in drivers)
        register = f"REG_INPUT{operand}"
        if control is None or far or f"{register}_CLK" in multiplier["parameters"]:
            continue
        multiplier["connections"] |= {port: nets.cells[found]["connections"]["DI"] for port, found in before.items()}
        for found in set(before.values()):
            del nets.cells[found]
        controls = {enable: control.enable, "CLK0": control.clock, "RST0": "0"}
        multiplier["connections"] |= {port: [net] for port, net in controls.items()}
        multiplier["port_directions"] |= {port: "input" for port in controls}
        multiplier["parameters"] |= {f"{register}_CLK": "CLK0", f"{register}_CE": enable, f"{register}_RST": "RST0"}


def _common(nets: Nets, flip_flops: Iterable[str]) -> Control | None:
    """Return what all of some flip-flops have in common; None if nothing, an inverted enable or clock, or a reset."""
    found = {_control(nets.cells[name]) for name in flip_flops}
    control = found.pop() if len(found) == 1 else None
    plain = control and (control.edge, control.reset) == ("CLK", "0") and control.enable != "INV"
    return control if plain else None


def _control(flip_flop: Cell) -> Control:
    parameters = flip_flop["parameters"]
    mux = parameters["CEMUX"].strip()
    enable = {"CE": _net(flip_flop, "CE"), "1": "1"}.get(mux, mux)
    return Control(enable, _net(flip_flop, "CLK"), parameters["CLKMUX"], _net(flip_flop, "LSR"))


def _net(cell: Cell, port: str) -> object:
    """Return the net at a port: a number, or a constant's digit."""
    return cell["connections"].get(port, ["x"])[0]
