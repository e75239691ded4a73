"""The register that a block RAM has at its output: Yosys leaves it unused, and this moves the one behind into it.

``memory.sv`` describes the block's own data register and one more behind it. Yosys makes the second of flip-flops, a
wire away from a block that takes 5.8 ns to answer. Within the block the same register costs nothing and answers in
0.95 ns (Project Trellis' timing of speed grade 6, with which nextpnr works).
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Mapping

Cell = Mapping[str, Any]
Readers = Mapping[object, list[tuple[str, str]]]  # of a net: cells, and the ports at which they read it

BLOCK, MULTIPLIER, OUTPUTS, WIDE = "DP16KD", "MULT18X18D", 18, 36


def absorb(netlist: str) -> tuple[str, int]:
    """Return a netlist, Yosys' JSON for ECP5, that uses its block RAMs' output registers, and how many it saves.

    A side of a block is changed if each output in use goes to one flip-flop and nowhere else, all of them under one
    enable, on the block's clock, and never reset. Registers that a multiplier reads stay: it is slow itself, and they
    divide the way to it. What the netlist computes, and in which clock, stays as it is.
    """
    design = json.loads(netlist)
    module = max(design["modules"].values(), key=lambda m: len(m.get("cells", ())))
    cells, readers, saved = module["cells"], _readers(module), 0
    for block in [cell for cell in cells.values() if cell["type"] == BLOCK]:
        # As wide as it gets, both sides give out what B reads, and so count as one.
        wide = int(block["parameters"]["DATA_WIDTH_B"], 2) == WIDE
        for sides in ["AB"] if wide else ["A", "B"]:
            move = _move(block, sides, cells, readers)
            if not move:
                continue
            for port, name in move.behind.items():
                block["connections"][port] = cells.pop(name)["connections"]["Q"]
            for side in sides:
                block["parameters"][f"REGMODE_{side}"] = "OUTREG"
                block["connections"] |= {f"OCE{side}": [move.enable], f"CLK{side}": [move.clock]}
            saved += len(move.behind)
    return json.dumps(design), saved


@dataclass(frozen=True)
class Move:
    """Flip-flops that a block can take in, by the output that they are behind, and the nets that control them."""

    behind: dict[str, str]
    enable: object
    clock: object


def _move(block: Cell, sides: str, cells: Mapping[str, Cell], readers: Readers) -> Move | None:
    """Return the flip-flops behind sides of a block, if all of them can move into it."""
    behind = _behind(block, sides, readers)
    taken = any(block["parameters"][f"REGMODE_{side}"] != "NOREG" for side in sides)
    next_cells = (user for name in behind.values() for user, _ in readers[_net(cells[name], "Q")])
    slow = any(name in cells and cells[name]["type"] == MULTIPLIER for name in next_cells)
    controls = {_control(cells[name]) for name in behind.values()}
    clocks = {_clock(block, side) for side in sides} - {None}
    if taken or slow or len(controls) != 1 or len(clocks) != 1:
        return None
    (enable, *rest), (clock,) = controls.pop(), clocks
    return Move(behind, enable, clock) if rest == [clock, "CLK", "0"] else None


def _readers(module: Cell) -> Readers:
    """Return who reads each net; a pin of the module is read by its own name, which no cell has."""
    readers = defaultdict(list)
    for name, cell in module["cells"].items():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "input":
                for bit in bits:
                    readers[bit].append((name, port))
    for name, port in module["ports"].items():
        for bit in port["bits"]:
            readers[bit].append((name, "pin"))
    return readers


def _behind(block: Cell, sides: str, readers: Readers) -> dict[str, str]:
    """Return the flip-flop behind each output of these sides that is read; none unless all have just one."""
    nets = {f"DO{side}{n}": _net(block, f"DO{side}{n}") for side in sides for n in range(OUTPUTS)}
    found = {port: readers[net] for port, net in nets.items() if isinstance(net, int) and readers.get(net)}
    single = all(len(users) == 1 and users[0][1] == "DI" for users in found.values())
    return {port: users[0][0] for port, users in found.items()} if single else {}


def _clock(block: Cell, side: str) -> object:
    """Return the net that clocks a side, its edge where that falls; None for a side that is never enabled."""
    if _net(block, f"CE{side}") == "0":
        return None
    net, mux = _net(block, f"CLK{side}"), block["parameters"][f"CLK{side}MUX"]
    return net if mux == f"CLK{side}" else (net, mux)


def _control(flip_flop: Cell) -> tuple[object, object, str, object]:
    """Return a flip-flop's enable ("1" without one), clock, its edge, and reset ("0" for never)."""
    parameters = flip_flop["parameters"]
    mux = parameters["CEMUX"].strip()
    enable = {"CE": _net(flip_flop, "CE"), "1": "1"}.get(mux, mux)
    return enable, _net(flip_flop, "CLK"), parameters["CLKMUX"], _net(flip_flop, "LSR")


def _net(cell: Cell, port: str) -> object:
    """Return the net at a port: a number, or a constant's digit."""
    return cell["connections"].get(port, ["x"])[0]
