"""How good is a model? One measure for every route, from PyTorch to RTL.

A route is any callable that maps tokens (B, T) to logits (B, T, V). It is scored by the negative
log-likelihood it gives to every character of a text; bits per character, perplexities, confidence
intervals and the quality gate all follow from that one array.

    python -m lib.evaluate data/checkpoints/pocket.safetensors --characters 1000000
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from lib.checkpoint import load_model
from lib.corpus import SOURCES, Corpus, load_all
from lib.errors import BookError, run_command
from lib.files import read_json, write_json
from lib.gpt import GPT
from lib.text import ALPHABET, END

Logits = Callable[[np.ndarray], np.ndarray]  # int64 (B, T) -> float32 (B, T, V)

GATE_PCT = 10.0  # section 2.3 of the report: perplexity at most 110 % of FP32's
RESAMPLES = 1000
WINDOW_UNIT = 1024  # characters resampled together where a text has no stories


def torch_logits(model: GPT) -> Logits:
    """Make a route of a PyTorch model: the full pass."""

    @torch.inference_mode()
    def logits(tokens: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(tokens).to(model.token.weight.device)).float().cpu().numpy()

    return logits


def torch_step_logits(model: GPT) -> Logits:
    """Make a route of a PyTorch model: one token a step against a KV cache, as hardware does it."""

    @torch.inference_mode()
    def logits(tokens: np.ndarray) -> np.ndarray:
        cache, steps = model.empty_cache(len(tokens)), []
        for position, column in enumerate(torch.from_numpy(tokens).T.to(cache.device)):
            step, cache = model.step(column, torch.tensor(position, device=cache.device), cache)
            steps.append(step)
        return torch.stack(steps, dim=1).float().cpu().numpy()

    return logits


# ---- Scoring. ----


@dataclass(frozen=True)
class Scores:
    """What a route gave to each character of a text but the first.

    nll: float64 (N,), nats; symbols: uint16 (N,), the characters scored; unit: int64 (N,), which
    story (or window) each belongs to, for the bootstrap.
    """

    nll: np.ndarray
    symbols: np.ndarray
    unit: np.ndarray
    stride: int

    @property
    def bpc(self) -> float:
        """Bits per character."""
        return float(self.nll.mean() / math.log(2))

    @property
    def char_perplexity(self) -> float:
        return _exp(self.nll.mean())

    @property
    def word_perplexity(self) -> float:
        """exp(NLL / words), words counted by ``word_ends``."""
        return _exp(self.nll.sum() / max(1, word_ends(self.symbols).sum()))

    def bpc_interval(self) -> tuple[float, float]:
        """Return the 95 % bootstrap confidence interval of ``bpc``."""
        nll, characters = _per_unit(self.unit, self.nll, np.ones_like(self.nll))
        return _interval(nll, characters, lambda ratio: ratio / math.log(2))


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf  # a route so broken still gets a row in the table


def score(
    logits: Logits, symbols: np.ndarray, block: int, stride: int, by_story: bool, batch: int = 32, progress: bool = True
) -> Scores:
    """Score symbols (N + 1,) with windows of ``block`` characters that advance by ``stride``.

    Each window scores its last ``stride`` predictions (the first window all of them), so every
    character after the first block is predicted from at least block - stride + 1 others. The book's
    stride is block/2 for full-pass routes, and the block itself (windows side by side) for routes
    that can only step. ``by_story`` resamples whole stories in the bootstrap, else windows.
    Raises BookError if the text is not longer than the block or the stride is outside 1..block.
    """
    if len(symbols) <= block:
        raise BookError(f"the text has {len(symbols)} characters and the block is {block}; score a longer text")
    if not 1 <= stride <= block:
        raise BookError(f"the stride {stride} is outside 1 to {block}, the block")
    last = len(symbols) - 1 - block
    starts = np.append(np.arange(0, last, stride), last)  # the last window is flush with the end
    nll = np.empty(len(symbols) - 1)
    done = 0  # characters scored so far
    for some in tqdm(
        np.split(starts, range(batch, len(starts), batch)), desc="scoring", leave=False, disable=not progress
    ):
        windows = np.stack([symbols[s : s + block + 1] for s in some]).astype(np.int64)
        losses = _losses(logits(windows[:, :-1]), windows[:, 1:])
        for start, loss in zip(some, losses):
            nll[done : start + block] = loss[done - start :]
            done = start + block
    scored = np.asarray(symbols[1:])
    return Scores(nll, scored, _units(scored, by_story), stride)


def score_corpus(logits: Logits, corpus: Corpus, characters: int, block: int, stride: int, **options) -> Scores:
    """Score the first ``characters`` of a corpus's validation text."""
    by_story = corpus.meta["splits"]["val"]["stories"] > 0
    return score(logits, corpus.val[: characters + 1], block, stride, by_story, **options)


