"""The SYCL programs give NumPy's integers to the last bit, and refuse what they cannot compute."""

from __future__ import annotations

import shutil
from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from lib import sycl
from lib.errors import BookError

needs_runtime = pytest.mark.skipif(
    not sycl.available(), reason="Intel's SYCL runtime is not installed; make sycl installs it (1.6 GB)"
)
EXTREMES = np.array([-(2**31), -1, 0, 1, 2**31 - 1], np.int32)


@st.composite
def products(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, int]:
    """A small weight and input, and a multiplier and shift that often bring the sum near int8, or onto a half."""
    rows, columns = draw(st.tuples(st.integers(1, 4), st.integers(1, 40)))
    weight, x = draw(hn.arrays(np.int8, (rows, columns))), draw(hn.arrays(np.int8, columns))
    multiplier = draw(st.one_of(st.integers(1, 16), st.integers(1, sycl.LARGEST_MULTIPLIER)))
    near = max(multiplier.bit_length() - 4, 0)
    shift = draw(st.one_of(st.integers(near, near + 14), st.integers(0, sycl.LARGEST_SHIFT)))
    return weight, x, multiplier, shift


@given(products())
def test_the_numpy_twin_is_exact_arithmetic(product: tuple[np.ndarray, np.ndarray, int, int]) -> None:
    weight, x, multiplier, shift = product
    sums = [sum(w * v for w, v in zip(row, x.tolist())) for row in weight.tolist()]
    exact = [floor(Fraction(total * multiplier, 2**shift) + Fraction(1, 2)) for total in sums]
    found = sycl.matvec_reference(weight, x, multiplier, shift)
    assert found.dtype == np.int8
    assert found.tolist() == [min(max(value, -128), 127) for value in exact]


def test_the_numpy_twin_rounds_halves_up_and_bears_its_largest_sum() -> None:
    halves = np.array([[-3], [-1], [1], [3]], np.int8)
    assert sycl.matvec_reference(halves, np.array([1], np.int8), 1, 1).tolist() == [-1, 0, 1, 2]
    row = np.full((1, sycl.MOST_COLUMNS), -128, np.int8)  # the largest sum that int32 holds
    assert sycl.matvec_reference(row, row[0], 1, 25).tolist() == [64]  # (2^31 - 2^14) / 2^25 is a little less
    assert sycl.matvec_reference(row, row[0], sycl.LARGEST_MULTIPLIER, sycl.LARGEST_SHIFT).tolist() == [1]


@needs_runtime
@pytest.mark.parametrize("count", [1, 64, 1000])
def test_vector_add_is_exact_and_wraps_around(count: int) -> None:
    rng = np.random.default_rng(count)
    a, b = (rng.integers(-(2**31), 2**31, count).astype(np.int32) for _ in range(2))
    assert sycl.mismatches(sycl.vector_add(a, b), a + b) == 0


@needs_runtime
def test_vector_add_wraps_around_at_every_extreme() -> None:
    a, b = (grid.ravel() for grid in np.meshgrid(EXTREMES, EXTREMES))
    exact = [(int(left) + int(right) + 2**31) % 2**32 - 2**31 for left, right in zip(a, b)]
    assert sycl.vector_add(a, b).tolist() == exact


@needs_runtime
@pytest.mark.parametrize(
    "rows, columns, multiplier, shift",
    [(1, 1, 1, 0), (3, 5, 1, 8), (64, 64, 1_518_500_249, 42), (17, 33, 2**31 - 1, 62), (2, 131_071, 3, 25)],
)
def test_matvec_is_numpys_to_the_last_bit(rows: int, columns: int, multiplier: int, shift: int) -> None:
    rng = np.random.default_rng(rows)
    weight = rng.integers(-128, 128, (rows, columns)).astype(np.int8)
    x = rng.choice(np.array([-128, 127, -1, 0, 1, 77], np.int8), columns)
    weight[0] = np.where(x < 0, -128, 127)  # every product positive: the largest sum the input allows
    expected = sycl.matvec_reference(weight, x, multiplier, shift)
    assert sycl.mismatches(sycl.matvec(weight, x, multiplier, shift), expected) == 0


@needs_runtime
def test_matvec_rounds_halves_up_and_bears_its_largest_product() -> None:
    weight = np.array([[-3], [-1], [1], [3]], np.int8)
    assert sycl.matvec(weight, np.array([1], np.int8), 1, 1).tolist() == [-1, 0, 1, 2]
    row = np.full((1, sycl.MOST_COLUMNS), -128, np.int8)
    assert sycl.matvec(row, row[0], sycl.LARGEST_MULTIPLIER, sycl.LARGEST_SHIFT).tolist() == [1]


