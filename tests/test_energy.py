"""Energy counters as Linux shows them, in a folder made for the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib import cpu, energy
from lib.checkpoint import load_shipped
from lib.errors import BookError


def zone(root: Path, name: str, microjoules: str, span: int = 1_000_000) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "energy_uj").write_text(microjoules)
    (folder / "max_energy_range_uj").write_text(str(span))
    return folder


def test_packages_count_and_their_parts_do_not(tmp_path: Path) -> None:
    first, part = zone(tmp_path, "intel-rapl:0", "100\n"), zone(tmp_path, "intel-rapl:0:0", "5\n")
    second = zone(tmp_path, "intel-rapl:1", "999_999".replace("_", ""))
    assert energy.packages(tmp_path) == [first, second] and part.exists()

    def work() -> None:
        (first / "energy_uj").write_text("2000100")
        (second / "energy_uj").write_text("9")  # wrapped round

    spent = energy.measure(work, tmp_path)
    assert spent.joules == pytest.approx((2_000_000 + 10) / 1e6) and spent.seconds > 0


def test_no_counter_and_a_broken_one_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BookError, match="no energy counter can be read"):
        energy.measure(lambda: None, tmp_path)
    broken = zone(tmp_path, "intel-rapl:0", "12")
    (broken / "max_energy_range_uj").write_text("many")
    with pytest.raises(BookError, match="cannot be read as a number"):
        energy.measure(lambda: None, tmp_path)
    (broken / "energy_uj").write_text("")  # what a locked counter looks like when it can be opened
    with pytest.raises(BookError, match="run as root"):
        energy.packages(tmp_path)


def test_energy_of_the_c_program_is_counted_over_its_multiplications(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, read = zone(tmp_path, "intel-rapl:0", "0"), cpu.CStep.feed

    def feed(step: cpu.CStep, token: int) -> object:
        counter = package / "energy_uj"
        counter.write_text(str(int(counter.read_text()) + 100))
        return read(step, token)

    monkeypatch.setattr(cpu.CStep, "feed", feed)
    model, _ = load_shipped("nano")
    found = energy.nj_per_mac(model, [1, 2, 3], passes=2, root=tmp_path)
    assert found == pytest.approx(
        100e-6 * 1e9 / (405_632 + 2 * 2 * 128 * 2), rel=1e-6
    )  # two characters seen, on average
    with pytest.raises(BookError, match="no energy counter"):
        energy.nj_per_mac(model, [1], root=tmp_path / "none")
