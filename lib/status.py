"""What the last run of every chapter was: for the page *Status*, and for the line at the head of each chapter.

All of it comes from the executed notebooks themselves, nothing is written by hand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lib import book
from lib.files import read_json
from lib.results import compared

WORDS_PER_MINUTE = 200
SECONDS_PER_FIGURE = 12  # for a figure or a table
COLUMNS = (
    "page", "last run (UTC)", "seconds", "profile", "corpus", "records compared", "reading, minutes",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One executed chapter: when, how long, with what, and what it takes to read."""

    name: str  # of the notebook, as in 01_model
    title: str
    ended: datetime
    seconds: float
    profile: str
    corpus: str
    compared: int  # figures that were held against data/expected
    records: int
    versions: dict[str, str]
    machine: str
    reading_minutes: int

    @property
    def head(self) -> str:
        """The line at the head of the chapter's page, as HTML."""
        return (
            f'<p class="page-head">About {self.reading_minutes} min to read. Last run {self.ended:%Y-%m-%d}: '
            f'{self.seconds:,.0f} s, {self.profile} profile, {self.corpus} corpus '
            '(<a href="status.html">status</a>).</p>'
        )

    @property
    def row(self) -> tuple[str, ...]:
        """This run's cells under COLUMNS, as Markdown."""
        return (
            f"[{self.title}]({self.name})",
            f"{self.ended:%Y-%m-%d %H:%M}",
            f"{self.seconds:,.1f}",
            self.profile,
            self.corpus,
            f"{self.compared} of {self.records}",
            str(self.reading_minutes),
        )

    @property
    def ground(self) -> str:
        """What the run stood on: the machine and the software."""
        return "; ".join([self.machine, ", ".join(f"{name} {version}" for name, version in self.versions.items())])


def run_of(notebook: Path) -> Run:
    """Read one executed chapter. BookError if it, or the settings it ran under, is missing."""
    content = read_json(notebook, "the executed chapter")
    papermill = content["metadata"]["papermill"]
    ran = content["metadata"]["book"]["ran"]
    results = book.chapter_results(notebook)
    expected = book.expectations(notebook.stem) if book.expected_path(notebook.stem).exists() else {}
    return Run(
        notebook.stem,
        title_of(content),
        datetime.fromisoformat(papermill["end_time"]).astimezone(timezone.utc),
        papermill["duration"],
        papermill["parameters"]["profile"],
        book.settings()["corpus"],
        compared(results, expected),
        len(results),
        ran["versions"],
        ran["machine"],
        reading_minutes(content),
    )


def title_of(notebook: dict[str, Any]) -> str:
    """Return the text of a notebook's first heading."""
    first = "".join(notebook["cells"][0]["source"])
    return re.match(r"# (.+)", first)[1]


def reading_minutes(notebook: dict[str, Any]) -> int:
    """Estimate reading: 200 words of prose a minute, 12 seconds a figure or table, at least a minute; no code."""
    prose = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    words = sum(len(re.findall(r"\w[\w'’.-]*", text)) for text in prose)
    figures = sum(len(re.findall(r"\{(?:image|figure)\}|^\|[ :|-]+\|$", text, re.MULTILINE)) for text in prose)
    outputs = [output.get("data", {}) for cell in notebook["cells"] for output in cell.get("outputs", ())]
    figures += sum("image/png" in data or "<table" in "".join(data.get("text/html", "")) for data in outputs)
    return max(1, round(words / WORDS_PER_MINUTE + figures * SECONDS_PER_FIGURE / 60))


def status_table() -> str:
    """Return the runs of all chapters as a Markdown table, and below it what they ran on."""
    runs = [run_of(path) for path in book.executed_chapters()]
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(run.row for run in runs)]
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    grounds: dict[str, list[str]] = {}
    for run in runs:
        grounds.setdefault(run.ground, []).append(run.name)
    ran_on = [f"- {ground}: {', '.join(names) if len(grounds) > 1 else 'all'}" for ground, names in grounds.items()]
    return "\n".join([*table, "", "Machine and software:", "", *ran_on])
