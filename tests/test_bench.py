"""The stopwatch: whose turn it is, what counts, and which races it refuses. Time is a fake clock's."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import bench, cpu, export
from lib.bench import Contender, Timing, race
from lib.errors import BookError
from lib.gpt import GPT, GPTConfig, generate

SMALL = GPTConfig(n_layer=2, n_head=2, n_embd=20, block=16)


class Clock:
    """Moves only when a fake works."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


def fake(name: str, clock: Clock, log: list[str], cost: int = 1000, block: int = 64) -> Contender:
    """A contender that writes 1, 2, 3, ... and takes ``cost`` ns a token, the n-th one n ns more."""
    fed = 0

    def reset() -> None:
        nonlocal fed
        fed = 0
        log.append(name)

    def feed(token: int) -> np.ndarray:
        nonlocal fed
        assert not gc.isenabled()
        clock.now += cost + fed
        fed += 1
        return np.eye(64)[(token + 1) % 64]

    return bench.stepping(name, block, reset, feed)


@settings(max_examples=8)  # each generation collects garbage first, which takes a tenth of a second
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 5), st.integers(2, 9))
def test_rounds_rotate_and_only_they_count(count: int, rounds: int, warmup: int, prompt: int, length: int) -> None:
    clock, log, names = Clock(), [], "abcd"[:count]
    found = race(
        [fake(name, clock, log) for name in names], [0] * prompt, length, rounds, warmup, clock, progress=False
    )
    assert log == [names[(turn + number) % count] for number in range(warmup + rounds) for turn in range(count)]
    assert list(found) == list(names) and gc.isenabled()
    for timing in found.values():
        assert timing.tokens == list(range(1, length + 1))
        assert timing.first_ns == [sum(1000 + n for n in range(prompt))] * rounds
        assert timing.rest_ns == [[1000 + n for n in range(prompt, prompt + length - 1)]] * rounds


def test_figures_are_medians_of_rounds_and_percentiles_of_tokens() -> None:
    timing = Timing("x", [0], [3_000_000, 1_000_000, 9_000_000], [[1000] * 50, [2000] * 50, [4000] * 49 + [104_000]])
    assert timing.first_token_ms == 3.0 and timing.p50_us == 2.0 and timing.max_us == 104.0
    assert timing.tokens_per_s == 500_000 and timing.rates == [1e6, 5e5, pytest.approx(1e9 / 6000)]
    assert timing.p99_us == 4.0  # the 149th of 150 in order, near enough


def test_unfair_races_are_refused() -> None:
    clock, log = Clock(), []
    a, short = fake("a", clock, log), fake("short", clock, log, block=8)
    for arguments, problem in (
        (([], [0], 4), "different names"),
        (([a, a], [0], 4), "different names"),
        (([a], [], 4), "needs a prompt"),
        (([a], [0], 1), "two tokens"),
        (([a], [0], 4, 0), "one round"),
        (([a, short], [0] * 4, 5), "4 characters and 5 more outgrow the 8 of short"),
    ):
        with pytest.raises(BookError, match=problem):
            race(*arguments, progress=False)
    race([a, short], [0] * 4, 4, progress=False)  # exactly the block
    forgetful = bench.stepping("forgetful", 64, lambda: None, lambda token: np.eye(64)[len(log.append("") or log) % 64])
    with pytest.raises(BookError, match="forgetful writes another text"):
        race([forgetful], [0], 4, progress=False)


def test_every_engine_writes_the_same_text(random_model: Callable[..., GPT], tmp_path: Path) -> None:
    model, prompt = random_model(SMALL), [5, 6, 7]
    export.export_step(model, tmp_path / "step.onnx")
    library = cpu.build(tmp_path)
    with cpu.CStep(library, cpu.pack(model, tmp_path / "model.bin")) as step:
        contenders: Sequence[Contender] = [
            bench.torch_contender(model),
            bench.model_contender(model),
            bench.onnx_contender(tmp_path / "step.onnx"),
            bench.c_contender(step),
        ]
        found = race(contenders, prompt, 13, rounds=2, progress=False)
    assert list(found) == ["torch", "torch_kv", "onnx", "c_fp32"]
    expected = list(generate(model, prompt, 13))
    for timing in found.values():
        assert timing.tokens == expected
        assert 0 < timing.p50_us <= timing.p99_us <= timing.max_us and timing.tokens_per_s > 0


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(BookError), bench.threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise BookError("stop")
    assert torch.get_num_threads() == before
