"""The honest stopwatch: several routes write the same number of characters on the same machine, in turns.

A machine's speed drifts (its clock, its other work), so routes are never timed one after the other. A
round lets each generate once, the order rotates from round to round, and figures are medians over rounds
or percentiles over all tokens. A token's time runs from handing over the token before it to knowing
it, in this process: Python's own microseconds are in it, for every route alike.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lib.cpu import CStep
from lib.errors import BookError
from lib.export import OnnxStep
from lib.gpt import GPT

Step = Callable[[int], "np.ndarray | Tensor"]  # the next token -> logits (V,) over the one after it


@dataclass(frozen=True)
class Contender:
    """A route in the race. ``start`` forgets everything, takes a prompt and returns the logits (V,) after it."""

    name: str
    block: int  # the longest context, in characters
    start: Callable[[Sequence[int]], "np.ndarray | Tensor"]
    feed: Step


@dataclass
class Timing:
    """What the stopwatch saw of one contender, warm-up rounds left out.

    The first token's time holds the prompt's; it counts in ``first_ns`` alone.
    """

    name: str
    tokens: list[int] = field(default_factory=list)  # what it wrote, the same in every round
    first_ns: list[int] = field(default_factory=list)  # (rounds)
    rest_ns: list[list[int]] = field(default_factory=list)  # (rounds, length - 1)

    @property
    def rates(self) -> list[float]:
        """Tokens per second of each round, the first token left out."""
        return [1e9 * len(times) / sum(times) for times in self.rest_ns]

    @property
    def tokens_per_s(self) -> float:
        return statistics.median(self.rates)

    @property
    def p50_us(self) -> float:
        return self._percentile_us(50)

    @property
    def p99_us(self) -> float:
        return self._percentile_us(99)

    @property
    def max_us(self) -> float:
        return self._percentile_us(100)

    @property
    def first_token_ms(self) -> float:
        """Milliseconds from the prompt's first character to the first token written, the median over rounds."""
        return statistics.median(self.first_ns) / 1e6

    def _percentile_us(self, percent: float) -> float:
        return float(np.percentile(np.concatenate(self.rest_ns), percent)) / 1e3


# ---- The race. ----


def race(
    contenders: Sequence[Contender],
    prompt: Sequence[int],
    length: int,
    rounds: int = 5,
    warmup: int = 1,
    clock: Callable[[], int] = time.perf_counter_ns,
    progress: bool = True,
) -> dict[str, Timing]:
    """Let every contender continue ``prompt`` greedily by ``length`` tokens, ``warmup`` + ``rounds`` times.

    ``clock`` returns nanoseconds. Returns a Timing by name, in the order given. Raises BookError for no
    contender or two of one name, an empty prompt, fewer than two tokens or one round, a text that outgrows
    a contender's block (a refill would be timed as a token), or a contender that does not repeat itself.
    """
    _check(contenders, prompt, length, rounds, warmup)
    timings = {contender.name: Timing(contender.name) for contender in contenders}
    with tqdm(total=(warmup + rounds) * len(contenders), desc="race", leave=False, disable=not progress) as bar:
        for number in range(warmup + rounds):
            first = number % len(contenders)
            for contender in (*contenders[first:], *contenders[:first]):
                bar.set_postfix_str(contender.name)
                tokens, times = _generate(contender, prompt, length, clock)
                _record(timings[contender.name], tokens, times if number >= warmup else None)
                bar.update()
    return timings


def _check(contenders: Sequence[Contender], prompt: Sequence[int], length: int, rounds: int, warmup: int) -> None:
    names = [contender.name for contender in contenders]
    if not names or len(set(names)) < len(names):
        raise BookError(f"a race needs contenders of different names, not {names}; name each once")
    if not prompt or length < 2 or rounds < 1 or warmup < 0:
        raise BookError("a race needs a prompt, at least two tokens and one round; ask for more")
    for contender in contenders:
        if len(prompt) + length > contender.block:
            raise BookError(
                f"{len(prompt)} characters and {length} more outgrow the {contender.block} of {contender.name}; "
                "race within the block, where no cache is refilled"
            )


def _record(timing: Timing, tokens: list[int], times: list[int] | None) -> None:
    if timing.tokens and timing.tokens != tokens:
        raise BookError(f"{timing.name} writes another text in each round; check that start forgets everything")
    timing.tokens = tokens
    if times is not None:
        timing.first_ns.append(times[0])
        timing.rest_ns.append(times[1:])


def _generate(
    contender: Contender, prompt: Sequence[int], length: int, clock: Callable[[], int]
) -> tuple[list[int], list[int]]:
    """Return the tokens written and the nanoseconds that each took."""
    tokens, stamps = [], []
    with _no_collection():
        stamps.append(clock())
        logits = contender.start(prompt)
        for number in range(length):
            tokens.append(int(logits.argmax()))
            stamps.append(clock())
            if number < length - 1:
                logits = contender.feed(tokens[-1])
    return tokens, np.diff(stamps).tolist()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect garbage now, and none inside the block."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Let PyTorch use ``n`` threads inside the block; other engines take theirs when they are made."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---- The contenders. Any other engine joins through ``stepping``. ----


def stepping(name: str, block: int, reset: Callable[[], None], feed: Step) -> Contender:
    """Make a contender of an engine that takes one token at a time, the prompt's as well."""

    def start(prompt: Sequence[int]) -> np.ndarray | Tensor:
        reset()
        for token in prompt[:-1]:
            feed(token)
        return feed(prompt[-1])

    return Contender(name, block, start, feed)


def torch_contender(model: GPT, name: str = "torch") -> Contender:
    """PyTorch without a cache: a full pass over all characters so far for each new one; one for the prompt."""
    window: list[int] = []

    @torch.inference_mode()
    def feed(token: int) -> Tensor:
        window.append(token)
        return model(torch.tensor([window]))[0, -1]

    def start(prompt: Sequence[int]) -> Tensor:
        window[:] = prompt[:-1]
        return feed(prompt[-1])

    model.eval()
    return Contender(name, model.config.block, start, feed)


def model_contender(model: GPT | OnnxStep, name: str = "torch_kv", device: str = "cpu") -> Contender:
    """Whatever steps as a model does, one token against a KV cache: PyTorch, or a graph in its place.

    device: where the model is; its logits come back to the host, where the character is chosen.
    """
    cache, position = model.empty_cache(), 0

    def reset() -> None:
        nonlocal cache, position
        cache, position = model.empty_cache(), 0

    @torch.inference_mode()
    def feed(token: int) -> Tensor:
        nonlocal cache, position
        given = torch.tensor([token], device=device), torch.tensor(position, device=device)
        logits, cache = model.step(*given, cache)
        position += 1
        return logits[0].cpu()

    model.eval()
    return stepping(name, model.config.block, reset, feed)


def onnx_contender(path: str | os.PathLike[str], threads: int = 1, name: str = "onnx") -> Contender:
    """An exported step graph of batch 1 in ONNX Runtime, through plain ``run``; several threads spin, as C's do.

    IO binding with two caches used in turn was tried, on a processor with AVX-512 VNNI: 1,550 tokens/s of pocket
    against 1,560, on one thread.
    """
    return model_contender(OnnxStep(path, threads, spin=threads > 1), name)


def c_contender(step: CStep, name: str | None = None) -> Contender:
    """The C program's library; its precision and threads are those it was opened with."""
    return stepping(name or f"c_{step.precision}", step.config.block, step.reset, step.feed)
