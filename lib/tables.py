"""The comparison's tables, row by row, as HTML for ``lib.results.show_table``; what is the book's own is recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Iterable

from lib import comparison, lineup, outlook
from lib.comparison import Climbed, Judged, Records
from lib.published import REPORT_POWER, Platform
from lib.results import Result, badge, cell, format_value

NONE = "–"


def shown(result: Result | None) -> str:
    """A figure with its label, or a dash."""
    return f"{format_value(result)} {badge(result.provenance)}" if result else NONE


# ---- Every route. ----

ROUTE = "configuration,target,batch,bits,perplexity,MB,ms per token,tokens/s,p50 / p99,W,resources".split(",")
WATTS = dict(zip((lineup.A53, lineup.DPU, lineup.SUITE), (row.watts for row in REPORT_POWER)))


def route(row: lineup.Row) -> tuple[Any, ...]:
    """Record a row of the line-up under compare.<configuration>, and return its cells."""
    entry = row.entry
    size, ms, rate = (_recorded(row, figure) for figure in ("size_mb", "ms_per_token", "tokens_per_s"))
    what = f"<code>{entry.name}</code> {entry.what}"
    target = entry.target if entry.model == "pocket" else f"{entry.target}, {entry.model}"
    known = f"about {WATTS[entry.target]} {badge('cited')}" if entry.target in WATTS else NONE
    return what, target, entry.batch, entry.bits, _quality(row), size, ms, rate, _spread(row), known, _taken(row)


def _recorded(row: lineup.Row, figure: str) -> str:
    result = row.figures().get(figure)
    if result is None:
        return NONE
    name = f"compare.{row.entry.name}.{figure}"
    return cell(name, result.value, result.unit, result.provenance, result.text, show_unit=result.unit == "%")


def _quality(row: lineup.Row) -> str:
    return _recorded(row, "ppl_increase_pct") + {True: " passes", False: " fails", None: ""}[row.gate]


def _spread(row: lineup.Row) -> str:
    """Percentiles where they were measured; of a circuit, by how many clocks tokens at one position differ."""
    if row.spread:
        p50, p99 = row.spread
        return f"{p50.value:,.0f} / {p99.value:,.0f} µs {badge(p50.provenance)}"
    return f"jitter {shown(row.jitter)}" if row.jitter else NONE


def _taken(row: lineup.Row) -> str:
    counts = ", ".join(f"{kind} {format_value(replace(result, unit=''))}" for kind, result in row.resources)
    return f"{counts} {badge(row.resources[0][1].provenance)}" if counts else NONE


# ---- Claims. ----

CLAIM = ("", "claimed", "ours", "beside it", "verdict")
VERDICTS = {
    comparison.REPRODUCED: "reproduced",
    comparison.CORRECTED: "corrected",
    comparison.CITED: "cannot be measured here",
}


def claims(judged: Iterable[Judged], *tables: str) -> list[tuple[str, ...]]:
    """Return the rows of some of the sources' tables, in their order."""
    return [_claim(j) for j in judged if j.claim.table in tables]


def _claim(j: Judged) -> tuple[str, ...]:
    claimed = f"{j.claim.value:,} {j.claim.unit} {badge('cited')}"
    beside = "<br>".join(map(shown, j.beside)) or NONE
    how = f": <code>{j.claim.command}</code>" if j.claim.command and j.ours is None else ""
    return j.claim.what, claimed, shown(j.ours), beside, VERDICTS[j.verdict] + how


def platform(column: Platform) -> tuple[str, ...]:
    """A column of EQ-ViT's Table IV as a row: latency, and images a second and watt, of each model."""
    pairs = zip(column.latency_ms, column.images_per_s_w)
    return column.name, *(f"{ms} ms, {each} /s/W {badge('cited')}" for ms, each in pairs)


# ---- The ladder, risks and directions. ----

RUNG = (
    "form", "chapter", "largest logit error", "argmax agreement", "perplexity", "source or twin", "distance from that",
)  # fmt: skip


def rung(climbed: Climbed) -> tuple[str, ...]:
    figures = (shown(climbed.figures.get(figure)) for figure in comparison.FIGURES)
    return climbed.step.what, climbed.step.chapter, *figures, climbed.step.source, shown(climbed.proof)


def risk(found: outlook.Risk, records: Records, text: str) -> tuple[str, ...]:
    where = "report" if found.in_report else "this book"
    return found.what, where, found.helped, _named(outlook.figure(records, found.figure, text))


def direction(found: outlook.Direction, records: Records, text: str) -> tuple[str, ...]:
    link = f'<a href="{found.page}.html">{int(found.page[:2])}</a>'
    return found.what, link, _named(outlook.figure(records, found.figure, text))


def _named(result: Result | None) -> str:
    return f"{shown(result)}<br><code>{result.name}</code>" if result else NONE
