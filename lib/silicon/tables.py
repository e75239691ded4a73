"""Coefficients of the FP32 units' polynomials, written to ``hw/rtl/fp32/*.svh`` by ``python -m lib.silicon.tables``.

Each table is fitted with the very integers and truncations of its unit, so that what is tested here holds there. A
row of a table is one packed word, the last field in the lowest bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lib import ROOT
from lib.errors import run_command
from lib.files import atomic_write

FOLDER = ROOT / "hw" / "rtl" / "fp32"


@dataclass(frozen=True)
class Table:
    """Named columns of unsigned integers, int64 (rows,), with their widths in bits."""

    name: str
    what: str
    columns: tuple[np.ndarray, ...]
    widths: tuple[int, ...]

    def words(self) -> list[int]:
        """Return the rows as packed words."""
        words = [0] * len(self.columns[0])
        for column, width in zip(self.columns, self.widths):
            assert 0 <= column.min() and column.max() < 2**width, (self.name, width)
            words = [word << width | entry for word, entry in zip(words, column.tolist())]
        return words

    def text(self) -> str:
        """Return the SystemVerilog that declares the table, entry 0 in the lowest bits."""
        words, width = self.words(), sum(self.widths)
        digits = [f"{width}'h{word:0{-(-width // 4)}x}" for word in reversed(words)]
        per_line = 98 // (len(digits[0]) + 2)
        lines = [", ".join(digits[i : i + per_line]) for i in range(0, len(digits), per_line)]
        body = ",\n  ".join(lines)
        return (
            f"// {self.what}\n// Written by python -m lib.silicon.tables.\n"
            f"localparam logic [{len(words) * width - 1}:0] {self.name} = {{\n  {body}\n}};\n"
        )


def exp2_table() -> Table:
    """2^-f, f in [0, 1), in units of 2^-25: value - (slope w >> 15) in 512 segments, w the 15 bits of f below them."""
    w = np.arange(2**15)
    values, slopes = [], []
    for i in range(512):
        exact = np.exp2(25 - (i / 512 + w * 2.0**-24))
        slope = round((exact[0] - np.exp2(25 - (i + 1) / 512)))  # the chord's fall over 2^15 steps, in units
        error = exact + (slope * w >> 15)
        value = round((error.max() + error.min()) / 2)
        value = max(value, 2**24 + (slope * (2**15 - 1) >> 15))  # the result has its leading one
        values.append(min(value, 2**25 - 1))
        slopes.append(slope)
    what = "2^-f in 512 straight lines: value in 25 bits, slope in 16."
    return Table("Exp2Table", what, (np.array(values), np.array(slopes)), (25, 16))


def phi_table() -> Table:
    """The normal distribution function on [0, 8) in units of 2^-25, in 256 parabolas.

    With w the 19 bits of the argument (units of 2^-24) below the segment, value + ((slope - (bend (w >> 6) >> 12)) w
    >> 20), at most 2^25 - 1.
    """
    w = np.arange(0, 2**19, 64) + 63  # the last of each 64: the truncation of w is part of the fit
    columns: list[list[int]] = [[], [], []]
    for i in range(256):
        exact = 2.0**25 * (1 - 0.5 * np.array([math.erfc(x / math.sqrt(2)) for x in i / 32 + w * 2.0**-24]))
        parabola = np.polynomial.Chebyshev.interpolate(lambda t: np.interp(t, w, exact), 2, [0, 2.0**19]).convert(
            kind=np.polynomial.Polynomial
        )
        _, linear, square = parabola.coef
        bend = max(round(-square * 2**38), 0)
        slope = max(round(linear * 2**20), bend * (2**13 - 1) >> 12)  # what is multiplied by w stays positive
        rise = (slope - (bend * (w >> 6) >> 12)) * w >> 20
        value = round(((exact - rise).max() + (exact - rise).min()) / 2)
        for column, entry in zip(columns, (min(value, 2**25 - 1 - int(rise.max())), slope, bend)):
            column.append(entry)
    what = "The normal distribution function in 256 parabolas: value in 25 bits, slope in 20, bend in 12."
    return Table("PhiTable", what, tuple(np.array(column) for column in columns), (25, 20, 12))


def main() -> None:
    for file, table in (("exp2_table.svh", exp2_table()), ("phi_table.svh", phi_table())):
        with atomic_write(FOLDER / file) as out:
            out.write(table.text().encode())


if __name__ == "__main__":
    run_command(main)
