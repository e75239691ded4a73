"""The integer GPT: its two forms agree, its arithmetic is close to the exact one, and its files cannot lie."""

from __future__ import annotations

import dataclasses
import math
from itertools import islice
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib import stories
from lib.checkpoint import load_shipped, save_model
from lib.corpus import Corpus
from lib.errors import BookError
from lib.evaluate import compare, score, torch_logits
from lib.files import read_json
from lib.gpt import GPT, GPTConfig, window_start
from lib.ladder import INT8, Rung, climb, load_golden
from lib.silicon import approximations, calibrate, golden, model_file
from lib.silicon.approximations import APPROXIMATIONS, Approximate
from lib.silicon.golden import Golden, Shape
from lib.silicon.model_file import Calibrated
from lib.text import END_MARK, encode

SMALL = GPTConfig(n_layer=2, n_head=2, n_embd=32, block=16)


def windows(count: int, config: GPTConfig = SMALL, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.vocab, (count, config.block))


@pytest.fixture(scope="module")
def small(random_model: Callable[..., GPT]) -> Calibrated:
    return calibrate.calibrate(random_model(SMALL), windows(8))


# ---- The specification: one token at a time, and whole windows. ----

SHAPES = st.builds(
    lambda layers, heads, each, half, vocab, bits: Shape(layers, heads * each, heads, 2 * half, vocab, bits),
    *(st.integers(1, 2), st.integers(1, 3), st.sampled_from((2, 4, 8)), st.integers(1, 4), st.integers(2, 9)),
    st.integers(4, 8),
)


@given(SHAPES, st.integers(0, 2**32 - 1), st.data())
def test_a_step_gives_what_its_window_gives_also_after_a_refill(shape: Shape, seed: int, data: st.DataObject) -> None:
    model = golden.random_model(shape, seed)
    tokens = data.draw(st.lists(st.integers(0, shape.vocab - 1), min_size=1, max_size=3 * shape.block))
    machine = Golden(model)
    for n, token in enumerate(tokens):
        window = np.array([tokens[window_start(n, shape.block) : n + 1]])
        assert np.array_equal(machine.feed(token), golden.logits(model, window)[0, -1])


def test_a_token_outside_the_vocabulary_leaves_the_context_as_it_is() -> None:
    model = golden.random_model(Shape(1, 8, 2, 4, 5), seed=0)
    disturbed, calm = Golden(model), Golden(model)
    for token in (1, 4, 0, 2, 3, 3):
        for foreign in (-1, 5):
            with pytest.raises(BookError, match=f"the token {foreign} is outside 0 to 4"):
                disturbed.feed(foreign)
        assert np.array_equal(disturbed.feed(token), calm.feed(token))


# ---- The arithmetic beside the exact functions. ----


@given(st.lists(st.floats(1e-6, 30_000), min_size=1, max_size=20))
def test_a_dyadic_factor_is_close(factors: list[float]) -> None:
    multiplier, shift = golden.dyadic(np.array(factors))
    assert 2**15 <= multiplier.max() < 2**16 and 1 <= shift <= golden.LARGEST_SHIFT
    assert np.abs(multiplier / 2**shift - factors).max() <= 2**-16 * max(factors)


@pytest.mark.parametrize("factor", [0.0, 1e9, 1e-12, math.nan])
def test_a_factor_out_of_reach_is_refused(factor: float) -> None:
    with pytest.raises(BookError, match="calibrate on text"):
        golden.dyadic(np.array([factor]))


@given(st.integers(1, 2**48 - 1), st.integers(1, 8))
def test_the_leading_one_and_the_bits_below_it(x: int, bits: int) -> None:
    exponent, fraction = (int(part[0]) for part in golden.leading_one(np.array([x]), bits))
    unit = 2.0 ** (exponent - bits)
    assert exponent == x.bit_length() - 1 and 0 <= x - ((1 << bits) + fraction) * unit < unit


@given(st.integers(1, 40), st.integers(0, 2**47), st.integers(0, 2**32 - 1))
def test_normalise_divides_by_the_root_mean_square(width: int, epsilon: int, seed: int) -> None:
    model = golden.random_model(Shape(1, width, 1, 2, 2), seed=0)
    model = dataclasses.replace(model, epsilon=max(1, epsilon >> seed % 48))
    rng = np.random.default_rng(seed)
    r = np.rint(rng.normal(0, 2.0 ** rng.integers(0, 14), (5, width))).clip(-(2**15), 2**15 - 1).astype(np.int64)
    exact = golden.NORM_LEVELS * math.sqrt(width) * r / np.sqrt((r * r).sum(-1, keepdims=True) + model.epsilon)
    error = golden.normalise(model, r) - exact.clip(-128, 127)
    assert (np.abs(error) <= 0.5 + 0.004 * np.abs(exact)).all()  # half a step of the table is 0.2 % at most


