"""What the tests share: one thread, repeatable examples, a small learnable text and models of random weights."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Callable

import pytest
import torch
from hypothesis import settings

from lib import corpus
from lib.corpus import Corpus
from lib.errors import run_command
from lib.gpt import GPT, GPTConfig
from lib.text import END_MARK

# A test sees no text of its reader's, so what it finds can hang on one only through what make book has made. Tests of
# that are marked `made`: they alone need repeating after make book on another text (make test-made).
for variable in ("TINYSTORIES_DIR", "WIKITEXT_DIR", "CIFAR10_DIR"):
    os.environ.pop(variable, None)

torch.set_num_threads(1)  # small models run faster so, and sums have one order
settings.register_profile("book", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("book")

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command's main in this process; return its exit code and what it printed."""

    def run(main: Callable[[], None], *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            run_command(main)
        return exit.value.code, *capsys.readouterr()

    return run


def sentences(count: int, seed: int) -> str:
    """Make stories of one sentence each from ten words: easy to learn, hard to repeat by chance."""
    rng, words = random.Random(seed), "the cat sat on a mat and saw one dog".split()
    return "".join(" ".join(rng.choices(words, k=8)) + f".\n{END_MARK}\n" for _ in range(count))


@pytest.fixture(scope="session")
def make_corpus(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int | str], Corpus]:
    """Prepare a corpus of so many learnable sentences for training and for validation, or of another text for it."""

    def make(train: int, val: int | str) -> Corpus:
        folder: Path = tmp_path_factory.mktemp("corpus")
        (folder / "train.txt").write_text(sentences(train, seed=1))
        (folder / "valid.txt").write_text(val if isinstance(val, str) else sentences(val, seed=2))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TINYSTORIES_DIR", str(folder))
            patch.setattr(corpus, "DATA", folder / "prepared")
            return corpus.load_stories("dir")

    return make


@pytest.fixture(scope="session")
def small_corpus(make_corpus: Callable[[int, int | str], Corpus]) -> Corpus:
    return make_corpus(300, 40)


@pytest.fixture(scope="session")
def random_model() -> Callable[..., GPT]:
    """Make a model whose every weight, gain and bias is random, so that none can be forgotten."""

    def make(config: GPTConfig, seed: int = 0) -> GPT:
        torch.manual_seed(seed)
        model = GPT(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        return model

    return make
