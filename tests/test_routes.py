"""The calculator: monotone where a model must be, honest about ``pocket``, and one sentence for bad input."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import ROOT, routes
from lib.acap.boards import INT8, VCK190
from lib.errors import BookError
from lib.intel.suite import arria10
from lib.results import FULL_RUNS
from lib.routes import (
    ROUTES,
    Acap,
    Core,
    Estimate,
    Processor,
    Route,
    Streaming,
    Workload,
    advise,
    break_even,
    estimate,
)
from lib.vitis.dpu import B4096

POCKET = Workload(layers=8, heads=4, width=128, block=256)
NANO = Workload(layers=2, heads=4, width=128, block=64)

workloads = st.builds(
    lambda layers, heads, head, half, vocab, bits, batch, lanes, clock: Workload(
        layers, heads, heads * head, 2 * half, vocab, bits, batch, clock_mhz=clock, lanes=lanes
    ),
    st.integers(1, 24),
    st.integers(1, 16),
    st.integers(1, 64),
    st.integers(1, 512),
    st.integers(2, 300),
    st.sampled_from(routes.BITS),
    st.integers(1, 64),
    st.integers(1, 1700),
    st.floats(1, 1000),
)
by_name = st.sampled_from(ROUTES)


def ms(route: Route, work: Workload) -> float:
    """A route's time, infinite where it cannot run the model."""
    found = estimate(route, work).ms
    return math.inf if found is None else found


def no_less(after: float, before: float) -> bool:
    return after >= before * (1 - 1e-12)


# ---- Properties. ----


@given(workloads, by_name, st.sampled_from(["layers", "width", "block", "vocab", "batch", "bits"]))
def test_more_of_anything_never_takes_less_time(work: Workload, route: Route, name: str) -> None:
    more = {
        "width": 2 * work.width,
        "bits": next((b for b in routes.BITS if b > work.bits), work.bits),
        "block": work.block + 2,
    }
    larger = replace(work, **{name: more.get(name, getattr(work, name) + 1)})
    assert no_less(ms(route, larger), ms(route, work))


@given(workloads, by_name, st.floats(1, 4))
def test_a_faster_clock_and_more_lanes_never_take_longer(work: Workload, route: Route, factor: float) -> None:
    assert no_less(ms(route, work), ms(route, replace(work, clock_mhz=factor * work.clock_mhz)))
    wider = replace(work, lanes=work.lanes + 1)
    if not route.refusal(wider):
        assert no_less(ms(route, work), ms(route, wider))


@given(workloads, by_name)
def test_an_estimate_is_a_model_s_and_its_parts_are_its_sum(work: Workload, route: Route) -> None:
    found = estimate(route, work)
    assert found.provenance == "modelled" and found.because
    if found.ms is not None:
        terms = route.terms(work)
        assert all(term >= 0 for term in terms.values()) and sum(terms.values()) == pytest.approx(found.ms)
        assert found.tokens_per_s == pytest.approx(1e3 * work.batch / found.ms)


@given(workloads, st.floats(1e-4, 100))
def test_advice_keeps_the_budget_or_says_that_nothing_does(work: Workload, budget: float) -> None:
    advice = advise(replace(work, budget_ms=budget))
    taken = {e.route: e for e in advice.estimates}.get(advice.route)
    within = [e for e in advice.estimates if e.meets(budget)]
    assert (taken is None) == (not within)
    if taken is not None:
        assert taken in within
        assert taken is advice.estimates[0] or not advice.estimates[0].meets(budget)
    assert advice.reason.endswith(".") and advice.reason in str(advice)


@given(workloads, st.floats(1e-3, 10), st.floats(1, 10))
def test_a_looser_budget_never_takes_a_route_away(work: Workload, budget: float, factor: float) -> None:
    tight, loose = (advise(replace(work, budget_ms=b)).route for b in (budget, factor * budget))
    assert tight is None or loose is not None


# ---- Known answers. ----


@pytest.mark.parametrize(("work", "name"), [(POCKET, "pocket"), (NANO, "nano")])
def test_the_core_s_clocks_are_the_simulated_ones_within_two_per_cent(work: Workload, name: str) -> None:
    simulated = json.loads((ROOT / "data" / "silicon" / "clocks.json").read_text())["clocks"][name]
    for lanes, made in simulated.items():
        assert Core().clocks(replace(work, lanes=int(lanes))) == pytest.approx(made["clocks"][-1], rel=0.02)


