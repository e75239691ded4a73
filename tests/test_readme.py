"""The README says what is: its results, its commands, its files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lib import ROOT, book, glance
from lib.errors import BookError

README = (ROOT / "README.md").read_text()


def test_results_at_a_glance_are_current() -> None:
    assert glance.with_table(README) == README, "python -m lib.glance writes them anew"


@pytest.mark.made
@pytest.mark.skipif(not book.RESULTS.exists(), reason="no results are collected (make book)")
def test_results_at_a_glance_are_labelled_as_their_chapters_label_them() -> None:
    results = json.loads(book.RESULTS.read_text())
    labels = {name: line.provenance for line in glance.LINES for name in line.names if name in results}
    assert labels == {name: results[name]["provenance"] for name in labels} != {}


def test_a_figure_that_nothing_expects_is_named(tmp_path: Path) -> None:
    (tmp_path / "01_model.json").write_text("{}")
    with pytest.raises(BookError, match="01_model expects no model.nano.parameters"):
        glance.table(tmp_path)
    with pytest.raises(BookError, match="put them back"):
        glance.with_table("no marks")


def test_targets_and_modules_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = {*re.findall(r"^([a-z-]+):", makefile, re.MULTILINE), "chapter-NN", "chapter-02"}
    named = set(re.findall(r"(?:^|`|&& )make ([a-z]+(?:-[0-9N]+)?)", README, re.MULTILINE))
    assert len(named) > 8 and named <= targets
    for module in set(re.findall(r"python -m (lib[\w.]*)", README)):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_every_chapter_is_on_the_map_and_the_citation_names_this_repository() -> None:
    chapters = sorted(path.name for path in (ROOT / "chapters").glob("[01]*.ipynb"))
    assert [name for name in chapters if f"(chapters/{name})" not in README] == []
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"repository-code: {book.repository()}\n" in citation and f"title: {book.title()}\n" in citation
