"""How the book is made: dependencies, execution, collection."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from lib import ROOT, book, corpus, results
from lib.errors import BookError

HEAD = nbformat.v4.new_code_cell('profile = "quick"\nsource = "auto"', metadata={"tags": ["parameters"]})


def write_notebook(path: Path, *cells: str) -> Path:
    notebook = nbformat.v4.new_notebook(cells=[HEAD, *map(nbformat.v4.new_code_cell, cells)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
    return path


def run(build: Path, source: str, profile: str = "quick") -> Path:
    """Execute a chapter that records something, as ``make book`` does; return the executed notebook."""
    book.SETTINGS.write_text(json.dumps({"corpus": "builtin", "profile": profile, "source": "auto"}))
    output = build / "executed" / "chapters" / "01_model.ipynb"
    cell = f"from lib.results import record\n{source};"
    book.execute(write_notebook(build / "01_model.ipynb", cell), output, profile, "auto")
    return output


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give the book an empty build folder of its own."""
    monkeypatch.setattr(book, "BUILD", tmp_path)
    monkeypatch.setattr(book, "SETTINGS", tmp_path / "settings.json")
    monkeypatch.setattr(book, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(book, "EXPECTED", tmp_path / "expected")
    (tmp_path / "executed" / "chapters").mkdir(parents=True)
    return tmp_path


def test_a_chapter_depends_on_what_it_imports_and_what_that_imports() -> None:
    chapter_1 = book.dependencies(ROOT / "chapters" / "01_model.ipynb")
    assert {"chapters/01_model.ipynb", "lib/gpt.py", "lib/text.py", "data/checkpoints/pocket.safetensors"} <= set(
        chapter_1
    )
    assert "lib/files.py" in chapter_1  # through lib.checkpoint
    assert "lib/train.py" not in chapter_1
    chapter_2 = book.dependencies(ROOT / "chapters" / "02_data.ipynb")
    assert {"lib/train.py", "lib/evaluate.py", "lib/stories.py"} <= set(chapter_2)
    assert all((ROOT / name).exists() for name in chapter_1 + chapter_2)


def test_settings_are_rewritten_only_when_they_change(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "DATA", build / "data")
    monkeypatch.delenv("TINYSTORIES_DIR", raising=False)
    monkeypatch.delenv("WIKITEXT_DIR", raising=False)
    book.write_settings("quick", "auto")
    before = book.SETTINGS.stat().st_mtime_ns
    assert book.settings()["corpus"] == "builtin"
    book.write_settings("quick", "auto")
    assert book.SETTINGS.stat().st_mtime_ns == before
    book.write_settings("full", "auto")
    assert book.SETTINGS.stat().st_mtime_ns > before
    with pytest.raises(BookError, match="quick, full"):
        book.write_settings("fast", "auto")


def test_execution_records_and_failure_names_the_cell(build: Path) -> None:
    """A chapter that runs is collected; one that fails leaves no executed chapter behind."""
    good = write_notebook(
        build / "01_model.ipynb",
        'from lib.results import record\nrecord("a.share", 0.25, "fraction", "measured")\n'
        'record("a.source", source, "", "cited");',
    )
    output = build / "executed" / "chapters" / good.name
    book.execute(good, output, "quick", "builtin")
    results = book.chapter_results(output)
    assert results["a.share"].value == 0.25
    assert results["a.source"].value == "builtin"  # the parameter was passed on
    assert results["book.seconds.01_model"].unit == "s"

    book.collect()
    collected = json.loads(book.RESULTS.read_text())
    assert collected["a.share"] == {"value": 0.25, "unit": "fraction", "provenance": "measured", "chapter": "01_model"}

    bad = write_notebook(build / "02_data.ipynb", "1 + 1", "1 / 0")
    with pytest.raises(BookError, match="code cell 4: ZeroDivisionError: division by zero"):
        book.execute(bad, build / "executed" / "chapters" / bad.name, "quick", "auto")
    assert not (build / "executed" / "chapters" / bad.name).exists()
    assert (build / "failed" / bad.name).exists()


def test_refreshing_keeps_policy_and_takes_values(build: Path) -> None:
    source = 'record("a.score", 2.0, "bits", "measured", text="b" * 64)\n'
    source += 'record("a.rate", 5.0, "MB/s", "measured")\nrecord("a.ratio", 0.5, "", "measured")\n'
    run(build, source + 'record("a.count", 3, "", "measured", text="b" * 64)')
    path = book.expected_path("01_model")
    path.parent.mkdir(parents=True)
    old = {"kind": "required", "value": 1.0, "tolerance": 0.25, "max": 3.0}
    board = {"kind": "optional", "value": 7.0, "tolerance": 0.1}  # of what is not at hand in this run
    count = {"kind": "required", "value": 2}
    path.write_text(json.dumps({"a.score": old | {"text": "b" * 64}, "a.board": board, "a.count": count}))
    with pytest.raises(BookError, match="4 results are not as expected"):  # three extra, one drifted, one of no text
        book.compare_all()
    book.refresh_expected()
    expected = json.loads(path.read_text())
    assert expected.pop("book.seconds.01_model")["kind"] == "informational"
    assert expected == {
        "a.board": board,
        "a.count": {"kind": "required", "value": 3, "tolerance": 0.0, "text": "b" * 64},
        "a.rate": {"kind": "informational", "tolerance": 0.0},
        "a.ratio": {"kind": "required", "value": 0.5, "tolerance": 0.01},
        "a.score": old | {"value": 2.0, "text": "b" * 64},
    }
    book.compare_all()


def test_refreshing_without_vnni_leaves_what_depends_on_it(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(build, 'record("a.int8", 22.0, "%", "measured")')
    path = book.expected_path("01_model")
    path.parent.mkdir(parents=True)
    entry = {"kind": "required", "value": 1.0, "tolerance": 0.01, "vnni": True}
    path.write_text(json.dumps({"a.gone": entry, "a.int8": entry}))
    monkeypatch.setattr(results, "has_vnni", lambda: False)
    book.refresh_expected()
    refreshed = json.loads(path.read_text())
    assert (refreshed["a.gone"], refreshed["a.int8"]) == (entry, entry)


def test_a_figure_of_two_chapters_and_a_quick_run_are_refused(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = run(build, 'record("a.share", 0.25, "fraction", "measured")')
    output.with_name("02_data.ipynb").write_bytes(output.read_bytes())
    with pytest.raises(BookError, match="a.share is recorded by 01_model and by 02_data"):
        book.collect()
    monkeypatch.setattr(book, "FULL_RUNS", build / "full")
    with pytest.raises(BookError, match="not of the full profile"):
        book.keep_full_run()
    assert not (build / "full").exists()


def test_a_full_run_is_kept_with_its_own_date_machine_and_versions(
    build: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(book, "FULL_RUNS", tmp_path)
    output = run(build, 'record("a.share", 0.25, "fraction", "measured")', "full")
    executed = json.loads(output.read_text())
    executed["metadata"]["book"]["ran"] = {"machine": "Another", "versions": {"torch": "2.0"}}
    executed["metadata"]["papermill"]["end_time"] = "2026-01-02T03:04:05.678901"
    output.write_text(json.dumps(executed))
    book.keep_full_run()
    share = {"value": 0.25, "unit": "fraction", "provenance": "measured"}
    kept = json.loads((tmp_path / "builtin" / "01_model.json").read_text())
    assert {k: v for k, v in kept.items() if k != "results"} == {
        "date": "2026-01-02", "hardware": "Another", "versions": {"torch": "2.0"},
    }  # fmt: skip
    assert kept["results"]["a.share"] == share