@given(st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=60))
def test_base_two_weights_are_close_to_powers_of_two(scores: list[int]) -> None:
    row = np.array(scores)
    exact = 256 * 2.0 ** ((row - row.max()) / 2**golden.FRACTION)
    weights = golden.base2_weights(row)
    assert weights.max() == 255
    assert (np.abs(weights - exact) <= 1 + 0.0615 * exact).all()  # 1 - f/2 lies up to 6.15 % above 2^-f


def test_the_reciprocal_is_close() -> None:
    total = np.arange(255, 257 * 255)
    exponent, fraction = golden.leading_one(total, 8)
    found = golden.reciprocal_table()[fraction] / 2.0 ** (16 + exponent)
    assert np.abs(found * total - 1).max() < 1 / 500


# ---- What check proves. ----


def broken(model: golden.IntegerModel, **layer: object) -> golden.IntegerModel:
    return dataclasses.replace(model, layers=(dataclasses.replace(model.layers[0], **layer), *model.layers[1:]))


def test_an_overflow_is_named_with_its_tensor_and_bits(small: Calibrated) -> None:
    model = small.model
    down = model.layers[0].down
    full = dataclasses.replace(down, weight=np.full_like(down.weight, 127), bias=np.full_like(down.bias, 2**23))
    loud = {"token": np.full_like(model.token, 127), "position": np.full_like(model.position, -127)}
    few = dataclasses.replace(model.shape, weight_bits=4)
    faults = {
        "layers.0.down may need 25 bits where the accumulator has 24": broken(model, down=full),
        "token and position add up to 17 bits": dataclasses.replace(model, **loud, embed_shift=8),
        "layers.0.qkv.weight reaches 127, beyond 4 bits": dataclasses.replace(model, shape=few),
        "a block of 258 positions could overflow": dataclasses.replace(
            model, shape=dataclasses.replace(model.shape, block=258)
        ),
        "layers.0.mix_shift is 4, outside 0 to 3": broken(model, mix_shift=4),
        r"layers.0.gelu is int64\[256\] where int8": broken(model, gelu=model.layers[0].gelu.astype(np.int64)),
    }
    golden.check(model)
    for sentence, fault in faults.items():
        with pytest.raises(BookError, match=sentence):
            golden.check(fault)


# ---- Calibration. ----


@pytest.mark.parametrize("activation, bits", [("gelu", 8), ("relu", 8), ("gelu", 4)])
def test_folding_is_exact_and_all_approximations_together_are_the_integer_model(
    random_model: Callable[..., GPT], activation: str, bits: int
) -> None:
    model = random_model(dataclasses.replace(SMALL, activation=activation))
    with torch.no_grad():
        model.blocks[0].feed_forward.up.weight[3] = 0  # as pruning leaves it
    calibrated = calibrate.calibrate(model, windows(8), bits)
    tokens, folded, names = windows(3, seed=1), calibrate.fold(model), list(APPROXIMATIONS)
    exact = torch_logits(model)(tokens)
    assert np.abs(Approximate(folded, calibrated, []).logits(tokens) - exact).max() < 1e-4
    assert np.array_equal(Approximate(folded, calibrated, names).logits(tokens), calibrated.logits(tokens))
    errors = [np.abs(Approximate(folded, calibrated, names[:n]).logits(tokens) - exact).mean() for n in range(1, 8)]
    assert all(error > 1e-4 for error in errors) and errors[-1] < (0.03 if bits == 8 else 0.3) * np.abs(exact).mean()


