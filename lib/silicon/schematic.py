"""A unit drawn as Yosys understands it: the operations on whole words, before they become cells of a chip."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Mapping

from matplotlib.axes import Axes

from lib.errors import BookError
from lib.silicon.synth import elaborated, made
from lib.silicon.verilate import Unit

SIGNS = {
    **{"$add": "+", "$sub": "−", "$mul": "×", "$shl": "<<", "$shr": ">>", "$sshl": "<<<", "$sshr": ">>>"},
    **{"$eq": "=", "$ne": "≠", "$lt": "<", "$le": "≤", "$gt": ">", "$ge": "≥", "$mux": "choose", "$pmux": "choose"},
    **{"$and": "and", "$or": "or", "$xor": "xor", "$not": "not", "$reduce_or": "any", "$reduce_and": "all"},
    **{"$logic_and": "and", "$logic_or": "or", "$logic_not": "not", "$dff": "register", "$dffe": "register"},
}


@dataclass(frozen=True)
class Box:
    """A cell or a port. layer: from the left, behind all that it reads; row: from the top, within its layer."""

    label: str
    layer: int
    row: int


@dataclass(frozen=True)
class Schematic:
    """boxes by name; wires: bits from box to box; bends: the row in which a wire crosses a layer between its ends."""

    boxes: dict[str, Box]
    wires: dict[tuple[str, str], int]
    bends: dict[tuple[str, str], dict[int, int]]


def schematic(unit: Unit, parameters: Mapping[str, int | str] = {}) -> Schematic:
    """Return a combinational unit's operations in layers, inputs in the first and outputs in the last.

    Raises BookError for a unit with a loop, thus for one whose registers feed back, and as ``synthesise`` does.
    """
    script = [elaborated(unit, parameters), "proc; flatten; opt; wreduce; opt_clean", "write_json made"]
    modules = json.loads(made(unit, script, ".json").read_text())["modules"]
    module = max(modules.values(), key=lambda m: len(m["cells"]))
    labels, drivers, readers = {}, {}, defaultdict(list)
    for name, port in module["ports"].items():
        labels[name] = name
        for bit in port["bits"]:
            if port["direction"] == "input":
                drivers[bit] = name
            else:
                readers[name].append(bit)
    for name, cell in module["cells"].items():
        if cell["type"] == "$scopeinfo":
            continue
        labels[name] = SIGNS.get(cell["type"], cell["type"])
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "output":
                drivers |= dict.fromkeys(bits, name)
            elif all(isinstance(bit, str) for bit in bits) and set(bits) <= {"0", "1"}:
                labels[name] += f" {int(''.join(reversed(bits)), 2)}"
            else:
                readers[name] += bits
    wires: dict[tuple[str, str], int] = defaultdict(int)
    for reader, bits in readers.items():
        for bit in set(bits):
            if bit in drivers:
                wires[drivers[bit], reader] += 1
    outputs = [name for name, port in module["ports"].items() if port["direction"] == "output"]
    return _arranged(labels, dict(wires), outputs)


def _arranged(labels: Mapping[str, str], wires: dict[tuple[str, str], int], outputs: list[str]) -> Schematic:
    """Put each box a layer behind the last of those that it reads, near the rows of these; wires take rows, too."""
    before: dict[object, list[object]] = defaultdict(list)
    for source, reader in wires:
        before[reader].append(source)
    layers: dict[object, int] = {}
    while len(layers) < len(labels):
        ready = [name for name in labels if name not in layers and all(b in layers for b in before[name])]
        if not ready:
            raise BookError("the unit has a loop, which no order from left to right can show; draw a part of it")
        layers |= {name: max((layers[b] + 1 for b in before[name]), default=0) for name in ready}
    layers |= dict.fromkeys(outputs, max(layers.values()))
    for source, reader in wires:
        crossed = {(source, reader, layer): layer for layer in range(layers[source] + 1, layers[reader])}
        layers |= crossed
        before |= dict(zip(crossed, [[end] for end in (source, *crossed)]))
    rows: dict[object, int] = {}
    for layer in range(max(layers.values()) + 1):
        here = [name for name, found in layers.items() if found == layer]
        here.sort(key=lambda name: sum(rows[b] for b in before[name]) / max(1, len(before[name])))
        rows |= {name: row for row, name in enumerate(here)}
    bends: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    for name, row in rows.items():
        if name not in labels:
            bends[name[:2]][name[2]] = row
    return Schematic({name: Box(labels[name], layers[name], rows[name]) for name in labels}, wires, dict(bends))


def draw(axis: Axes, drawn: Schematic) -> None:
    """Draw boxes and wires, those of several bits thick, and how many bits they have."""
    rows = [(box.layer, box.row) for box in drawn.boxes.values()]
    rows += [crossing for bends in drawn.bends.values() for crossing in bends.items()]
    last = {layer: max(row for at, row in rows if at == layer) for layer, _ in rows}
    for (source, reader), bits in drawn.wires.items():
        ends = drawn.boxes[source], drawn.boxes[reader]
        points = [(ends[0].layer, ends[0].row), *drawn.bends.get((source, reader), {}).items()]
        points.append((ends[1].layer, ends[1].row))
        x, y = zip(*((layer, last[layer] / 2 - row) for layer, row in points))
        axis.plot(x, y, color="0.6", lw=2 if bits > 1 else 1, marker="", zorder=1)
        middle = 0.5 * (x[0] + x[1]), 0.5 * (y[0] + y[1])
        axis.text(*middle, str(bits), fontsize=8, color="0.3", ha="center", va="bottom")
    for name, box in drawn.boxes.items():
        frame = {"boxstyle": "round" if name == box.label else "square", "fc": "white", "ec": "black"}
        axis.text(box.layer, last[box.layer] / 2 - box.row, box.label, ha="center", va="center", bbox=frame, zorder=2)
    axis.set_axis_off()
    axis.margins(0.12)
