"""Verdicts follow from records alone, rows appear when they are recorded, and the front is the front."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import comparison, lineup
from lib.capacity import shares
from lib.comparison import CITED, CLAIMS, CORRECTED, REPRODUCED, Claim, Records, gather, judge, ladder, pareto
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


def test_what_stands_beside_a_claim_does_not_judge_it() -> None:
    claim = Claim("T", "time", 10, "ms", beside=("a.other", "a.missing"), command="measure it")
    judged = judge([claim], records(a__other=10.0), "stories")[0]
    assert judged.verdict == CITED and [r.value for r in judged.beside] == [10.0]


def test_table_4_is_claimed_column_by_column() -> None:
    claims = {c.what: c for c in CLAIMS if c.table == "IV"}
    assert len(claims) == 16
    assert claims["deit_t, VCK190"].value == 0.56 and claims["lv_vit_t, VCK190, efficiency"].value == 202.8
    assert claims["deit_160, VEK280, estimated"].ours is None and claims["deit_t, VEK280, estimated"].ours


def test_rows_appear_once_they_are_recorded() -> None:
    assert lineup.rows(records(), "stories") == []
    assert len(lineup.absent(records())) == len(lineup.AWAITED)
    some = records(
        host__c_fp32__tokens_per_s=12_000.0,
        host__c_int8__tokens_per_s=20_000.0,
        host__c_int8__p50_us=50.0,
        host__c_int8__p99_us=60.0,
        host__c_int8__stories__ppl_increase_pct=3.0,
        host__two_threads__c_fp32__tokens_per_s=15_000.0,
        vitis__pocket__modelled_ms_per_token=5.0,
        vitis__report__modelled_ms_per_token=9.0,
        silicon__pocket__lanes64__tokens_per_s=3000.0,
        silicon__pocket__xcup__lanes64__dsp=77,
        silicon__nano__ecp5__lanes32__tokens_per_s=4000.0,
        silicon__nano__ecp5__lanes32__weight_bits=6,
        gate__largest_char_ppl_increase_pct=2.0,
    )
    some.figures["vitis.pocket.modelled_ms_per_token"] = Result("v", 5.0, "ms", "modelled")
    some.figures["silicon.sparse.lane_balanced.tokens_per_s"] = Result("s", 4800.0, "tokens/s", "modelled")
    found = {row.entry.name: row for row in lineup.rows(some, "stories")}
    assert list(found) == [
        "c_int8",
        "c_fp32_two_threads",
        "c_fp32",
        "core_sparse_lane_balanced",
        "ecp5_lanes32",
        "core_lanes64",
        "dpu",
    ]
    assert found["c_int8"].gate is False and found["c_fp32"].gate is True and found["dpu"].gate is None
    assert [r.value for r in found["c_int8"].spread] == [50.0, 60.0] and found["c_fp32"].spread is None
    assert found["dpu"].tokens_per_s.value == pytest.approx(200) and found["dpu"].ms_per_token.value == 5
    sparse = found["core_sparse_lane_balanced"].tokens_per_s
    assert sparse.value == pytest.approx(4800) and sparse.provenance == "modelled"
    assert found["core_lanes64"].resources[0][0] == "DSP" and found["ecp5_lanes32"].entry.model == "nano"
    assert set(found["dpu"].figures()) == {"tokens_per_s", "ms_per_token"}
    assert len(lineup.absent(some)) == 1


def test_configurations_have_names_of_their_own() -> None:
    names = [entry.name for entry in lineup.FIXED]
    assert len(set(names)) == len(names)


def test_the_ladder_has_the_rungs_that_were_climbed() -> None:
    assert ladder(records()) == []
    climbed = ladder(
        records(ladder__rtl__agreement=0.96, silicon__bit_exact__mismatches=0, ladder__qdq__max_abs_err=1.0)
    )
    assert [c.step.name for c in climbed] == ["qdq", "rtl"]
    assert climbed[1].proof.value == 0 and climbed[0].proof is None and "max_abs_err" in climbed[0].figures


def test_shares_are_counts_over_the_device_s_totals() -> None:
    found = {
        (s.design, s.kind): s for s in shares(records(silicon__pocket__xcup__lanes64__uram=48, device__b4096__bram=156))
    }
    assert found["core, 64 lanes, on XCZU7EV", "URAM"].percent == 50
    assert found["B4096 on ZCU104, vendor", "BRAM"].percent == 50
    assert found["B4096 on ZCU104, report", "BRAM"].percent > 100


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
    (build / "settings.json").write_text(json.dumps({"corpus": "builtin"}))
    assert gather("stories").figures["02_data.x"].value == 2.0  # the run was on another text
    (build / "settings.json").write_text(json.dumps({"corpus": "stories"}))
    found = gather("stories")
    assert {name: figure.value for name, figure in found.figures.items()} == {"01_model.x": 2.0, "a.x": 3.0}
    assert found.origins == {"01_model": "full run of 2026-01-01, stories", "02_data": "this run"}
