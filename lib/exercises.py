"""Answers to the exercises: ``check`` tells a reader whether theirs is right, before a solution is unfolded.

The answers of chapter 03 lie in ``data/exercises/03.json``, by the number of the exercise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import EllipsisType
from typing import Sequence

from lib import ROOT
from lib.errors import BookError
from lib.files import read_json

FOLDER = ROOT / "data" / "exercises"

Answer = float | str | Sequence[float]


@dataclass(frozen=True)
class Key:
    """What is right. asks: what the answer is, its unit included; hint: for who is not there yet.

    answer: a number, several in order, or a word; within: how far, relatively, a number may lie off it.
    """

    asks: str
    answer: Answer
    hint: str
    within: float = 0.01

    def accepts(self, given: Answer) -> bool:
        """Say whether an answer is right. A word may differ in case, a number by ``within``."""
        if isinstance(self.answer, str):
            return isinstance(given, str) and given.strip().lower() == self.answer.lower()
        right, mine = _numbers(self.answer), _numbers(given)
        close = (math.isclose(a, b, rel_tol=self.within, abs_tol=1e-12) for a, b in zip(right, mine))
        return len(right) == len(mine) and all(close)


def check(exercise: str, given: Answer | EllipsisType = ...) -> None:
    """Print whether an answer to an exercise, such as "03.2", is right: a hint if not, what is asked without one.

    Raises BookError for an exercise that has no answer to check.
    """
    key = load(exercise)
    if given is ...:
        print(f"{exercise}: {key.asks}?")
    elif key.accepts(given):
        print(f"{exercise}: right")
    else:
        print(f"{exercise}: not yet. {key.hint}")


def solution(exercise: str, value: Answer) -> None:
    """Print what a solution comes to. Raises AssertionError if ``check`` would not accept it, and as ``check`` does."""
    key = load(exercise)
    assert key.accepts(value), f"exercise {exercise}: the solution gives {value}, its key says {key.answer}"
    numbers = (f"{n:,.0f}" if n == round(n) else f"{n:,.4g}" for n in _numbers(value))
    print(f"{exercise}: {value if isinstance(value, str) else ', '.join(numbers)}")


def load(exercise: str) -> Key:
    """Return the key of an exercise. Raises BookError if there is none."""
    chapter, _, number = exercise.partition(".")
    path = FOLDER / f"{chapter}.json"
    keys = read_json(path, "the chapter's answers") if path.exists() else {}
    if number not in keys:
        raise BookError(f"exercise {exercise!r} has no answer to check; name one as its chapter does, such as '03.1'")
    return Key(**keys[number])


def _numbers(answer: Answer) -> list[float]:
    """Return a number or several as a list; an empty one for what is not of numbers."""
    try:
        # Texts have a length, and so have tensors without axes.
        single = isinstance(answer, str) or getattr(answer, "ndim", None) == 0 or not hasattr(answer, "__len__")
        return [float(n) for n in ([answer] if single else answer)]
    except (TypeError, ValueError):
        return []
