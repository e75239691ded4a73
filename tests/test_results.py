"""The results contract: what ``record`` refuses, and what ``compare`` notices."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import processor, results
from lib.errors import BookError
from lib.files import write_json
from lib.results import (
    EXPECTED,
    METADATA,
    Expectation,
    Result,
    badge,
    cell,
    check_profile,
    compare,
    read_expected,
    record,
    results_of,
)

FINE = Result("model.pocket.bpc", 1.05, "bits/character", "measured", text="a" * 64)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("bpc", 1.0, "", "measured"), "joined by dots"),
        (("Model.bpc", 1.0, "", "measured"), "lower-case"),
        (("model.bpc", 1.0, "", "guessed"), "measured, simulated, synthesised, modelled, cited"),
        (("model.bpc", math.nan, "", "measured"), "finite"),
        (("model.bpc", [1.0], "", "measured"), "finite number or a text"),
        (("model.share", 1.2, "fraction", "measured"), "_pct"),
    ],
)
def test_record_refuses(arguments: tuple[Any, ...], says: str) -> None:
    with pytest.raises(BookError, match=says):
        record(*arguments)


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (np.int64(1_631_616), "parameters", "1,631,616 parameters"),
        (np.float32(0.5), "fraction", "0.5 fraction"),
        (1.23456789, "bits", "1.235 bits"),
        (123456.7, "MAC", "123,457 MAC"),
        ("builtin", "", "builtin"),
        ("<b>", "", "&lt;b&gt;"),
    ],
)
def test_record_keeps_plain_values_and_shows_them(value: Any, unit: str, shown: str) -> None:
    assert cell("some.value", value, unit, "measured") == f"{shown} {badge('measured')}"
    kept = results._session["some.value"]
    assert json.loads(json.dumps(kept.value)) == kept.value == value


def test_unknown_profile_lists_the_known() -> None:
    with pytest.raises(BookError, match="quick, full"):
        check_profile("quik")


def test_compare_names_missing_extra_and_drifted() -> None:
    expected = {
        "a.exact": Expectation("required", 10),
        "a.gone": Expectation("required", 1.0),
        "a.maybe": Expectation("optional", 1.0),
        "a.time": Expectation("informational"),
    }
    actual = {name: replace(FINE, name=name, value=11, text=None) for name in ("a.exact", "a.time", "a.new")}
    problems = compare(actual, expected)
    assert len(problems) == 3
    for problem, said in zip(problems, ("a.gone is missing", "a.new is extra", "a.exact is 11, expected 10")):
        assert said in problem
    assert compare(actual | {"a.gone": FINE}, {})[0].startswith("a.exact is extra")


@pytest.mark.parametrize(("value", "passes"), [("builtin", True), ("tinystories", False), (1.0, False)])
def test_a_text_is_compared_as_a_text(value: Any, passes: bool) -> None:
    found = Expectation("required", "builtin").problem(Result("a.corpus", value, "", "measured"))
    assert (found is None) == passes


@given(value=st.floats(0.1, 1e6), tolerance=st.floats(0.001, 0.5), drift=st.floats(-2, 2))
def test_tolerance_is_relative_and_two_sided(value: float, tolerance: float, drift: float) -> None:
    expectation = Expectation("required", value, tolerance)
    problem = expectation.problem(replace(FINE, value=value * (1 + drift * tolerance), text=None))
    if abs(abs(drift) - 1) > 1e-6:  # at the edge itself rounding decides
        assert (problem is not None) == (abs(drift) > 1)


@pytest.mark.parametrize(
    ("expectation", "passes"),
    [
        (Expectation("required", max=1.05), True),
        (Expectation("required", max=1.04), False),
        (Expectation("required", min=1.06), False),
        (Expectation("required", 1.2, 0.01), True),  # taken on another text: not comparable
        (Expectation("required", 1.2, 0.01, text=FINE.text), False),
        (Expectation("required", 1.2, 0.01, max=1.0), False),  # a bound holds on any text
        (Expectation("informational", 99.0), True),
    ],
)
def test_bounds_and_texts(expectation: Expectation, passes: bool) -> None:
    assert (expectation.problem(FINE) is None) == passes


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"kind": "required"}, "neither value nor bound"),
        ({"kind": "mandatory", "value": 1}, "required, optional, informational"),
        ({"kind": "required", "valu": 1}, "malformed"),
    ],
)
def test_expectations_that_could_never_fail_are_refused(tmp_path: Path, entry: dict[str, Any], says: str) -> None:
    path = tmp_path / "chapter.json"
    path.write_text(json.dumps({"a.b": entry}))
    with pytest.raises(BookError, match=says):
        read_expected(path)


def test_every_committed_expectation_is_sound() -> None:
    files = sorted(EXPECTED.glob("*/*/*.json"))
    assert len(files) >= 3
    assert all(read_expected(path) for path in files)


def notebook(*results: Result) -> dict[str, Any]:
    outputs = [{"data": {}, "metadata": {METADATA: vars(result)}} for result in results]
    return {"cells": [{"cell_type": "markdown"}, {"cell_type": "code", "outputs": outputs}]}


def test_results_are_read_back_and_duplicates_refused(tmp_path: Path) -> None:
    path = tmp_path / "chapter.ipynb"
    path.write_text(json.dumps(notebook(FINE)))
    assert results_of(path) == {FINE.name: FINE}
    path.write_text(json.dumps(notebook(FINE, FINE)))
    with pytest.raises(BookError, match="twice"):
        results_of(path)


def test_a_full_run_is_shown_on_another_text_if_there_is_none_on_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(results, "FULL_RUNS", tmp_path)
    monkeypatch.setattr(results, "display", lambda html: shown.append(html.data))
    results.show_full_run("09_x", "builtin")
    run = {"date": "2026-01-02", "hardware": "abacus", "versions": {"torch": "2"}, "results": {}}
    write_json(tmp_path / "tinystories" / "09_x.json", run)
    results.show_full_run("09_x", "builtin")
    write_json(tmp_path / "builtin" / "09_x.json", run)
    results.show_full_run("09_x", "builtin")
    assert "No full run" in shown[0]
    assert "Full run of 2026-01-02 on the tinystories corpus (abacus; torch 2)" in shown[1]
    assert "on the builtin corpus" in shown[2]


def test_a_table_is_called_what_its_caption_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(results, "display", lambda html: shown.append(html.data))
    results.show_table(("a",), [(1,)], f'EBR & "lanes" {badge("modelled")}')
    assert shown[0].count('aria-label="EBR &amp; &quot;lanes&quot; modelled"') == 1


@pytest.mark.parametrize("vnni", [False, True])
def test_saturating_runtimes_are_compared_only_with_vnni(vnni: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "has_vnni", lambda: vnni)
    expected = {"a.int8": Expectation("required", max=1.0, vnni=True), "a.gone": Expectation("required", 1, vnni=True)}
    problems = compare({"a.int8": Result("a.int8", 2.0, "%", "measured")}, expected)
    assert len(problems) == (2 if vnni else 0)


def test_vnni_is_read_from_the_processors_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, exact in (
        ("flags : sse avx2\n", False),
        ("flags : sse avx512_vnni\n", True),
        ("flags : avx2 avx_vnni\n", True),
        ("Features : asimd\n", True),
    ):
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
        processor.has_vnni.cache_clear()
        assert processor.has_vnni() == exact
    processor.has_vnni.cache_clear()
