"""What designs take of their devices: counts by records, totals by the makers' tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator

from lib.comparison import RESOURCES, Records

# XCZU7EV (the ZCU104's) by DS891, LFE5U-85F by Lattice's family data sheet, VC1902 (the VCK190's) by AM009.
XCZU7EV = {"lut": 230_400, "ff": 460_800, "dsp": 1_728, "bram": 312, "uram": 96}
LFE5U_85F = {"lut4": 83_640, "comb": 83_640, "ff": 83_640, "mult": 156, "ebr": 208}
VC1902 = {"aie": 400}


@dataclass(frozen=True)
class Share:
    """A design's part of one kind of resource, in per cent, and how it came about: of printed counts it is modelled."""

    design: str
    kind: str
    percent: float
    provenance: str


def shares(records: Records) -> list[Share]:
    """List every share that can be told, design by design: the report's, the vendors', and the book's own."""
    return [*_printed(records), *_own(records)]


def _printed(records: Records) -> Iterator[Share]:
    for row in RESOURCES:
        yield Share(f"{row.overlay}, report", row.name, 100 * row.claimed / row.total, "modelled")
        vendor = records.figures.get(row.vendor)
        if vendor:
            yield Share(f"{row.overlay}, vendor", row.name, 100 * vendor.value / row.total, "modelled")


def _own(records: Records) -> Iterator[Share]:
    patterns = (  # the name of a design, the pattern of its records (lanes, kind), and the device's totals
        ("core, {} lanes, on XCZU7EV", r"silicon\.pocket\.xcup\.lanes(\d+)\.(?:{kind})", XCZU7EV),
        ("nano, {} lanes, on ECP5-85F", r"silicon\.nano\.ecp5_synth\.lanes(\d+)\.(?:{kind})", LFE5U_85F),
        ("nano, {} lanes, routed on ECP5-85F", r"silicon\.nano\.ecp5\.lanes(\d+)\.(?:{kind})", LFE5U_85F),
    )
    for name, pattern, totals in patterns:
        for kind, total in totals.items():
            for lanes, count in records.matching(pattern.replace("{kind}", kind)):
                yield Share(name.format(lanes), kind.upper(), 100 * count.value / total, count.provenance)
    for model, count in records.matching(r"acap\.table5\.(deit_t)\.aie"):
        percent = 100 * count.value / VC1902["aie"]
        yield Share(f"{model}, AI Engines of a VCK190", "AIE", percent, count.provenance)
