"""The README's results at a glance, from the committed expectations: ``python -m lib.glance`` writes them anew.

What ``make book`` compares its figures with is what the README says, and a test fails when it does not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lib import ROOT
from lib.errors import BookError, run_command
from lib.files import atomic_write
from lib.results import EXPECTED, Result, Value, format_value, read_expected

README = ROOT / "README.md"
BEGIN, END = "<!-- results: python -m lib.glance writes them -->", "<!-- end of results -->"


@dataclass(frozen=True)
class Line:
    """One line of the table: what it says of the figures ``names`` of a chapter, in this order."""

    what: str
    chapter: str
    names: tuple[str, ...]
    unit: str
    provenance: str


LINES = (
    Line("parameters of `nano`, `pocket` and `report`", "01_model",
         ("model.nano.parameters", "model.pocket.parameters", "model.report.parameters"), "", "measured"),
    Line("score of `nano` and `pocket` on TinyStories", "02_data",
         ("baseline.nano.tinystories.bpc", "baseline.pocket.tinystories.bpc"), "bits/character", "measured"),
    Line("faults put into exports, and caught", "05_export",
         ("export.faults_inserted", "export.faults_caught"), "", "measured"),
    Line("crossings between DPU and CPU a token, `pocket`", "06_vitis_ai",
         ("vitis.pocket.crossings_per_token",), "", "measured"),
    Line("accuracy on CIFAR-10, EQ-ViT in eight bits less FP32", "08_acap_algorithm",
         ("acap.qat.cifar10.eqvit_minus_fp32_pct",), "points", "measured"),
    Line("LUTs of sixteen softmax units, FP32 (no DSPs) and integer", "09_acap_mapping",
         ("acap.area.softmax_fp32.lut", "acap.area.softmax_integer.lut"), "", "synthesised"),
    Line("rise of perplexity per character on the open core, against FP32, on 512 characters", "10_open_silicon",
         ("ladder.rtl.ppl_increase_pct",), "%", "simulated"),
    Line("clocks a token of `pocket`, 64 and 256 lanes", "10_open_silicon",
         ("silicon.pocket.lanes64.cycles_per_token", "silicon.pocket.lanes256.cycles_per_token"), "", "simulated"),
    Line("claims of the report and of EQ-ViT reproduced, corrected, only cited", "11_comparison",
         ("compare.claims.reproduced", "compare.claims.corrected", "compare.claims.cited"), "", "measured"),
)  # fmt: skip


def table(folder: Path = EXPECTED / "tinystories" / "quick") -> str:
    """Return the table in Markdown. BookError if a chapter's expectations lack a figure that it shows."""
    rows = [f"| {line.what} | {shown(line, folder)} | {line.provenance} | {line.chapter[:2]} |" for line in LINES]
    return "\n".join(["| result | value | how it came about | chapter |", "|---|---|---|---|", *rows])


def shown(line: Line, folder: Path) -> str:
    expected = read_expected(folder / f"{line.chapter}.json")
    values = [expected[name].value if name in expected else None for name in line.names]
    if None in values:
        raise BookError(f"{line.chapter} expects no {line.names[values.index(None)]}; correct LINES in lib/glance.py")
    return " / ".join(_format(value) for value in values) + f" {line.unit}".rstrip()


def _format(value: Value) -> str:
    return format_value(Result("glance", value, "", "measured"))


def with_table(readme: str) -> str:
    """Return the README with the table between its marks. BookError if the marks are gone."""
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    if not re.search(pattern, readme, re.DOTALL):
        raise BookError(f"{README} has no marks {BEGIN} and {END}; put them back around the results")
    return re.sub(pattern, lambda _: f"{BEGIN}\n{table()}\n{END}", readme, flags=re.DOTALL)


def main() -> None:
    """Write the results at a glance into the README."""
    readme = with_table(README.read_text())
    with atomic_write(README) as file:
        file.write(readme.encode())


if __name__ == "__main__":
    run_command(main)
