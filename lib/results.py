"""The results contract: no figure reaches a page except through ``record``.

A chapter calls ``record(name, value, unit, provenance)``; the page shows the value with its label,
and the executed notebook carries it as data. ``data/expected/<corpus>/<profile>/<chapter>.json``
says what each chapter must reproduce, and ``compare`` finds what is missing, extra or drifted.
"""

from __future__ import annotations

import html
import math
import numbers
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Iterable, Sequence

from IPython.display import HTML, display

from lib import ROOT
from lib.errors import BookError
from lib.files import read_json
from lib.processor import has_vnni

EXPECTED = ROOT / "data" / "expected"
FULL_RUNS = ROOT / "data" / "full"
PROFILES = ("quick", "full")
PROVENANCES = {
    "measured": "run while the page was made, or when and where the page says",
    "simulated": "computed by a cycle- or bit-accurate simulation of the hardware",
    "synthesised": "reported by a synthesis or place-and-route tool",
    "modelled": "computed from a documented formula, not run",
    "cited": "taken from a source that is named beside it",
}
METADATA = "book_result"  # key under which an output of an executed notebook carries its figure
KINDS = ("required", "optional", "informational")

Value = float | int | str


@dataclass(frozen=True)
class Result:
    """One figure. ``text`` is the checksum of the text it was taken on, where it depends on one."""

    name: str
    value: Value
    unit: str
    provenance: str
    text: str | None = None

    def plain(self) -> dict[str, Value]:
        """Return what a collection of results keeps of a figure, under its name."""
        return {"value": self.value, "unit": self.unit, "provenance": self.provenance}


_session: dict[str, Result] = {}  # what this kernel has recorded, for ``results_table``


def check_profile(profile: str) -> str:
    """Return ``profile`` if it is known; raise BookError with the list of known ones otherwise."""
    if profile not in PROFILES:
        raise BookError(f"the profile {profile!r} is unknown; choose one of {', '.join(PROFILES)}")
    return profile


def record(name: str, value: Any, unit: str, provenance: str, text: str | None = None) -> None:
    """Record a figure and show it with its provenance.

    Raises BookError for a name that is not dotted lower case, an unknown provenance, a value that
    is not a finite number or a text, or a fraction outside 0 to 1 (percentages end in ``_pct``).
    """
    result = _checked(Result(name, _plain(name, value), unit, provenance, text))
    line = f'<p class="result"><code>{name}</code> {format_value(result)} {badge(provenance)}</p>'
    _keep(result, {"text/html": line, "text/plain": f"{name} = {format_value(result)} [{provenance}]"})


def cell(name: str, value: Any, unit: str, provenance: str, text: str | None = None, show_unit: bool = True) -> str:
    """Record a figure as ``record`` does, but return it with its label, as HTML for ``show_table``.

    ``show_unit`` is false where the column's head names the unit already.
    """
    result = _checked(Result(name, _plain(name, value), unit, provenance, text))
    _keep(result, {"text/html": ""})
    return f"{format_value(result if show_unit else replace(result, unit=''))} {badge(provenance)}"


def _checked(result: Result) -> Result:
    name, value = result.name, result.value
    if not re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)+", name):
        raise BookError(
            f"the result name {name!r} must be lower-case words joined by dots, as in model.pocket.parameters"
        )
    if result.provenance not in PROVENANCES:
        raise BookError(
            f"{name}: the provenance {result.provenance!r} is unknown; choose one of {', '.join(PROVENANCES)}"
        )
    if result.unit == "fraction" and (isinstance(value, str) or not 0 <= value <= 1):
        raise BookError(
            f"{name} is {value}, outside 0 to 1; give a fraction, or a percentage under a name ending in _pct"
        )
    return result


def _keep(result: Result, shown: dict[str, str]) -> None:
    """Remember a figure for this chapter's table, and attach it to the cell's output."""
    _session[result.name] = result
    display(shown, metadata={METADATA: asdict(result)}, raw=True)


