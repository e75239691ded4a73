"""One measure for every route: each character once, in the right context, with honest intervals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lib import corpus, evaluate
from lib.checkpoint import save_model
from lib.corpus import Corpus
from lib.errors import BookError
from lib.evaluate import (
    GATE_PCT,
    Logits,
    Scores,
    compare,
    score,
    score_corpus,
    torch_logits,
    torch_step_logits,
    word_ends,
)
from lib.files import write_json
from lib.gpt import CONFIGS, GPT, GPTConfig
from lib.text import ALPHABET, END, END_MARK, SIZE, encode

Command = Callable[..., tuple[int, str, str]]
RNG = np.random.default_rng
SMALL = GPTConfig(n_layer=2, n_head=2, n_embd=32, block=16)
LAST_IS_NAN = np.where(np.arange(16) == 15, np.nan, 0)[:, None]  # at a window's last position alone
IMPOSSIBLE = np.array([np.inf] + [0.0] * (SIZE - 1))  # rules symbol 0 out


def uniform(tokens: np.ndarray) -> np.ndarray:
    return np.zeros((*tokens.shape, SIZE), dtype=np.float32)


def counting(classes: int) -> Logits:
    """A route for the text 0, 1, 2, ... that loses 0.01 nats for each character of context it had.

    It bets on the right character, so a wrong target shows as a loss of its own.
    """

    def logits(tokens: np.ndarray) -> np.ndarray:
        right = np.exp(-0.01 * np.arange(1, tokens.shape[1] + 1))  # the probability at each position
        odds = np.log(right * (classes - 1) / (1 - right))
        return odds[:, None] * np.eye(classes)[tokens + 1]

    return logits


def contexts(characters: int, block: int, stride: int, batch: int) -> list[int]:
    """How many characters each prediction of a text could see."""
    symbols = np.arange(characters + 1, dtype=np.uint16)
    scores = score(counting(characters + 2), symbols, block, stride, by_story=False, batch=batch, progress=False)
    assert np.array_equal(scores.symbols, symbols[1:])
    found = np.round(scores.nll * 100).astype(int)
    np.testing.assert_allclose(scores.nll * 100, found, atol=1e-6)
    return found.tolist()


# ---- Scoring. ----


@pytest.mark.parametrize(
    "stride, expected",
    [
        (4, [*range(1, 9), *range(5, 9), *range(5, 9), 7, 8]),
        (8, [*range(1, 9), *range(1, 9), 7, 8]),
    ],
)
def test_contexts_by_hand(stride: int, expected: list[int]) -> None:
    """18 predictions, block 8: windows from 0, 4 and 8 (or 0 and 8), then one flush with the end."""
    assert contexts(18, 8, stride, batch=2) == expected


@given(st.integers(1, 12), st.data(), st.integers(0, 80), st.integers(1, 5))
def test_every_character_is_scored_once_in_the_longest_window_that_is_due(
    block: int, data: st.DataObject, more: int, batch: int
) -> None:
    stride, characters = data.draw(st.integers(1, block)), block + more
    starts = [*range(0, more, stride), more]
    expected = [i - min(s for s in starts if s + block >= i) for i in range(1, characters + 1)]
    found = contexts(characters, block, stride, batch)
    assert found == expected
    assert found[:block] == list(range(1, block + 1))
    assert all(block - stride + 1 <= context <= block for context in found[block:])


def test_a_uniform_route_scores_log2_of_the_alphabet() -> None:
    scores = score(uniform, RNG(0).integers(0, SIZE, 1001).astype(np.uint16), 16, 8, by_story=False, progress=False)
    assert len(scores.nll) == 1000
    assert scores.bpc == pytest.approx(math.log2(97), abs=1e-6)
    assert scores.char_perplexity == pytest.approx(97, abs=1e-3)
    assert scores.bpc_interval() == pytest.approx((scores.bpc, scores.bpc))


def test_a_perfect_route_scores_nothing() -> None:
    symbols = (np.arange(1001) * 5 % SIZE).astype(np.uint16)
    route = lambda tokens: 50.0 * np.eye(SIZE)[(tokens + 5) % SIZE]
    scores = score(route, symbols, 16, 8, by_story=False, progress=False)
    assert 0 <= scores.bpc < 1e-9


@pytest.mark.parametrize("config", [SMALL, CONFIGS["nano"]], ids=["small", "nano"])
def test_the_step_route_scores_as_the_full_one(random_model: Callable[..., GPT], config: GPTConfig) -> None:
    model, block = random_model(config), config.block
    symbols = RNG(0).integers(0, SIZE, 5 * block + 8).astype(np.uint16)
    full, step, one = (
        score(route, symbols, block, block, by_story=False, batch=batch, progress=False)
        for route, batch in ((torch_logits(model), 32), (torch_step_logits(model), 32), (torch_logits(model), 1))
    )
    assert np.abs(step.nll - full.nll).max() < 1e-4
    assert np.abs(one.nll - full.nll).max() < 1e-5
    assert full.nll.std() > 0.1  # the characters differ, so the agreement says something


def test_the_first_characters_of_validation_are_scored(small_corpus: Corpus) -> None:
    scores = score_corpus(uniform, small_corpus, characters=100, block=16, stride=8, progress=False)
    assert np.array_equal(scores.symbols, small_corpus.val[1:101])
    assert len(np.unique(scores.unit)) == np.count_nonzero(scores.symbols[:-1] == END) + 1 > 2
    everything = score_corpus(uniform, small_corpus, characters=10**9, block=16, stride=8, progress=False)
    assert len(everything.nll) == len(small_corpus.val) - 1


def test_units_are_stories_or_windows() -> None:
    symbols = encode(f"ab{END_MARK}{END_MARK}cd{END_MARK}e")
    assert score(uniform, symbols, 4, 2, by_story=True, progress=False).unit.tolist() == [0, 0, 1, 2, 2, 2, 3]
    windows = score(uniform, np.zeros(2501, np.uint16), 4, 4, by_story=False, progress=False)
    assert np.bincount(windows.unit).tolist() == [1024, 1024, 452]


def test_words_by_hand() -> None:
    symbols = encode(f"One day, Tom ran.\n\nHe  fell{END_MARK}Ow")
    assert word_ends(symbols).sum() == 7
    assert np.flatnonzero(word_ends(symbols)).tolist() == [2, 7, 11, 16, 20, 26, 29]
    scores = Scores(np.full(30, 0.3), symbols, np.zeros(30, int), 1)
    assert scores.word_perplexity == pytest.approx(math.exp(30 * 0.3 / 7))


@given(st.lists(st.sampled_from([*ALPHABET, " ", "\n", END_MARK]), min_size=1).map("".join))
def test_words_are_those_of_split(text: str) -> None:
    assert word_ends(encode(text)).sum() == len(text.replace(END_MARK, " ").split())


@pytest.mark.parametrize(
    "length, stride, route, complaint",
    [
        (16, 8, uniform, "the text has 16 characters and the block is 16; score a longer text"),
        (99, 0, uniform, "the stride 0 is outside 1 to 16"),
        (99, 17, uniform, "the stride 17 is outside 1 to 16"),
        (99, 8, lambda tokens: uniform(tokens) * np.nan, "the route returned logits that are not finite"),
        (99, 8, lambda tokens: uniform(tokens) - IMPOSSIBLE, "the route returned logits that are not finite"),
        (99, 8, lambda tokens: uniform(tokens) + LAST_IS_NAN, "the route returned logits that are not finite"),
    ],
)
def test_what_cannot_be_scored_is_told(length: int, stride: int, route: Logits, complaint: str) -> None:
    with pytest.raises(BookError, match=complaint):
        score(route, np.zeros(length, np.uint16), 16, stride, by_story=False, progress=False)


# ---- Intervals and comparison. ----


def made(nll: np.ndarray, per_unit: int = 100, text: str = "abcd ") -> Scores:
    """Scores of a repeated text, in units of so many characters."""
    symbols = np.resize(encode(text), len(nll))
    return Scores(nll, symbols, np.arange(len(nll)) // per_unit, 8)


def test_the_interval_holds_the_score_and_shrinks_with_the_square_root_of_the_data() -> None:
    nll = RNG(1).exponential(size=400_000)
    widths = []
    for size in (4_000, 400_000):
        scores = made(nll[:size])
        low, high = scores.bpc_interval()
        assert low < scores.bpc < high
        assert scores.bpc_interval() == (low, high)  # the same at every call
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(10, rel=0.3)
    assert widths[1] == pytest.approx(2 * 1.96 / math.sqrt(400_000) / math.log(2), rel=0.15)


def test_the_interval_knows_that_a_story_is_one_observation() -> None:
    """Characters that rise and fall together are worth no more than their stories."""
    level = RNG(2).normal(2.0, 0.5, size=200)
    low, high = made(np.repeat(level, 100)).bpc_interval()
    assert high - low == pytest.approx(2 * 1.96 * level.std() / math.sqrt(200) / math.log(2), rel=0.15)


def test_a_route_beside_itself_is_no_worse() -> None:
    scores = made(RNG(3).exponential(size=5_000))
    result = compare(scores, scores)
    assert result.ppl_increase_pct == result.word_ppl_increase_pct == 0.0
    assert result.ppl_interval == (0.0, 0.0)
    assert result.passes_per_character and result.passes_per_word and result.passes


def test_two_per_cent_a_character_are_ten_a_word_and_fail() -> None:
    """The interval is paired: a constant shift is known exactly, however much the characters vary."""
    nll = RNG(3).exponential(size=5_000)
    result = compare(made(nll), made(nll + math.log(1.02)))
    assert result.ppl_increase_pct == pytest.approx(2.0)
    assert result.word_ppl_increase_pct == pytest.approx(100 * (1.02**5 - 1))  # 10.4: five characters a word
    assert result.ppl_interval == pytest.approx((2.0, 2.0))
    assert (result.passes_per_character, result.passes_per_word, result.passes) == (True, False, False)


@given(st.floats(0.5, 1.5), st.sampled_from(["abcd ", "a ", "To be, or not\n"]))
def test_the_gate_is_ten_per_cent_on_both_counts(ratio: float, text: str) -> None:
    nll = np.ones(4_200)
    scores, worse = made(nll, text=text), made(nll + math.log(ratio), text=text)
    words = len(text.split()) * 4_200 / len(text)
    per_word = 100 * (ratio ** (4_200 / words) - 1)
    assume(abs(per_word - GATE_PCT) > 1e-6)
    result = compare(scores, worse)
    assert result.ppl_increase_pct == pytest.approx(100 * (ratio - 1), abs=1e-9)
    assert result.word_ppl_increase_pct == pytest.approx(per_word, abs=1e-6)
    assert result.passes == (result.ppl_increase_pct <= 10.0 and per_word <= 10.0)


def test_the_interval_of_an_increase_holds_it() -> None:
    nll, noise = RNG(4).exponential(size=(2, 50_000))
    result = compare(made(nll), made(nll + 0.02 * noise))
    assert result.ppl_interval[0] < result.ppl_increase_pct < result.ppl_interval[1]
    assert result.ppl_interval[1] - result.ppl_interval[0] == pytest.approx(2 * 1.96 * 2 / math.sqrt(50_000), rel=0.15)
    assert compare(made(nll), made(nll + 0.02 * noise)) == result


def test_scorings_of_different_texts_or_strides_are_not_compared() -> None:
    nll = np.ones(500)
    others = (made(nll, text="abce "), made(nll[:-1]), Scores(nll, made(nll).symbols, made(nll).unit, 4))
    for other in others:
        with pytest.raises(BookError, match="different texts or strides"):
            compare(made(nll), other)


def test_a_text_without_stories_is_resampled_by_windows(make_corpus: Callable[[int, int | str], Corpus]) -> None:
    plain = score_corpus(uniform, make_corpus(10, "0123456789" * 300), 2999, 16, 8, progress=False)
    assert np.bincount(plain.unit).tolist() == [1024, 1024, 951]


def test_divergence_by_hand() -> None:
    reference, route = np.log([[0.5, 0.5], [0.5, 0.5]]), np.log([[0.25, 0.75], [0.5, 0.5]])
    assert evaluate.divergence(reference - 1, route + 7) == pytest.approx((1 - math.log2(3) / 2) / 2)


def test_scores_beside_are_those_of_fp32_and_of_the_route(
    random_model: Callable[..., GPT], small_corpus: Corpus
) -> None:
    models = random_model(SMALL), random_model(SMALL, 1)
    found = evaluate.scores_beside(models[0], torch_logits(models[1]), small_corpus, 300)
    own, other = (score_corpus(torch_logits(m), small_corpus, 300, 16, 8, progress=False) for m in models)
    assert (found["fp32_bpc"], found["bpc"]) == pytest.approx((own.bpc, other.bpc), abs=1e-5)
    assert found["ppl_increase_pct"] == pytest.approx(compare(own, other).ppl_increase_pct, abs=1e-3)
    assert abs(own.bpc - other.bpc) > 0.001


# ---- The command. ----


def test_the_command_scores_a_checkpoint_and_fills_its_card(
    command: Command, random_model: Callable[..., GPT], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "DATA", tmp_path / "prepared")
    monkeypatch.setitem(corpus.BUILTIN_STORIES, "val", 3)
    monkeypatch.setitem(corpus.BUILTIN_STORIES, "train", 3)
    for collection in (corpus.STORIES, corpus.WIKITEXT):
        monkeypatch.delenv(collection.variable, raising=False)
    model, path = random_model(SMALL), tmp_path / "small.safetensors"
    save_model(path, model)
    write_json(path.with_suffix(".json"), {"step": 7, "scores": {"stories": {"bpc": 1.0}}})
    code, told, _ = command(evaluate.main, path, "--characters", 1000, "--write-card")
    assert code == 0
    card = json.loads(path.with_suffix(".json").read_text())
    scores = score_corpus(torch_logits(model), corpus.load_builtin(), 1000, 16, 8, progress=False)
    assert card["step"] == 7
    assert list(card["scores"]) == ["stories", "builtin"]  # a text that is not at hand now keeps its score
    assert card["scores"]["builtin"] == evaluate.summary(scores)
    assert card["scores"]["builtin"]["bpc"] == pytest.approx(scores.bpc, abs=1e-5)
    assert card["scores"]["builtin"]["characters"] == 1000
    assert f"builtin: characters 1000, stride 8, bpc {scores.bpc:.3f}" in told

    write_json(path.with_suffix(".json"), {"scores": {"corpus": "builtin", "bpc": 1.0}})
    code, _, told = command(evaluate.main, path, "--write-card")
    assert code == 2 and "holds scores beside another model" in told
    missing = tmp_path / "missing"
    path.with_suffix(".json").unlink()
    for arguments, complaint in (
        ((path, "--characters", 15), "--characters is 15; it must be at least the model's block, 16"),
        ((path, "--write-card"), "the checkpoint's card"),
        ((missing,), "does not exist"),
    ):
        code, _, told = command(evaluate.main, *arguments)
        assert (code, told.count("\n")) == (2, 1)
        assert complaint in told
