"""Verdicts follow from records alone, rows appear when they are recorded, and the front is the front."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import comparison
from lib.comparison import CITED, CLAIMS, CORRECTED, REPRODUCED, Claim, Records, gather, judge, pareto, routes
from lib.errors import BookError
from lib.results import Result


def records(**figures: float) -> Records:
    named = {name.replace("__", "."): value for name, value in figures.items()}
    return Records({n: Result(n, v, "", "measured") for n, v in named.items()}, {})


@pytest.mark.parametrize(
    ("ours", "at_most", "verdict"),
    [(9.1, False, REPRODUCED), (8.9, False, CORRECTED), (1.0, True, REPRODUCED), (11.1, True, CORRECTED)],
)
def test_a_verdict_is_a_tenth_or_a_bound(ours: float, at_most: bool, verdict: str) -> None:
    claim = Claim("T", "cost", 10, "%", "a.{text}.cost", at_most)
    assert judge([claim], records(a__stories__cost=ours), "stories")[0].verdict == verdict
    assert judge([claim], records(a__stories__cost=ours), "other")[0].verdict == CITED


def test_what_only_a_board_can_measure_says_how() -> None:
    judged = judge(CLAIMS, records(), "stories")
    assert {j.verdict for j in judged} == {CITED}
    assert all(claim.ours or claim.command for claim in CLAIMS)


def test_routes_appear_once_they_are_recorded() -> None:
    assert routes(records(), "stories") == []
    some = records(
        host__c_fp32__tokens_per_s=12_000.0,
        host__c_int8__tokens_per_s=20_000.0,
        host__two_threads__c_fp32__tokens_per_s=15_000.0,
        vitis__pocket__modelled_ms_per_token=5.0,
        vitis__report__modelled_ms_per_token=9.0,
        silicon__pocket__lanes64__tokens_per_s=3000.0,
    )
    found = routes(some, "stories")
    assert [(r.name, r.target) for r in found] == [
        ("c_int8", "this host, one thread"),
        ("c_fp32", "this host, one thread"),
        ("pocket.lanes64", "open RTL core"),
        ("pocket", "ZCU104, DPU"),
    ]
    assert found[1].ppl_increase_pct.value == 0.0 and found[0].ppl_increase_pct is None
    assert found[3].tokens_per_s.value == pytest.approx(200) and found[3].ms_per_token == pytest.approx(5)


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(-5, 5)), max_size=20))
def test_the_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    front = pareto(points)
    beaten = {p for p in points for q in points if q != p and q[0] >= p[0] and q[1] <= p[1]}
    assert set(front) == set(points) - beaten
    assert front == sorted(front)


def test_figures_of_this_run_come_before_those_of_full_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    full, build = tmp_path / "full", tmp_path / "build"
    monkeypatch.setattr(comparison, "FULL_RUNS", full)
    monkeypatch.setattr(comparison, "BUILD", build)
    monkeypatch.setattr("lib.results.FULL_RUNS", full)
    with pytest.raises(BookError, match="no chapter has left results"):
        full.mkdir()
        gather("stories")
    for corpus, value in (("builtin", 1.0), ("stories", 2.0)):
        for chapter in ("01_model", "02_data"):
            run = {
                "date": "2026-01-01",
                "results": {f"{chapter}.x": {"value": value, "unit": "", "provenance": "measured"}},
            }
            (full / corpus).mkdir(exist_ok=True)
            (full / corpus / f"{chapter}.json").write_text(json.dumps(run))
    executed = build / "executed" / "chapters"
    executed.mkdir(parents=True)
    output = {"metadata": {"book_result": {"name": "a.x", "value": 3.0, "unit": "", "provenance": "measured"}}}
    for name in ("02_data", comparison.SELF):
        (executed / f"{name}.ipynb").write_text(json.dumps({"cells": [{"outputs": [output]}]}))
    found = gather("stories")
    assert {name: figure.value for name, figure in found.figures.items()} == {"01_model.x": 2.0, "a.x": 3.0}
    assert found.origins == {"01_model": "full run of 2026-01-01, stories", "02_data": "this run"}
