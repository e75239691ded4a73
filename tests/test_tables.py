"""What the comparison shows: labels on every cell, dashes where nothing is known, figures of what they are given."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import pytest

from lib import comparison, figures, lineup, outlook, published, routes, tables
from lib.capacity import shares
from lib.comparison import CLAIMS, FIGURES, LADDER, Climbed, Records, gather, judge, ladder
from lib.results import Result


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """The committed full runs' figures, whatever has been executed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "BUILD", tmp_path_factory.mktemp("build"))
        return gather("tinystories")


def test_every_number_of_a_route_has_a_label(records: Records, capsys: pytest.CaptureFixture[str]) -> None:
    rows = lineup.rows(records, "tinystories")
    assert {"c_int8", "dpu", "a10", "core_lanes64"} <= {row.entry.name for row in rows}
    for row in rows:
        cells = tables.route(row)
        assert len(cells) == len(tables.ROUTE)
        for shown in cells[4:]:
            assert shown == tables.NONE or re.search(r'<span class="provenance \w+"', shown)


def test_a_claim_without_an_answer_says_how_to_get_one() -> None:
    judged = judge(CLAIMS, Records({}, {}), "stories")
    rows = tables.claims(judged, "6.1", "IV")
    assert len(rows) == 8 + 16
    assert all(row[2] == tables.NONE and "<code>" in row[4] for row in rows)


def test_the_ladder_s_cells_are_as_many_as_its_columns(records: Records) -> None:
    assert len(ladder(records)) == len(LADDER)
    empty = tables.rung(Climbed(LADDER[0], {}, None))
    assert len(empty) == len(tables.RUNG) and empty[2:5] == (tables.NONE,) * len(FIGURES)


def test_risks_and_directions_name_records_that_exist(records: Records) -> None:
    for found in outlook.RISKS:
        assert found.figure is None or outlook.figure(records, found.figure, "tinystories"), found
        assert len(tables.risk(found, records, "tinystories")) == 4
    for found in outlook.DIRECTIONS:
        assert outlook.figure(records, found.figure, "elsewhere"), found
        assert f"{found.page}.html" in tables.direction(found, records, "elsewhere")[1]
    assert outlook.figure(records, None, "tinystories") is None


def test_figures_draw_what_they_are_given(records: Records) -> None:
    rows = lineup.rows(records, "tinystories")
    one_thread = [row for row in rows if row.entry.model == "pocket" and row.entry.target != lineup.HOST_TWO]
    names = [row.entry.name for row in one_thread if row.ppl_increase_pct]
    _, axes = plt.subplots(5)
    front = figures.front(axes[0], rows, judge(CLAIMS, records, "tinystories"))
    assert len(axes[0].texts) == len(names) and front == sorted(front) and front
    found = shares(records)
    figures.capacity(axes[1], found)
    drawn = sum(len(line.get_xdata()) for line in axes[1].lines) - 2  # the dashed line has two points
    assert drawn == len(found)
    figures.rooflines(axes[2], rows, (routes.B4096, routes.SUITE), routes.Core(), routes.Acap())
    assert len(axes[2].texts) == len(figures.POINTS)
    figures.energy(axes[3], 1.25, {"pocket": 1.8e6, "report": 11.2e6}, {"here": 0.1})
    assert len(axes[3].get_yticks()) == len(published.TABLE_4) + len(published.REPORT_POWER) + 1
    figures.widths(axes[4], routes.ROUTES, figures.POCKET, (64, 128, 256))
    assert len(axes[4].lines) == len(routes.ROUTES)
    plt.close("all")


def test_energy_is_watts_times_seconds_over_multiplications() -> None:
    assert published.Power("x", 10, 5.0).nj_per_mac(1e6) == pytest.approx(50)  # 50 mJ over a million
    eqvit = next(p for p in published.TABLE_4 if p.name == "VCK190, EQ-ViT")
    assert eqvit.nj_per_mac(1.25) == pytest.approx(1 / (224.7 * 1.25))


def test_nothing_is_shown_as_a_dash() -> None:
    assert tables.shown(None) == tables.NONE
    assert "modelled" in tables.shown(Result("a.b", 1.0, "ms", "modelled"))
