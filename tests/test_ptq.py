"""Quantisation after training: the routes on nano, the fake quantiser, the observers, and what they refuse."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Callable

import numpy as np
import onnx
import pytest
import torch

from lib import ptq
from lib.affine import asymmetric, per_channel
from lib.checkpoint import load_shipped
from lib.corpus import Corpus, load_builtin
from lib.deploy import deploy, linears, rotate
from lib.errors import BookError
from lib.evaluate import agreement, divergence, torch_logits
from lib.export import constants, load_onnx, node_counts, onnx_logits, optimised
from lib.gpt import GPT
from lib.processor import has_vnni
from lib.ptq.fake import fake_quantise
from lib.ptq.graph import check_file, feeds
from lib.ptq.observe import BINS, OBSERVERS, Activity, min_max, mse, observe, percentile
from lib.ptq.sensitivity import sensitivities
from lib.ptq.torch_ao import using
from lib.text import encode


@pytest.fixture(scope="module")
def nano() -> GPT:
    return load_shipped("nano")[0]


@pytest.fixture(scope="module")
def windows(nano: GPT) -> np.ndarray:
    return ptq.calibration_windows(load_builtin(), 16, nano.config.block)


@pytest.fixture(scope="module")
def held_out(nano: GPT) -> np.ndarray:
    text, block = load_builtin().val, nano.config.block
    return np.stack([text[s : s + block] for s in range(0, 16 * block, block)]).astype(np.int64)


@pytest.mark.parametrize(
    ("route", "least"),
    [
        ("torch_ao_fbgemm", 0.9),
        ("pt2e", 0.95),
        ("brevitas_po2", 0.93),
        ("ort", 0.8),
        ("nncf", 0.95),
        ("quark_xint8", 0.9),
        ("best", 0.97),
    ],
)
def test_a_route_stays_near_fp32_and_its_file_is_int8(
    route: str, least: float, nano: GPT, windows: np.ndarray, held_out: np.ndarray, tmp_path: Path
) -> None:
    quantised = ptq.quantise(route, nano, windows, tmp_path)
    reference = torch_logits(nano)(held_out)
    saturation = 0 if has_vnni() else 0.01  # ONNX Runtime's fast kernels saturate without
    assert agreement(reference, quantised.logits(held_out)) > least - saturation
    assert agreement(quantised.logits(held_out), onnx_logits(quantised.file)(held_out)) > 0.93
    graph, _ = load_onnx(quantised.file, nano.config)
    stored = [t for t in graph.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    scales = [constants(graph)[n.input[1]] for n in graph.graph.node if n.op_type == "DequantizeLinear"]
    assert all(np.isfinite(scale).all() and (scale > 0).all() for scale in scales)
    powers = all((np.exp2(np.rint(np.log2(scale))) == scale).all() for scale in scales)
    assert powers == (route in ("brevitas_po2", "quark_xint8"))
    by_row = sum(scale.size > 1 for scale in scales)
    assert by_row == 0 if route == "quark_xint8" else by_row >= len(linears(deploy(nano)))
    weights = sum(int(np.prod(t.dims)) for t in stored)
    assert weights >= sum(layer.weight.numel() for layer in linears(deploy(nano)).values())
    assert sorted(tmp_path.iterdir()) == [quantised.file]  # no scratch left behind


def test_the_best_file_runs_every_linear_on_integer_kernels(nano: GPT, windows: np.ndarray, tmp_path: Path) -> None:
    file = ptq.quantise("best", nano, windows, tmp_path).file
    counts = node_counts(optimised(file))
    assert (counts["QGemm"], counts["Gemm"]) == (9, 0)


def test_the_best_recipe_beats_plain_min_max(nano: GPT, windows: np.ndarray, held_out: np.ndarray) -> None:
    plain, turned = deploy(nano), rotate(deploy(nano))
    reference = torch_logits(nano)(held_out)

    def cost(model, observer) -> float:
        grids = {name: observer(seen) for name, seen in observe(model, windows).items()}
        return divergence(reference, torch_logits(fake_quantise(model, grids))(held_out))

    assert cost(turned, mse) < 0.75 * cost(plain, min_max)


# ---- The fake quantiser computes what the integers would, and lets gradients through. ----


def test_fake_quantisation_equals_the_integer_product(nano: GPT) -> None:
    model, grid = deploy(nano), asymmetric(-2, 2)
    name = "blocks.0.feed_forward.up"
    layer = linears(model)[name]
    x = torch.randn(20, layer.in_features)
    w, weight_grid = layer.weight.detach().numpy(), per_channel(layer.weight.detach().numpy())
    integers = (grid.quantise(x.numpy()) - grid.zero) @ weight_grid.quantise(w).T
    expected = integers * (grid.scale * weight_grid.scale.ravel()) + layer.bias.detach().numpy()
    quantised = fake_quantise(model, {name: grid}).get_submodule(name)
    assert np.abs(quantised(x).detach().numpy() - expected).max() < 1e-4
    quantised(x).sum().backward()
    assert quantised.weight.grad.abs().sum() > 0


def test_only_the_named_layers_are_quantised(nano: GPT) -> None:
    copy = fake_quantise(deploy(nano), {}, only=["unembed"])
    assert "unembed" not in linears(copy) and len(linears(copy)) == 8
    with pytest.raises(BookError, match="no Linear called nowhere"):
        fake_quantise(deploy(nano), {}, only=["nowhere"])


def test_sensitivities_name_every_linear_and_are_not_negative(nano: GPT, windows: np.ndarray) -> None:
    grids = {name: min_max(seen) for name, seen in observe(deploy(nano), windows[:2]).items()}
    costs = sensitivities(deploy(nano), grids, windows[:1])
    assert list(costs) == list(linears(deploy(nano)))
    assert all(c.input > 0 and c.weight > 0 for c in costs.values())
    name, reference = "unembed", torch_logits(nano)(windows[:1])
    weight, inputs = (
        divergence(reference, torch_logits(fake_quantise(deploy(nano), some, bits, [name]))(windows[:1]))
        for some, bits in (({}, 8), (grids, None))
    )
    assert (costs[name].weight, costs[name].input) == pytest.approx((weight, inputs), rel=1e-3)
    assert weight != pytest.approx(inputs, rel=0.1)


# ---- Observers. ----


def test_observed_extremes_and_counts_are_those_of_the_inputs(nano: GPT) -> None:
    windows = ptq.calibration_windows(load_builtin(), ptq.BATCH + 3, nano.config.block)  # more than one batch
    model, seen = deploy(nano), []
    hook = model.unembed.register_forward_pre_hook(lambda _, x: seen.append(x[0].flatten(0, 1)))
    activity = observe(model, windows)["unembed"]
    hook.remove()
    x = torch.cat(seen[: len(seen) // 2]).detach().numpy()
    assert np.allclose(activity.low, x.min(0)) and np.allclose(activity.high, x.max(0))
    assert activity.counts.sum() == x.size


def test_mse_clips_an_outlier_that_min_max_reaches_for() -> None:
    centres = np.linspace(-1, 99, BINS)
    counts = np.where(np.abs(centres) < 1, 100_000, 0)
    counts[-1] = 1
    activity = Activity(np.array([-1.0], np.float32), np.array([99.0], np.float32), counts)
    assert mse(activity).scale < 0.2 * min_max(activity).scale
    assert percentile(activity).scale < 0.2 * min_max(activity).scale
    assert set(OBSERVERS) == {"min_max", "percentile", "mse"}
    flat = Activity(np.array([-1.0], np.float32), np.array([1.0], np.float32), np.ones(BINS, np.int64))
    assert percentile(flat, 0.5).scale * 255 == pytest.approx(1.0, abs=4 / BINS)
    mirrored = Activity(np.array([-99.0], np.float32), np.array([1.0], np.float32), counts[::-1].copy())
    assert mse(mirrored).scale < 0.2 * min_max(mirrored).scale
    assert percentile(mirrored).scale < 0.2 * min_max(mirrored).scale


# ---- Calibration. ----


def test_calibration_never_sees_validation(make_corpus: Callable[[int, int | str], Corpus]) -> None:
    found = ptq.calibration_windows(make_corpus(300, "0123456789" * 30), 20, 16)
    assert found.shape == (20, 16) and not np.isin(found, encode("0123456789")).any()


def test_the_last_batch_is_filled_up_from_the_first_windows() -> None:
    assert [f["tokens"][:, 0].tolist() for f in feeds(np.arange(5)[:, None], batch=2)] == [[0, 1], [2, 3], [4, 0]]


# ---- What is refused, in one sentence. ----


def test_bad_calibration_is_refused(nano: GPT, windows: np.ndarray, tmp_path: Path) -> None:
    block = nano.config.block
    for bad, message in (
        (windows[:0], "is empty"),
        (np.full((2, block), 97), "outside the model's 0 to 96"),
        (windows[:, :-1], "cut them to the block, 64"),
        (windows.astype(np.uint16), "are uint16; make them int64"),
    ):
        with pytest.raises(BookError, match=message):
            ptq.quantise("best", nano, bad, tmp_path)
    with pytest.raises(BookError, match="0 windows"):
        ptq.calibration_windows(load_builtin(), 0, block)


def test_an_engine_that_this_processor_lacks_is_refused() -> None:
    with pytest.raises(BookError, match="no quantised engine abacus"), using("abacus"):
        pass


def test_a_file_that_is_worse_than_its_model_is_refused() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(1, 50, 9))
    near, far = reference + rng.normal(size=reference.shape) * 0.1, reference + rng.normal(size=reference.shape) * 0.3
    check_file(Path("x.onnx"), near, near, reference)
    with pytest.raises(BookError, match="x.onnx is .* times as far from FP32"):
        check_file(Path("x.onnx"), far, near, reference)


def test_an_unknown_route_is_refused(nano: GPT, windows: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(BookError, match="'int4' is unknown; choose one of torch_ao_fbgemm"):
        ptq.quantise("int4", nano, windows, tmp_path)


def test_a_missing_package_costs_its_own_route_only(
    nano: GPT, windows: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)  # what an import sees when it is not installed
    monkeypatch.delitem(sys.modules, "lib.ptq.nncf_ptq", raising=False)
    with pytest.raises(BookError, match="the route nncf needs nncf, .* pip install nncf"):
        ptq.quantise("nncf", nano, windows, tmp_path)