def test_fewer_bits_cost_more_and_gptq_earns_its_keep(
    random_model: Callable[..., GPT], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokens = random_model(SMALL), windows(8, seed=1)
    exact = torch_logits(model)(tokens)

    def error(bits: int) -> float:
        return float(np.abs(calibrate.calibrate(model, windows(32), bits).logits(tokens) - exact).mean())

    eight, six, four = error(8), error(6), error(4)
    monkeypatch.setattr(calibrate, "gptq_round", lambda weight, *_: weight)
    assert eight < six < four < error(4)


def test_ranges_spend_no_steps_on_what_the_activation_levels_out() -> None:
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    plain, through = calibrate.best_asymmetric(x), calibrate.best_asymmetric(x, torch.relu)
    assert through.scale < 0.7 * plain.scale and through.first == -128 and through.last == 127
    assert calibrate.best_symmetric(torch.zeros(5)).scale > 0


def test_bad_input_to_calibration_ends_in_a_sentence(random_model: Callable[..., GPT]) -> None:
    model = random_model(SMALL)
    with pytest.raises(BookError, match="weights of 9 bits"):
        calibrate.calibrate(model, windows(2), 9)
    with pytest.raises(BookError, match="cut them to the block, 16"):
        calibrate.calibrate(model, windows(2)[:, :8])
    long = dataclasses.replace(SMALL, block=300)
    with pytest.raises(BookError, match="257 positions are the most"):
        calibrate.calibrate(random_model(long), windows(1, long))


def test_calibration_is_deterministic_and_the_command_writes_its_card(
    random_model: Callable[..., GPT], small_corpus: Corpus, tmp_path: Path, command, monkeypatch
) -> None:
    model = random_model(SMALL)
    save_model(tmp_path / "model.safetensors", model)
    monkeypatch.setattr(calibrate, "load_stories", lambda source: small_corpus)
    for name in ("a", "b"):
        options = ("--out", tmp_path / f"{name}.safetensors", "--characters", 500)
        code, printed, _ = command(calibrate.main, tmp_path / "model.safetensors", *options)
        assert code == 0 and "perplexity" in printed
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    calibrated, card = model_file.load(tmp_path / "a.safetensors")
    assert card["calibration"]["characters"] == calibrate.CHARACTERS and card["model"]["block"] == SMALL.block
    assert calibrated.model.shape == Shape(2, 32, 2, 16, SMALL.vocab)
    code, _, error = command(calibrate.main, tmp_path / "model.safetensors", "--out", tmp_path / "a.bin")
    assert code == 2 and "ends in .safetensors" in error
    code, _, error = command(calibrate.main, tmp_path / "model.safetensors", "--out", tmp_path / "model.safetensors")
    assert code == 2 and "--out is the checkpoint itself" in error


# ---- The shipped models. ----


@pytest.fixture(scope="module")
def symbols() -> np.ndarray:
    """The first 10,241 characters of built-in stories, of a world that is in no corpus."""
    return encode("".join(story + END_MARK for story in islice(stories.stories(7, 100), 40)))[:10_241]


@pytest.mark.parametrize("name", ["nano", "pocket"])
def test_the_integer_model_costs_little(name: str, symbols: np.ndarray) -> None:
    model, _ = load_shipped(name)
    calibrated, _ = model_file.load_shipped(name)
    block = model.config.block
    routes = (torch_logits(model), calibrated.logits)
    fp32, integer = (score(route, symbols, block, block, True, batch=8, progress=False) for route in routes)
    assert compare(fp32, integer).ppl_increase_pct < 0.8


def test_the_integer_model_is_a_rung() -> None:
    (row,) = climb([Rung("integer", model_file.load_shipped("pocket")[0].logits, INT8)], load_golden())
    assert row.breaches == []


def test_costs_names_every_approximation(random_model: Callable[..., GPT], small: Calibrated, small_corpus) -> None:
    found = approximations.costs(random_model(SMALL), small, small_corpus, 300, progress=False)
    assert list(found) == list(APPROXIMATIONS)
    assert all(math.isfinite(comparison.ppl_increase_pct) for comparison in found.values())


# ---- The file. ----


def test_a_saved_model_comes_back(small: Calibrated, tmp_path: Path) -> None:
    card = {"text": "any", "number": 0.1}
    model_file.save(tmp_path / "a.safetensors", small, card)
    back, read = model_file.load(tmp_path / "a.safetensors")
    tokens = windows(2)
    assert read == card and np.array_equal(back.logits(tokens), small.logits(tokens))
    model_file.save(tmp_path / "b.safetensors", back, card)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    (tmp_path / "b.json").write_text('{"text": "another"}')
    with pytest.raises(BookError, match="does not match its checksum or its card"):
        model_file.load(tmp_path / "b.safetensors")
    with pytest.raises(BookError, match="does not exist"):
        model_file.load(tmp_path / "c.safetensors")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_refused(small: Calibrated, tmp_path: Path, data: st.DataObject) -> None:
    path, card = tmp_path / "a.safetensors", {"text": "any"}
    model_file.save(path, small, card)
    original = path.read_bytes()
    victim = data.draw(st.sampled_from((path, path.with_suffix(".json"))))
    content = bytearray(victim.read_bytes())
    end = data.draw(st.sampled_from((1, 9, 3000, len(content)))) if victim == path else len(content)  # the header too
    for position in data.draw(st.lists(st.integers(0, min(end, len(content)) - 1), max_size=3)):
        content[position] ^= 1 << data.draw(st.integers(0, 7))
    victim.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    try:
        back, read = model_file.load(path)
    except BookError as error:
        assert str(error).count("\n") == 0
        return
    assert read == card
    model_file.save(path, back, read)
    assert path.read_bytes() == original


def test_a_model_of_another_checkpoint_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_json(model_file.INTEGER / "nano.json", "the card")["checkpoint"]["name"] == "nano"
    with pytest.raises(BookError, match="ships no integer model 'giant'; it ships: nano, .*pocket"):
        model_file.load_shipped("giant")
    monkeypatch.setattr(model_file, "sha256", lambda path: "of another file")
    with pytest.raises(BookError, match="of another checkpoint"):
        model_file.load_shipped("nano")