@pytest.mark.parametrize(
    ("route", "chapter", "record", "layers", "width"),
    [
        (routes.B4096, "06_vitis_ai", "vitis.pocket.modelled_ms_per_token", 8, 128),
        (routes.B4096, "06_vitis_ai", "vitis.report.modelled_ms_per_token", 6, 384),
        (routes.SUITE, "07_openvino", "intel.a10.pocket.modelled_ms_per_token", 8, 128),
        (routes.SUITE, "07_openvino", "intel.a10.report.modelled_ms_per_token", 6, 384),
    ],
)
def test_overlays_are_the_chapters_models_in_one_formula(
    route: Route, chapter: str, record: str, layers: int, width: int
) -> None:
    run = json.loads((FULL_RUNS / "tinystories" / f"{chapter}.json").read_text())
    work = Workload(layers, heads=width // 32, width=width, block=256)
    assert ms(route, work) == pytest.approx(run["results"][record]["value"], rel=0.01)


def test_known_answers_for_pocket() -> None:
    for route, work, expected in (
        (Processor(), POCKET, 0.054937),  # 2,109,568 MAC at 38.4 GMAC/s
        (Processor(), replace(POCKET, bits=32), 0.095889),
        (Core(), POCKET, 0.030435),  # 8240.5 + 250 + 8 x 80 clocks
        (Streaming(), POCKET, 0.082567),  # 1,585,280 bytes at 19.2 GB/s
        (Acap(), POCKET, 0.096330),
    ):
        assert ms(route, work) == pytest.approx(expected, rel=1e-4)
    assert Acap().macs_per_s == VCK190.engines * VCK190.macs_at(INT8) * VCK190.engine_ghz * 1e9
    assert Acap().buffer_bytes == VCK190.buffers
    assert Acap().stream_bytes_per_s == pytest.approx(VCK190.ports_in * VCK190.port * 1e9)
    assert estimate(Acap(), POCKET).because == "waiting for each other: 100 %"
    assert estimate(Core(), POCKET).because == "multiplying: 90 %"


def test_constants_are_those_of_the_chapters() -> None:
    assert routes.B4096.macs_per_s == B4096.macs_per_cycle * B4096.clock_hz
    assert routes.B4096.host_macs_per_s == B4096.cpu_macs_per_s
    suite = arria10(routes.SUITE.host_macs_per_s)
    for ours, theirs in ((routes.B4096, B4096), (routes.SUITE, suite)):
        assert (ours.bytes_per_s, ours.crossing_s, ours.rows) == (theirs.bytes_per_s, theirs.crossing_s, theirs.pixels)
    assert routes.SUITE.macs_per_s == suite.macs_per_cycle * suite.clock_hz


def test_the_processor_s_rates_are_those_that_were_measured() -> None:
    run = json.loads((FULL_RUNS / "tinystories" / "07_openvino.json").read_text())["results"]
    middle = POCKET.weights + 2 * 8 * 128 * 192  # contexts of the race
    for precision, rate in Processor().macs_per_s.items():
        measured = middle * run[f"host.c_{precision}.tokens_per_s"]["value"]
        assert rate == pytest.approx(measured, rel=0.01)


def test_pocket_is_taken_by_whoever_keeps_its_budget() -> None:
    assert advise(replace(POCKET, budget_ms=0.1)).route == ROUTES[0].name
    assert advise(replace(POCKET, budget_ms=0.04)).route == Core().name
    advice = advise(replace(POCKET, budget_ms=0.001))
    assert advice.route is None and "times the budget" in advice.reason
    refused = {e.route: e.because for e in advise(replace(POCKET, bits=32)).estimates if e.ms is None}
    assert "weights of 32 bits" in refused[routes.B4096.name] and Core().name in refused


def test_what_cannot_run_says_why() -> None:
    assert "MB on the chip" in Core().refusal(replace(POCKET, width=512))
    assert "multipliers" in Core().refusal(replace(POCKET, lanes=1728))
    assert "caches" in routes.Streaming().refusal(replace(POCKET, batch=64))
    only = advise(replace(POCKET, bits=32), [Core()])
    assert (only.route, only.reason) == (None, "None of them can run the model.")
    assert "cannot" in str(only)


def test_break_even_is_the_first_value_that_wins() -> None:
    found = break_even(POCKET, "lanes", range(16, 1000), Core(), Processor())
    assert ms(Core(), replace(POCKET, lanes=found)) < ms(Processor(), POCKET)
    assert ms(Core(), replace(POCKET, lanes=found - 1)) >= ms(Processor(), POCKET)
    assert break_even(POCKET, "batch", range(1, 100), routes.B4096, Processor()) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "layers is 0; give a whole number"),
        ({"batch": 1.5}, "batch is 1.5"),
        ({"lanes": True}, "lanes is True"),
        ({"bits": 9}, "bits is 9; choose one of 2, 3"),
        ({"clock_mhz": math.nan}, "clock_mhz is nan"),
        ({"budget_ms": -1}, "budget_ms is -1; give a positive"),
        ({"clock_mhz": "fast"}, "clock_mhz is 'fast'"),
        ({"heads": 3}, "does not divide into 3 heads"),
        ({"block": 255}, "block 255 is odd"),
    ],
)
def test_bad_input_is_one_sentence(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BookError, match=message):
        replace(POCKET, **change)


def test_no_routes_and_an_unknown_field_are_refused() -> None:
    with pytest.raises(BookError, match="no route to choose"):
        advise(POCKET, [])
    with pytest.raises(BookError, match="has no colour; vary one of layers"):
        break_even(POCKET, "colour", [1], Core(), Processor())
    assert not Estimate("x", None, None, "").meets(None)
