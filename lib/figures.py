"""The comparison's figures. Each function draws on axes that it is given, from rows and records that it is given."""

from __future__ import annotations

from dataclasses import replace
from typing import Sequence

import numpy as np
from matplotlib.axes import Axes

from lib import comparison, lineup
from lib.capacity import Share
from lib.comparison import Judged
from lib.gpt import attention_macs
from lib.plot import COLOURS, MARKERS
from lib.published import REPORT_POWER, TABLE_4
from lib.routes import Acap, Core, Overlay, Route, Workload, estimate

POCKET = Workload(layers=8, heads=4, width=128, block=256)
BLUE, RED, GREEN, GREY = COLOURS[0], COLOURS[1], COLOURS[2], "#777777"
CITED = {"marker": "x", "color": RED, "ls": ""}
SMALL = 9  # points; nothing in these figures is smaller, so that they can be read on a phone


def _mark(measured: bool) -> dict[str, object]:
    """Filled for what was run, hollow for what was modelled."""
    return {"marker": "o", "color": BLUE, "mfc": BLUE if measured else "white", "ls": ""}


# ---- Figure 6.1: quality against speed. ----


def front(ax: Axes, rows: Sequence[lineup.Row], judged: Sequence[Judged]) -> list[tuple[float, float]]:
    """Draw perplexity increase against tokens/s, one thread, claims as crosses, and the front of what was measured.

    Returns the front's points.
    """
    one = [r for r in rows if r.entry.model == "pocket" and r.entry.target != lineup.HOST_TWO]
    scored = [r for r in one if r.ppl_increase_pct is not None]
    for row in scored:
        x, y = row.tokens_per_s.value, row.ppl_increase_pct.value
        ax.plot(x, y, **_mark(row.tokens_per_s.provenance == "measured"))
        name = row.entry.name.replace("_lanes", " ").replace("openvino", "ov").replace("stateful", "cache")
        name = name.replace("core_sparse", "sparse").replace("_", " ")
        ax.annotate(name, (x, y), textcoords="offset points", fontsize=SMALL, **_place(row, scored))
    measured = [r for r in scored if r.tokens_per_s.provenance == "measured"]
    best = comparison.pareto((r.tokens_per_s.value, r.ppl_increase_pct.value) for r in measured)
    if best:
        ax.plot(*zip(*best), color=GREEN, marker="", lw=3, alpha=0.5, label="front of what was measured", zorder=0)
    _claims(ax, judged)
    ax.plot([], [], **_mark(True), label="measured")
    ax.plot([], [], **_mark(False), label="modelled")
    ax.set_yscale("symlog", linthresh=0.1)
    ticks = [0, 0.1, 1, 10]
    ax.set(yticks=ticks, yticklabels=[str(t) for t in ticks], ylim=(-20, 100), xlim=(8, 3e5), xscale="log")
    ax.set(xlabel="tokens per second", ylabel="increase of character perplexity, %")
    ax.legend(fontsize=SMALL, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return best


def _beside(row: lineup.Row, other: lineup.Row) -> bool:
    """Say whether ``other``, a little faster at about the same cost, would have its name over ``row``'s."""
    faster = other.tokens_per_s.value / row.tokens_per_s.value
    low, high = sorted((row.ppl_increase_pct.value, other.ppl_increase_pct.value))
    return 1 < faster < 1.3 and 0.1 < low < high < 1.2 * low


def _place(row: lineup.Row, others: Sequence[lineup.Row]) -> dict[str, object]:
    """Say where a point's name goes. What was measured: FP32's below to the left, others' below to the right. What was
    modelled: above, or below to the right where it lies under zero or costs next to nothing; FP32 above. Above to the
    left, where another point's name would lie over it.
    """
    if any(_beside(row, other) for other in others):
        return {"xytext": (2, 5), "ha": "right", "rotation": -35}
    measured, exact = row.tokens_per_s.provenance == "measured", row.entry.quality == lineup.EXACT
    if measured and exact:
        return {"xytext": (-3, -5), "va": "top", "ha": "right", "rotation": 50}
    if measured or (not exact and row.ppl_increase_pct.value < 0.01):
        return {"xytext": (0, -5), "va": "top", "rotation": -50}
    return {"xytext": (1, 5), "rotation": 35}


def _claims(ax: Axes, judged: Sequence[Judged]) -> None:
    """Draw the report's Table 6.1 with the perplexities of its Table 2.1."""
    cost = {j.claim.what: j.claim.value for j in judged}
    for j in judged:
        if j.claim.table == "6.1" and j.claim.unit == "ms" and "INT8" in j.claim.what:
            y = cost["both, perplexity" if "pruned" in j.claim.what else "INT8, perplexity"]
            ax.plot(1e3 / j.claim.value, y, **CITED)
    ax.plot([], [], **CITED, label="claimed by the report")


# ---- Resources. ----


def capacity(ax: Axes, shares: Sequence[Share]) -> None:
    """Draw each design's shares of its device on a line, one mark a kind; the dashed line is all there is."""
    designs = list(dict.fromkeys(share.design for share in shares))
    kinds = {"LUT": 0, "ALM": 0, "LUT4": 0, "COMB": 0, "FF": 1, "DSP": 2, "MULT": 2, "BRAM": 3, "M20K": 3, "EBR": 3}
    names = ("logic", "flip-flops", "multipliers", "block RAM", "UltraRAM", "AI Engines")
    kinds |= {"URAM": 4, "AIE": 5}
    for number, name in enumerate(names):
        found = [(s.percent, designs.index(s.design)) for s in shares if kinds[s.kind] == number]
        if found:
            ax.plot(*zip(*found), MARKERS[number], color=COLOURS[number], label=name, ms=6)
    ax.axvline(100, color="black", ls="--", lw=1)
    ax.set(yticks=range(len(designs)), yticklabels=designs, xlabel="per cent of the device", xlim=(0, 190))
    ax.tick_params(axis="y", labelsize=SMALL)
    ax.invert_yaxis()
    ax.legend(fontsize=SMALL, loc="upper center", ncols=3, bbox_to_anchor=(0.3, -0.16))


# ---- Rooflines. ----


def rooflines(ax: Axes, rows: Sequence[lineup.Row], overlays: Sequence[Overlay], core: Core, acap: Acap) -> None:
    """Draw what each target could do, and what it did or would do, with a token of ``pocket``: multiply-accumulates a
    second against multiply-accumulates a byte of weights.
    """
    intensity = np.geomspace(0.1, 1e4, 200)
    limits = {o.name.split(", ")[1]: (o.macs_per_s, o.bytes_per_s * o.bits / 8) for o in overlays}
    limits["VCK190, weights in DRAM"] = (acap.macs_per_s, 25.6e9)
    for lanes in (64, 256):
        peak = lanes * POCKET.clock_mhz * 1e6
        limits[f"core, {lanes} lanes, weights on chip"] = (peak, peak)  # a lane reads the byte that it multiplies
    for number, (name, (peak, rate)) in enumerate(limits.items()):
        style = ("-", "--", ":", "-.", (0, (5, 1)))[number % 5]
        reached = np.minimum(peak, rate * intensity) / 1e9
        ax.plot(intensity, reached, color=COLOURS[number % 7], ls=style, marker="", label=name)
    macs = POCKET.weights + attention_macs(POCKET.config, 3 * POCKET.block // 4)  # contexts as in chapter 7's race
    for row in rows:
        if row.entry.name in POINTS:
            x = macs / (POCKET.weights * int(row.entry.bits) / 8)
            y = macs * row.tokens_per_s.value / 1e9
            ax.plot(x, y, **_mark(row.tokens_per_s.provenance == "measured"))
            name, left = POINTS[row.entry.name]
            place = {"xytext": (-6, -3), "ha": "right"} if left else {"xytext": (6, -3)}
            ax.annotate(name, (x, y), textcoords="offset points", fontsize=SMALL, **place)
    ax.set(xscale="log", yscale="log", xlim=(0.1, 1e4), ylim=(0.05, 3e5))
    ax.set(xlabel="multiply-accumulates per byte of weights", ylabel="10⁹ multiply-accumulates per second")
    ax.legend(fontsize=SMALL, loc="lower right")


POINTS = {  # which rows are drawn, under what name, and whether it stands to the left
    "torch_kv": ("PyTorch", False),
    "c_fp32": ("C, FP32", True),
    "c_int8": ("C, INT8", True),
    "dpu": ("DPU", False),
    "a10": ("Arria 10", True),
    "core_lanes64": ("core, 64 lanes", False),
    "core_lanes256": ("core, 256 lanes", True),
}


# ---- Energy. ----


def energy(ax: Axes, gmac: float, macs: dict[str, float], measured: dict[str, float]) -> None:
    """Draw nanojoules a multiply-accumulate: the paper's platforms for DeiT-T of ``gmac`` 10^9, the report's targets
    for the size it claims and the one it describes (``macs``, by name), and what was measured, by name.
    """
    bars = [(p.name, p.nj_per_mac(gmac), p.nj_per_mac(gmac), "cited") for p in TABLE_4]
    for power in REPORT_POWER:
        both = sorted(power.nj_per_mac(count) for count in macs.values())
        bars.append((f"{power.name}, report", both[0], both[-1], "cited"))
    bars += [(name, value, value, "measured") for name, value in measured.items()]
    for number, (name, low, high, provenance) in enumerate(sorted(bars, key=lambda bar: bar[2])):
        look = CITED if provenance == "cited" else _mark(True)
        ax.plot([low, high], [number, number], color=RED, marker="", lw=1)
        ax.plot([low, high], [number, number], **look)
    names = [bar[0] for bar in sorted(bars, key=lambda bar: bar[2])]
    ax.set(
        xscale="log",
        yticks=range(len(bars)),
        yticklabels=names,
        xlabel="nanojoules per multiply-accumulate (crosses: cited)",
    )
    ax.tick_params(axis="y", labelsize=SMALL)


# ---- Break-even. ----


def widths(ax: Axes, routes: Sequence[Route], work: Workload, values: Sequence[int]) -> None:
    """Draw every route's modelled milliseconds a token against the model's width; a line ends where the model does not
    fit. The heads keep their width.
    """
    head = work.width // work.heads
    for number, route in enumerate(routes):
        made = [estimate(route, replace(work, width=width, heads=width // head)).ms for width in values]
        ms = [np.nan if value is None else value for value in made]
        ax.loglog(values, ms, color=COLOURS[number % 7], marker=MARKERS[number % 7], label=route.name)
    ax.set(xlabel="width of the model", ylabel="ms per token (modelled)")
    ax.set(xticks=values[::2], xticklabels=[str(value) for value in values[::2]])
    ax.minorticks_off()
    ax.legend(fontsize=SMALL, loc="upper center", bbox_to_anchor=(0.5, -0.14))
