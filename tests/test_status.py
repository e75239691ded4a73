"""The page Status and the head of each chapter: taken from the executed notebooks, by the rule that the page states."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from lib import book, status
from lib.results import Expectation, Result, compared
from tests.test_book import build, write_notebook  # noqa: F401  (a fixture)


def test_a_run_is_read_from_the_notebook_that_ran(build: Path) -> None:  # noqa: F811
    book.SETTINGS.write_text(json.dumps({"corpus": "builtin", "profile": "quick", "source": "auto"}))
    code = 'from lib.results import record\nrecord("a.b", 2, "", "measured");'
    source = write_notebook(build / "01_model.ipynb", code)
    notebook = nbformat.read(source, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("# 1. A title\n\n" + "word " * 396))
    nbformat.write(notebook, source)
    output = build / "executed" / "chapters" / source.name
    book.execute(source, output, "quick", "builtin")
    path = book.expected_path("01_model")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"a.b": {"kind": "required", "value": 2}}))
    run = status.run_of(output)
    assert (run.title, run.profile, run.corpus, run.compared, run.records) == ("1. A title", "quick", "builtin", 1, 2)
    assert run.seconds > 0 and run.machine and run.versions["torch"]
    assert run.reading_minutes == 2  # 399 words
    assert f"{run.ended:%Y-%m-%d}" in run.head and "builtin corpus" in run.head
    table = status.status_table()
    assert "| [1. A title](01_model) |" in table and "| 1 of 2 | 2 |" in table and "torch" in table


def test_figures_and_tables_take_time_and_code_none() -> None:
    prose = {"cell_type": "markdown", "source": ["| a |\n", "|---|\n", "```{image} x\n"]}
    code = {"cell_type": "code", "source": ["word " * 4000], "outputs": [{"data": {"image/png": ""}}] * 8}
    assert status.reading_minutes({"cells": [prose, code]}) == 2  # ten of 12 s


@pytest.mark.parametrize(
    ("expectation", "counted"),
    [
        (Expectation("required", 1.0), 1),
        (Expectation("informational", 1.0), 0),
        (Expectation("required", 1.0, text="another text"), 0),
        (Expectation("required", 1.0, text="another text", max=2.0), 1),
    ],
)
def test_only_figures_that_were_held_against_something_count(expectation: Expectation, counted: int) -> None:
    assert compared({"a.b": Result("a.b", 1.0, "", "measured")}, {"a.b": expectation}) == counted