def _plain(name: str, value: Any) -> Value:
    if isinstance(value, str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return float(value)
    raise BookError(f"{name} is {value!r}; record a finite number or a text")


def badge(provenance: str) -> str:
    """Return the label that stands beside every figure, as HTML."""
    return f'<span class="provenance {provenance}" title="{PROVENANCES[provenance]}">{provenance}</span>'


def format_value(result: Result) -> str:
    """Write a value with its unit: whole numbers in full, others to four significant digits."""
    value = f"{result.value:,}" if isinstance(result.value, int) else result.value
    if isinstance(result.value, float):
        value = f"{result.value:.4g}" if abs(result.value) < 9999.5 else f"{result.value:,.0f}"
    return html.escape(f"{value} {result.unit}".strip())


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str) -> None:
    """Show rows as an HTML table that scrolls when it is wider than the page; cells and caption may hold HTML."""
    name = html.escape(re.sub(r"<[^>]*>", "", caption))  # as a screen reader says it
    rows = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    head = "".join(f'<th scope="col">{column}</th>' if column else "<td></td>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    markup = (
        f'<table class="table"><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    )
    display(
        HTML(
            '<div class="pst-scrollable-table-container" tabindex="0" role="region" '
            f'aria-label="{name}">{markup}</div>'
        )
    )


def results_table() -> None:
    """Show all that this chapter has recorded."""
    rows = [(f"<code>{r.name}</code>", format_value(r), badge(r.provenance)) for r in _session.values()]
    show_table(("result", "value", "provenance"), rows, "Results of this chapter")


# ---- Reading results back, and comparing them. ----


def results_of(notebook: str | Path) -> dict[str, Result]:
    """Return what an executed notebook recorded. BookError if a name was recorded twice."""
    found: dict[str, Result] = {}
    for cell in read_json(notebook, "the executed chapter")["cells"]:
        for output in cell.get("outputs", ()):
            if METADATA in output.get("metadata", {}):
                result = Result(**output["metadata"][METADATA])
                if result.name in found:
                    raise BookError(f"{Path(notebook).name} records {result.name} twice; give each figure its own name")
                found[result.name] = result
    return found


@dataclass(frozen=True)
class Expectation:
    """What a figure must be: near ``value`` (relative ``tolerance``), within ``min`` and ``max``, or both.

    kind: ``required`` must be there; ``optional`` may be absent (it needs a corpus or an extra);
    ``informational`` is shown and never compared. ``text`` is the checksum of the text that ``value``
    was taken on: on another text, ``value`` says nothing, and only the bounds hold. ``vnni``: the figure
    comes from an INT8 runtime that saturates on x86 without VNNI, and is compared only where it does not.
    """

    kind: str
    value: Value | None = None
    tolerance: float = 0.0
    min: float | None = None
    max: float | None = None
    text: str | None = None
    vnni: bool | None = None

    @property
    def holds_here(self) -> bool:
        return not self.vnni or has_vnni()

    def applies_to(self, actual: Result) -> bool:
        """Whether anything of ``actual`` is checked here: a bound, or its value, on the same text."""
        bounded = self.min is not None or self.max is not None
        same_text = self.value is not None and self.text == actual.text
        return self.kind != "informational" and self.holds_here and (bounded or same_text)

    def problem(self, actual: Result) -> str | None:
        """Return one sentence if ``actual`` is not as expected, else None."""
        if self.kind == "informational" or not self.holds_here:
            return None
        numeric = any(isinstance(check, (int, float)) for check in (self.value, self.min, self.max))
        if numeric == isinstance(actual.value, str):
            return f"{actual.name} is {actual.value!r}: a text where a number is expected, or the other way round"
        if self.min is not None and not actual.value >= self.min:
            return f"{actual.name} is {actual.value}, below its bound {self.min}"
        if self.max is not None and not actual.value <= self.max:
            return f"{actual.name} is {actual.value}, above its bound {self.max}"
        if self.value is None or self.text != actual.text:
            return None
        if isinstance(self.value, str):
            near = actual.value == self.value
        else:
            near = abs(actual.value - self.value) <= self.tolerance * abs(self.value)
        return None if near else f"{actual.name} is {actual.value}, expected {self.value} within {self.tolerance:.2%}"


def read_expected(path: str | Path) -> dict[str, Expectation]:
    """Read a chapter's expectations; BookError if an entry could never fail or is malformed."""
    expected = {}
    for name, entry in read_json(path, "the expectations").items():
        try:
            expectation = Expectation(**entry)
        except TypeError as error:
            raise BookError(f"{path}: the entry {name} is malformed ({error}); correct it") from None
        if expectation.kind not in KINDS:
            raise BookError(f"{path}: {name} has the kind {expectation.kind!r}; choose one of {', '.join(KINDS)}")
        checks = (expectation.value, expectation.min, expectation.max)
        if expectation.kind != "informational" and all(check is None for check in checks):
            raise BookError(f"{path}: {name} is {expectation.kind} but has neither value nor bound; give it one")
        expected[name] = expectation
    return expected


def compare(actual: dict[str, Result], expected: dict[str, Expectation]) -> list[str]:
    """Return a sentence for every figure that is missing, extra or drifted."""
    missing = [n for n, e in expected.items() if e.kind == "required" and e.holds_here and n not in actual]
    extra = [n for n in actual if n not in expected]
    drifted = [expected[n].problem(r) for n, r in actual.items() if n in expected]
    return (
        [f"{name} is missing: it is required but was not recorded" for name in missing]
        + [f"{name} is extra: it was recorded but nothing is expected of it (make expect)" for name in extra]
        + [problem for problem in drifted if problem]
    )


def compared(actual: dict[str, Result], expected: dict[str, Expectation]) -> int:
    """Count the figures of which something was checked."""
    return sum(name in expected and expected[name].applies_to(result) for name, result in actual.items())


# ---- Runs of the full profile, committed with their date and machine. ----


def full_run(chapter: str, corpus: str) -> dict[str, Any] | None:
    """Return a chapter's committed full run, {date, hardware, versions, results}, or None."""
    path = FULL_RUNS / corpus / f"{chapter}.json"
    return read_json(path, "the full run") if path.exists() else None


def show_full_run(chapter: str, corpus: str) -> None:
    """Show a chapter's committed full run, saying on which text, when and where: on ``corpus`` if there is one."""
    others = sorted(path.parent.name for path in FULL_RUNS.glob(f"*/{chapter}.json"))
    corpus = corpus if corpus in others or not others else others[-1]
    run = full_run(chapter, corpus)
    if run is None:
        display(HTML("<p>No full run of this chapter is committed yet.</p>"))
        return
    results = collected(run["results"])
    rows = [(f"<code>{r.name}</code>", format_value(r), badge(r.provenance)) for r in results]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    caption = f"Full run of {run['date']} on the {corpus} corpus ({run['hardware']}; {versions})"
    show_table(("result", "value", "provenance"), rows, caption)


def collected(results: dict[str, Any]) -> list[Result]:
    """Read back a collection of figures, as ``_build/results.json`` or a full run holds it."""
    return [Result(name, r["value"], r["unit"], r["provenance"]) for name, r in results.items()]