def _losses(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the cross-entropy of each prediction in nats: (B, T, V), (B, T) -> (B, T)."""
    flat = torch.from_numpy(np.ascontiguousarray(logits)).flatten(0, 1)
    losses = F.cross_entropy(flat, torch.from_numpy(targets).flatten(), reduction="none")
    if not torch.isfinite(losses).all():
        raise BookError("the route returned logits that are not finite; check its weights and scales")
    return losses.view(targets.shape).numpy()


_BLANK = np.isin(np.arange(END + 1), [ALPHABET.index(" "), ALPHABET.index("\n"), END])


def word_ends(symbols: np.ndarray) -> np.ndarray:
    """Mark where words end, bool (N,): a word is a run of characters other than blank, newline, END.

    Ends of lines count as no words here; WikiText's own convention adds one a line.
    """
    blank = _BLANK[symbols]
    return ~blank & np.append(blank[1:], True)


def _units(symbols: np.ndarray, by_story: bool) -> np.ndarray:
    if not by_story:
        return np.arange(len(symbols)) // WINDOW_UNIT
    return np.cumsum(np.append(False, symbols[:-1] == END))  # a story ends with its END


# ---- Confidence and comparison. ----


def _per_unit(unit: np.ndarray, *values: np.ndarray) -> list[np.ndarray]:
    return [np.bincount(unit, weights=value) for value in values]


def _interval(
    sums: np.ndarray, counts: np.ndarray, transform: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, float]:
    """Bootstrap the ratio of two sums over units: resample units with replacement, 95 % percentiles."""
    draws = np.random.default_rng(0).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=RESAMPLES)
    ratios = transform((draws @ sums) / np.maximum(draws @ counts, 1))
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Comparison:
    """A route beside FP32 on the same characters. Increases in per cent, interval at 95 %, paired."""

    ppl_increase_pct: float
    ppl_interval: tuple[float, float]
    word_ppl_increase_pct: float

    @property
    def passes_per_character(self) -> bool:
        return self.ppl_increase_pct <= GATE_PCT

    @property
    def passes_per_word(self) -> bool:
        return self.word_ppl_increase_pct <= GATE_PCT

    @property
    def passes(self) -> bool:
        """The quality gate: per character and per word."""
        return self.passes_per_character and self.passes_per_word


def compare(fp32: Scores, route: Scores) -> Comparison:
    """Compare two scorings of the same text, taken with the same stride. BookError if they differ."""
    if fp32.stride != route.stride or not np.array_equal(fp32.symbols, route.symbols):
        raise BookError("the two scorings are of different texts or strides; score both in the same way")
    words = word_ends(fp32.symbols)
    difference = route.nll - fp32.nll
    loss, characters = _per_unit(fp32.unit, difference, np.ones_like(difference))

    def increase(ratio):
        return 100 * np.expm1(ratio)

    return Comparison(
        float(increase(loss.sum() / characters.sum())),
        _interval(loss, characters, increase),
        float(increase(loss.sum() / words.sum())),
    )


# ---- Logits beside logits: finer than perplexity, and quicker to see. ----


def agreement(reference: np.ndarray, logits: np.ndarray) -> float:
    """Return the share of positions (..., V) at which both find the same character likeliest."""
    return float((reference.argmax(axis=-1) == logits.argmax(axis=-1)).mean())


def divergence(reference: np.ndarray, logits: np.ndarray) -> float:
    """Return the mean Kullback-Leibler divergence from the reference (..., V), in bits a character.

    It is what coding text drawn from the reference would cost more under the route.
    """
    expected, found = (F.log_softmax(torch.from_numpy(x).double(), dim=-1) for x in (reference, logits))
    return float((expected.exp() * (expected - found)).sum(dim=-1).mean() / math.log(2))


# ---- The command. ----


def summary(scores: Scores) -> dict[str, float | int]:
    """Collect a scoring's figures for a card or a table."""
    low, high = scores.bpc_interval()
    return {
        "characters": len(scores.nll),
        "stride": scores.stride,
        "bpc": round(scores.bpc, 5),
        "bpc_low": round(low, 5),
        "bpc_high": round(high, 5),
        "char_perplexity": round(scores.char_perplexity, 4),
        "word_perplexity": round(scores.word_perplexity, 3),
    }


def check_characters(characters: int, block: int) -> None:
    """Raise BookError if ``--characters`` asks for too few to score: known before hours of training, not after."""
    if characters < block:
        raise BookError(f"--characters is {characters}; it must be at least the model's block, {block}")


def scores_beside(model: GPT, logits: Logits, data: Corpus, characters: int, batch: int = 32) -> dict[str, Any]:
    """Score a route beside the FP32 model that it was made of, ``batch`` windows at a time, for its card."""
    block = model.config.block
    fp32, route = (
        score_corpus(some, data, characters, block, block // 2, batch=batch) for some in (torch_logits(model), logits)
    )
    compared = compare(fp32, route)
    return {
        "corpus": data.name,
        "characters": len(route.nll),
        "bpc": round(route.bpc, 5),
        "fp32_bpc": round(fp32.bpc, 5),
        "ppl_increase_pct": round(compared.ppl_increase_pct, 3),
        "interval": [round(end, 3) for end in compared.ppl_interval],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.evaluate", description="Score a checkpoint.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--characters", type=int, default=100_000, help="validation characters to score of each text")
    parser.add_argument("--source", choices=SOURCES, default="auto", help="where the text comes from")
    parser.add_argument("--write-card", action="store_true", help="add the scores to the checkpoint's JSON card")
    given = parser.parse_args()
    model = load_model(given.checkpoint)
    block = model.config.block
    check_characters(given.characters, block)
    path = given.checkpoint.with_suffix(".json")
    card = read_json(path, "the checkpoint's card") if given.write_card else {}  # missed now, not after the scoring
    kept = card.get("scores", {})  # of texts that are not at hand now
    if "corpus" in kept:
        raise BookError(f"{path} holds scores beside another model; leave --write-card away")
    scores = {}
    for name, corpus in load_all(given.source).items():
        scores[name] = summary(score_corpus(torch_logits(model), corpus, given.characters, block, block // 2))
        print(f"{name}: " + ", ".join(f"{figure} {value}" for figure, value in scores[name].items()))
    if given.write_card:
        write_json(path, card | {"scores": kept | scores})


if __name__ == "__main__":
    run_command(main)
