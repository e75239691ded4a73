"""Exercises' answers: what is accepted, and that each chapter's key, questions and solutions agree."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from lib import ROOT, exercises
from lib.errors import BookError
from lib.exercises import Key

CHAPTERS = sorted((ROOT / "chapters").glob("[0-9]*.ipynb"))


@pytest.mark.parametrize(
    ("answer", "given", "right"),
    [
        (1024, 1024, True), (1024, 1030, True), (1024, 1040, False), (0, 0.0, True), (0, 0.1, False),
        ((1, 2), [1, 2], True), ((1, 2), (2, 1), False), ((1, 2), 1, False), (3, "3", True), (3, "three", False),
        (1024, torch.tensor(1024.0), True), (1024, np.array(1040), False), ((1, 2), torch.tensor([1, 2]), True),
        (1024, "1024", True), ((1, 2), "12", False),
        ("DPU", " dpu ", True), ("DPU", 1, False), (1.0, float("nan"), False), (1, [[1]], False),
    ],
)  # fmt: skip
def test_a_number_may_be_a_hundredth_off_and_a_word_in_other_case(answer, given, right) -> None:
    assert Key("what", answer, "hint").accepts(given) is right


def test_check_prints_the_question_a_hint_or_right(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(exercises, "FOLDER", tmp_path)
    (tmp_path / "42.json").write_text(json.dumps({"1": {"asks": "bits", "answer": 8, "hint": "Count them."}}))
    for given in (..., 7, 8):
        exercises.check("42.1", given)
    assert capsys.readouterr().out.splitlines() == ["42.1: bits?", "42.1: not yet. Count them.", "42.1: right"]
    with pytest.raises(AssertionError, match="gives 7"):
        exercises.solution("42.1", 7)


@pytest.mark.parametrize("name", ["42.2", "99.1", "42", ""])
def test_an_unknown_exercise_is_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(BookError, match="no answer to check"):
        exercises.check(name)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_key_is_asked_for_and_solved_in_its_chapter(path) -> None:
    cells = json.loads(path.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    chapter = path.stem[:2]
    keys = {f"{chapter}.{n}" for n in json.loads((exercises.FOLDER / f"{chapter}.json").read_text())}
    assert len(keys) >= 2
    assert set(re.findall(r'\bcheck\("([\d.]+)"', code)) == keys
    assert set(re.findall(r'\bsolution\(\s*"([\d.]+)"', code)) == keys
