"""The ladder: right figures, and every deliberate fault caught."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import numpy as np
import onnx
import pytest
import torch

from lib import export, ladder, lowbit, qonnx
from lib.checkpoint import load_shipped
from lib.errors import BookError
from lib.evaluate import torch_logits, torch_step_logits
from lib.gpt import GPT, GPTConfig
from lib.ladder import EXACT, Golden, Rung, climb, distance

SMALL = GPTConfig(n_layer=2, n_head=2, n_embd=32, block=16)
RNG = np.random.default_rng


def test_the_golden_set_is_what_pocket_gives() -> None:
    golden = ladder.load_golden()
    model, _ = load_shipped("pocket")
    rows = climb([Rung("torch", torch_logits(model), EXACT), Rung("step", torch_step_logits(model), EXACT)], golden)
    assert [row.breaches for row in rows] == [[], []]
    assert golden.tokens.shape == (2, 257) and golden.logits.shape == (2, 256, 97)
    assert (ladder.GOLDEN / "pocket.safetensors").stat().st_size < 200_000


def test_distances_by_hand() -> None:
    reference = np.zeros((1, 2, 4), dtype=np.float32)
    reference[0, :, 1] = 1.0
    logits = reference.copy()
    logits[0, 0, 2] = 3.0
    targets = np.array([[1, 1]])
    found = distance(logits, reference, targets)
    before, after = np.log(3 + np.e) - 1, np.log(2 + np.e + np.e**3) - 1
    assert (found.max_abs_err, found.mean_abs_err, found.agreement) == (3.0, 3 / 8, 0.5)
    assert found.ppl_increase_pct == pytest.approx(100 * np.expm1((after - before) / 2))
    assert found.breaches(EXACT) == ["largest error", "mean error", "agreement", "perplexity"]
    assert distance(reference, reference, targets).breaches(EXACT) == []


def test_rungs_need_names_of_their_own_and_sources_below_them() -> None:
    golden = Golden(np.zeros((1, 3), dtype=np.int64), np.zeros((1, 2, 4), dtype=np.float32), {})
    same = lambda tokens: np.zeros((*tokens.shape, 4), dtype=np.float32)
    other = lambda tokens: same(tokens) + np.arange(4, dtype=np.float32)
    rows = climb([Rung("a", other, EXACT), Rung("b", other, EXACT, "a")], golden)
    assert len(rows[0].breaches) > 1 and rows[1].breaches == [] and rows[1].golden.max_abs_err == 3
    with pytest.raises(BookError, match="two rungs are called a"):
        climb([Rung("a", same, EXACT), Rung("a", same, EXACT)], golden)
    with pytest.raises(BookError, match="not below it"):
        climb([Rung("b", same, EXACT, "a"), Rung("a", same, EXACT)], golden)


@pytest.fixture(scope="module")
def forms(random_model: Callable[..., GPT], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model's files, and the golden set of it and of its quantised copy, as routes."""
    folder, model = tmp_path_factory.mktemp("ladder"), random_model(SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # far from zero, so that a fault shows
    windows = RNG(0).integers(0, 97, (4, 16))
    quantised = lowbit.quantise(model, lowbit.BITS["w4a8"], windows)
    return {
        "model": model,
        "quantised": quantised,
        "fp32": export.export_prefill(model, folder / "fp32.onnx", batch=2),
        "step": export.export_step(model, folder / "step.onnx"),
        "qcdq": qonnx.export_qcdq(quantised, folder / "qcdq.onnx", batch=2),
        "qonnx": qonnx.export_qonnx(quantised, folder / "qonnx.onnx"),
    }


FAULTS = [
    ("fp32", ladder.transposed_weight, export.onnx_logits),
    ("step", ladder.shifted_positions, export.onnx_step_logits),
    ("qcdq", ladder.doubled_scale, export.onnx_logits),
    ("qcdq", ladder.shifted_zero_point, export.onnx_logits),
    ("qcdq", ladder.swapped_neighbours, export.onnx_logits),
    ("qcdq", ladder.transposed_weight, export.onnx_logits),
    ("qonnx", ladder.doubled_scale, qonnx.qonnx_logits),
    ("qonnx", ladder.transposed_weight, qonnx.qonnx_logits),
]


@pytest.mark.parametrize("file, fault, run", FAULTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_fault_is_caught_and_its_absence_is_not(forms, tmp_path: Path, file: str, fault, run) -> None:
    source = torch_logits(forms["model" if file in ("fp32", "step") else "quantised"])
    tokens = RNG(1).integers(0, 97, (2, 17))
    golden = Golden(tokens, source(tokens[:, :-1]), {})
    sound = onnx.load(forms[file])
    onnx.save(fault(sound), tmp_path / "faulty.onnx")
    assert sound == onnx.load(forms[file])  # the fault went into a copy
    right = climb([Rung("right", run(forms[file]), EXACT)], golden)[0]
    wrong = climb([Rung("wrong", run(tmp_path / "faulty.onnx"), EXACT)], golden)[0]
    assert right.breaches == []
    assert "mean error" in wrong.breaches and wrong.golden.mean_abs_err > 100 * right.golden.mean_abs_err


def test_a_damaged_golden_set_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ladder.GOLDEN.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    ladder.load_golden(tmp_path)
    card = (tmp_path / "pocket.json").read_text()
    (tmp_path / "pocket.json").write_text(card.replace('"windows": 2', '"windows": 3'))
    with pytest.raises(BookError, match="does not fit its card"):
        ladder.load_golden(tmp_path)
    (tmp_path / "pocket.json").write_text(card)
    monkeypatch.setattr(ladder, "sha256", lambda path: "0" * 64)
    with pytest.raises(BookError, match="another checkpoint"):
        ladder.load_golden(tmp_path)


def test_a_fault_without_a_place_is_refused(forms) -> None:
    with pytest.raises(BookError, match="no place for this fault"):
        ladder.doubled_scale(onnx.load(forms["fp32"]))