@needs_runtime
def test_the_programs_refuse_bad_files_and_numbers_in_a_sentence(tmp_path: Path) -> None:
    three, four, odd = (tmp_path / f"{size}.bin" for size in (3, 4, 7))
    three.write_bytes(bytes(12))
    four.write_bytes(bytes(16))
    odd.write_bytes(bytes(7))
    missing, out = tmp_path / "missing.bin", tmp_path / "out.bin"
    shape = (3, 4, 1, 0)
    cases = [
        ("vector_add", (three, four), "three files are needed"),
        ("vector_add", (missing, four, out), "missing.bin cannot be read .*check the path"),
        ("vector_add", (odd, odd, out), "7 bytes; give it whole numbers of 4 bytes"),
        ("vector_add", (three, four, out), "16 bytes where 12 are expected"),
        ("vector_add", (three, three, tmp_path / "no" / "out"), "cannot be written"),
        ("matvec", (three, four, out), "seven arguments are needed"),
        ("matvec", (four, four, out, *shape), "16 bytes where 12 are expected"),
        ("matvec", (three, four, out, 3, 131_072, 1, 0), "COLUMNS is '131072'; give an integer from 1 to 131071"),
        ("matvec", (three, four, out, "3x", 4, 1, 0), "ROWS is '3x'"),
        ("matvec", (three, four, out, 3, 4, 2**31, 0), "MULTIPLIER is '2147483648'"),
        ("matvec", (three, four, out, 3, 4, 1, 63), "SHIFT is '63'; give an integer from 0 to 62"),
    ]
    for name, arguments, sentence in cases:
        with pytest.raises(BookError, match=sentence) as refused:
            sycl.run_program(name, *arguments)
        assert "\n" not in str(refused.value)
    assert not out.exists()


def test_arrays_that_do_not_fit_are_refused_in_a_sentence() -> None:
    weight, x, numbers = np.zeros((2, 3), np.int8), np.zeros(3, np.int8), np.zeros(3, np.int32)
    cases = [
        (lambda: sycl.vector_add(numbers, numbers[:2]), "no two int32 vectors of one length"),
        (lambda: sycl.vector_add(numbers, x), "no two int32 vectors"),
        (lambda: sycl.vector_add(numbers[:0], numbers[:0]), "no two int32 vectors"),
        (lambda: sycl.matvec(weight, numbers, 1, 0), "the input int32; quantise both"),
        (lambda: sycl.matvec(weight, x[:2], 1, 0), "does not multiply an input"),
        (lambda: sycl.matvec(weight[:, :0], x[:0], 1, 0), "empty or beyond"),
        (lambda: sycl.matvec(weight, x, 0, 0), "the multiplier is 0"),
        (lambda: sycl.matvec(weight, x, 1.5, 0), "the multiplier is 1.5; give an integer"),
        (lambda: sycl.matvec_reference(weight, x, 1, 63), "the shift is 63"),
        (lambda: sycl.matvec_reference(weight, x, 1, 2.0), "the shift is 2.0; give an integer"),
        (lambda: sycl.mismatches(numbers, x), "cannot be compared"),
        (lambda: sycl.build("matmul"), "'matmul' is no SYCL program; choose one of vector_add, matvec"),
    ]
    for call, sentence in cases:
        with pytest.raises(BookError, match=sentence):
            call()


def test_what_is_missing_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sycl, "available", lambda: True)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BookError, match=r"g\+\+ is missing .* install it"):
        sycl.build("vector_add", tmp_path)
    monkeypatch.setattr(sycl, "available", lambda: False)
    with pytest.raises(BookError, match="runtime is not installed; run make sycl"):
        sycl.build("vector_add", tmp_path)


def test_the_stages_are_the_reports_three() -> None:
    commands = {stage.name: stage.command("matvec", "-DROWS=64 -DCOLUMNS=64") for stage in sycl.STAGES}
    assert list(commands) == ["emulation", "report", "bitstream"]
    assert commands["report"] == (
        "icpx -fsycl -fintelfpga -DFPGA_HARDWARE -fsycl-link=early -Xshardware -Xstarget=Arria10 "
        "-DROWS=64 -DCOLUMNS=64 matvec.cpp -o matvec_report.a"
    )
