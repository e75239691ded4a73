"""The committed clocks and cells: of this core, and what is made of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lib.errors import BookError
from lib.files import read_json, write_json
from lib.gpt import CONFIGS
from lib.silicon import coverage, study
from lib.silicon.synth import by_module, synthesise
from lib.silicon.units import REQUANTISE


@pytest.mark.parametrize("name", [*study.STUDIES, "coverage"])
def test_committed_figures_are_of_these_sources(name: str) -> None:
    assert study.load(name)["sources"] == (study.routed_hash() if name == "routed" else study.sources_hash())


def test_figures_of_another_core_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = read_json(study.FOLDER / "clocks.json", "the clocks") | {"sources": "0" * 16}
    write_json(tmp_path / "clocks.json", other)
    monkeypatch.setattr(study, "FOLDER", tmp_path)
    with pytest.raises(BookError, match="another core.*lib.silicon.study"):
        study.load("clocks")


def test_utilisation_counts_weights_head_and_attention() -> None:
    config = CONFIGS["pocket"]
    macs = study.macs(config)
    assert macs[0] == 12 * 8 * 128**2 + 97 * 128 + 2 * 8 * 128
    assert round(macs.mean()) == 1_848_448  # the cycle model's 1.848 M
    assert np.allclose(study.utilisation(config, 64, macs / 64), 1)
    for lanes, least in ((64, 0.95), (256, 0.88)):
        clocks = study.load("clocks")["clocks"]["pocket"][str(lanes)]
        assert macs.sum() / (lanes * sum(clocks["clocks"])) > least and clocks["jitter"] == 0


def test_modules_add_up_to_the_unit() -> None:
    parts, whole = by_module(REQUANTISE), synthesise(REQUANTISE)
    assert set(parts) == {"requantise", "round_shift"}
    assert sum(part.dsp for part in parts.values()) == whole.dsp == 1
    assert sum(part.ff for part in parts.values()) == whole.ff
    assert whole.lut <= sum(part.lut for part in parts.values()) <= 1.2 * whole.lut


def test_coverage_leaves_little_unreached() -> None:
    covered = study.load("coverage")
    assert covered["share"] > 0.95 and covered["points"] > 25_000
    assert round((1 - covered["share"]) * covered["points"]) == sum(covered["missed"].values())


def test_points_of_several_runs_are_merged_by_module_and_signal() -> None:
    missed = ("core", "a[1]:0->1"), ("core", "a[2]:1->0"), ("bank", "line 7")
    reached = Counter({("core", "a[0]:0->1"): 2, **dict.fromkeys(missed, 0)})
    assert coverage.summary(reached) == {"points": 4, "share": 0.25, "missed": {"core: a": 2, "bank: line 7": 1}}
