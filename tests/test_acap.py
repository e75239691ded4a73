"""EQ-ViT's algorithm: models of Table III, quantisers against their integer twins, Algorithm 1, training, the study."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from lib.acap import attention, gelu, images, outliers, qat, quantise, ranges, study, train, uniform, vit
from lib.acap.images import ImageSet, Split
from lib.acap.integer import IntegerViT, Rescale, integer_root, shift_round, signed8
from lib.acap.vit import CONFIGS, ViT, ViTConfig
from lib.checkpoint import save_tensors
from lib.errors import BookError

TINY = ViTConfig(16, 2, 2, image=8, patch=4, channels=1, classes=10)


def random_images(count: int, config: ViTConfig = TINY, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    shape = (count, config.channels, config.image, config.image)
    return torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))


@pytest.fixture(scope="module")
def tiny() -> ViT:
    torch.manual_seed(0)
    model = ViT(TINY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return images.load_images("digits")


# ---- Table III. ----


@pytest.mark.parametrize(
    ("name", "gmac", "millions"),
    [("deit_t", 1.254, 5.717), ("deit_160", 0.899, 4.027), ("deit_256", 2.136, 9.982), ("lv_vit_t", 1.622, 7.420)],
)
def test_table_3(name: str, gmac: float, millions: float) -> None:
    macs = sum(product.macs for product in vit.products(CONFIGS[name]))
    assert macs / 1e9 == pytest.approx(gmac, abs=5e-4)
    assert vit.parameters(CONFIGS[name]) / 1e6 == pytest.approx(millions, abs=5e-4)


def test_products_count_what_the_model_multiplies(tiny: ViT) -> None:
    """The formula's MACs are those of the Linears and attention products that really run."""
    counted = 0

    def count(layer: torch.nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal counted
        counted += output.numel() * layer.in_features

    handles = [m.register_forward_hook(count) for m in tiny.modules() if isinstance(m, torch.nn.Linear)]
    tiny(random_images(1))
    for handle in handles:
        handle.remove()
    attention_macs = sum(product.macs for product in vit.products(TINY) if product.type1)
    assert attention_macs == 2 * TINY.depth * TINY.tokens**2 * TINY.dim
    assert sum(product.macs for product in vit.products(TINY)) == counted + attention_macs


def test_conv_stem_is_the_gigamac_that_table_3_leaves_out() -> None:
    config = CONFIGS["lv_vit_t_stem"]
    assert vit.stem_macs(config) == 112 * 112 * 64 * (49 * 3 + 9 * 64 * 2) + 196 * 240 * 64 * 64
    assert vit.stem_macs(CONFIGS["lv_vit_t"]) == 0
    small = ViTConfig(16, 1, 2, image=32, patch=8, stem="conv", classes=3)
    assert ViT(small).eval()(random_images(2, small)).shape == (2, 3)


def test_patches_are_cut_row_after_row() -> None:
    image = torch.arange(16).view(1, 1, 4, 4)
    assert vit.cut_patches(image, 2)[0, 1].tolist() == [2, 3, 6, 7]


# ---- Uniform quantisers. ----


@given(st.integers(2, 8), st.booleans(), st.floats(0.01, 100), st.integers(0, 2**32 - 1))
def test_uniform_codes_are_those_of_the_twin(bits: int, signed: bool, size: float, seed: int) -> None:
    x = size * torch.randn(500, generator=torch.Generator().manual_seed(seed))
    quantiser = uniform.Uniform(bits, signed)
    quantiser.set_range(x.min() / 2, x.max() / 2)  # so that some is clipped
    scale, zero = quantiser.scale.detach().numpy(), quantiser.zero.numpy()
    twin = uniform.uniform_codes(x.numpy(), scale, zero, quantiser.first, quantiser.last)
    assert np.array_equal(quantiser.codes(x).numpy(), twin)
    assert twin.min() >= quantiser.first and twin.max() <= quantiser.last
    assert torch.equal(quantiser(x), (torch.from_numpy(twin) - quantiser.zero) * quantiser.scale)


def test_lsq_gradients_are_those_of_the_paper() -> None:
    """Esser et al., Eq. (3): inside, rounding error in steps; outside, the last code. x passes only inside."""
    quantiser = uniform.Uniform(4, learned=True)
    quantiser.set_range(torch.tensor(-7.0), torch.tensor(7.0))  # scale 1
    x = torch.tensor([2.3, -1.6, 9.0, -9.0], requires_grad=True)
    quantiser(x).sum().backward()
    assert x.grad.tolist() == [1, 1, 0, 0]
    by_scale = (2 - 2.3) + (-2 + 1.6) + 7 - 7
    expected = by_scale / (4 * 7) ** 0.5 * np.log(2)  # the parameter is log2 of the scale
    assert quantiser.log_scale.grad.item() == pytest.approx(expected, rel=1e-5)


def test_weight_rows_have_their_own_scales_and_gradients() -> None:
    layer = torch.nn.Linear(5, 3)
    rounded = uniform.QuantLinear(layer, 8, rows=True, learned=True)
    rounded.quantiser.set_range(*ranges.omse_rows(layer.weight, 8))
    assert rounded.quantiser.scale.shape == (3, 1)
    rounded(torch.randn(4, 5)).square().sum().backward()
    assert rounded.quantiser.log_scale.grad.shape == (3, 1) and (rounded.quantiser.log_scale.grad != 0).all()
    assert rounded.codes().abs().max() <= 127


def test_each_range_is_what_it_says() -> None:
    samples = [torch.linspace(-1, 1, 10_001), torch.linspace(-3, 2, 10_001)]
    assert ranges.minmax(samples) == (-3, 2)
    assert [x.item() for x in ranges.ema(samples)] == pytest.approx([-0.9 - 0.3, 0.9 + 0.2])
    low, high = ranges.percentile([torch.linspace(0, 1, 10_001)])
    assert (low.item(), high.item()) == pytest.approx((1e-4, 1 - 1e-4))
    spiky = torch.cat((torch.randn(10_000, generator=torch.Generator().manual_seed(0)), torch.tensor([30.0])))
    low, high = ranges.omse([spiky], 4, signed=True)
    assert high < 15  # at four bits one spike is not worth everybody's steps


# ---- Attention in powers of two. ----


@given(st.integers(2, 6), st.integers(0, 5), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_base2_softmax_is_its_integer_twin(bits: int, fraction: int, spread: int, seed: int) -> None:
    scores = np.random.default_rng(seed).integers(-spread, spread + 1, (8, 65))
    codes = attention.base2_codes(torch.from_numpy(scores).float(), bits, fraction)
    assert np.array_equal(codes.numpy(), attention.base2_codes_twin(scores, bits, fraction))


@pytest.mark.parametrize("fraction", [1, 3, 5])
def test_base2_softmax_is_one_code_off_at_most(fraction: int) -> None:
    scores = np.random.default_rng(0).normal(0, 2 * 2**fraction, (300, 197)).round().astype(np.int64)
    off = np.abs(attention.base2_codes_twin(scores, 4, fraction) - attention.exact_codes(scores, 4, fraction))
    assert off.max() <= 1 and off.mean() < 0.05


def test_base2_softmax_is_softmax_and_has_its_gradient() -> None:
    """With log2(e) in the scale, base 2 has e's temperature: half a code's error, and softmax's own gradient."""
    products = torch.randn(2, 3, 17, 17, requires_grad=True)
    exact = (products / 4).softmax(dim=-1)
    rounded = attention.Base2Softmax(16, bits=6, fraction=5)(products)
    ratio = (rounded / exact).log2().abs()
    assert ratio.max() < 0.6
    direction = torch.randn_like(exact)
    (own,) = torch.autograd.grad((rounded * direction).sum(), products)
    (smooth,) = torch.autograd.grad((exact * direction).sum(), products)
    assert torch.allclose(own, smooth, atol=1e-6)


@given(st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_log2_codes_are_those_of_the_twin_and_of_a_logarithm(bits: int, seed: int) -> None:
    weights = torch.rand(300, generator=torch.Generator().manual_seed(seed)) ** 4
    weights[:2] = torch.tensor([0.0, 1.0])
    codes = attention.log2_codes(weights, bits).numpy()
    assert np.array_equal(codes, attention.log2_codes_twin(weights.numpy(), bits))
    plain = np.clip(np.rint(-np.log2(np.maximum(weights.double().numpy(), 1e-300))), 0, 2**bits - 1)
    assert (codes != plain).mean() < 0.01 and codes[0] == 2**bits - 1 and codes[1] == 0


def test_printed_floor_gives_rows_that_sum_to_1_44() -> None:
    maps = torch.randn(200, 197, generator=torch.Generator().manual_seed(0)).softmax(dim=-1)
    summed = attention.power(attention.log2_codes_printed(maps, 8), 8).sum(dim=-1).mean().item()
    rounded = attention.power(attention.log2_codes(maps, 8), 8).sum(dim=-1).mean().item()
    assert summed == pytest.approx(1 / np.log(2), abs=0.01) and rounded == pytest.approx(1.02, abs=0.01)


def test_weighing_by_shifts_is_exact() -> None:
    rng = np.random.default_rng(0)
    codes, values = rng.integers(0, 16, (2, 5, 5)), rng.integers(-127, 128, (2, 5, 3))
    weights = attention.power(torch.from_numpy(codes), 4).double().numpy()
    assert np.array_equal(attention.weigh_twin(codes, values, 4) / 2**14, weights @ values)


@given(st.integers(0, 2**32 - 1))
def test_integer_exponential_is_its_twin_and_near_exp(seed: int) -> None:
    scores, scale = -np.random.default_rng(seed).integers(0, 800, 100), attention.IntegerExpSoftmax.SCALE
    found = attention.iexp(torch.from_numpy(scores).float(), scale).numpy()
    assert np.array_equal(found, attention.iexp_twin(scores, scale))
    assert np.abs(found * attention.IEXP[0] * scale**2 - np.exp(scores * scale)).max() < 0.02


# ---- GELU. ----


def test_gelu_table_is_gelu_on_every_code() -> None:
    before, after = uniform.Uniform(8), uniform.Uniform(8, signed=False)
    before.set_range(torch.tensor(-4.0), torch.tensor(4.0))
    after.set_range(torch.tensor(gelu.LOWEST), torch.tensor(4.0))
    codes = np.arange(-127, 128)
    table = gelu.gelu_table(before, after)
    assert table.shape == (256,) and table.min() >= 0 and table.max() <= 255
    exact = torch.nn.functional.gelu(torch.from_numpy(codes) * before.scale)
    looked_up = (torch.from_numpy(gelu.gelu_twin(codes, table)) - after.zero) * after.scale
    assert (looked_up - exact).abs().max() <= 0.501 * after.scale.item()
    polynomial = gelu.integer_gelu(torch.from_numpy(codes), before.scale.item())
    assert 0.5 * after.scale.item() < (polynomial - exact).abs().max() < 0.03


def test_printed_gelu_is_a_step() -> None:
    assert gelu.printed_gelu(torch.arange(-3, 5)).tolist() == [0, 0, 0, 0, 0, 1, 3, 4]


# ---- Power-of-two coefficients. ----


def outlying(seed: int = 0) -> Tensor:
    """Make (64, 17, 64) of unit width, but three channels eight times as wide."""
    x = torch.randn(64, 17, 64, generator=torch.Generator().manual_seed(seed))
    x[..., [3, 11, 20]] *= 8
    return x


@given(st.integers(0, 2**32 - 1))
def test_power_of_two_codes_are_those_of_the_twin(seed: int) -> None:
    x = outlying(seed)[:4]
    site = outliers.PowerOfTwo(64)
    site.initialise(x)
    site.search(x)
    state = (site.scale.numpy(), site.r.numpy(), site.zero.numpy(), site.last)
    assert np.array_equal(site.codes(x).numpy(), outliers.power_of_two_codes(x.numpy(), *state))
    assert torch.equal(site(x), (site.codes(x) - site.zero) * site.scale * site.r.exp2())


def test_coefficients_tame_outliers_and_the_printed_search_does_not() -> None:
    x = outlying()
    flat, site = uniform.Uniform(8, signed=False), outliers.PowerOfTwo(64)
    ranges.set_range(flat, "minmax", [x])
    site.initialise(x)
    assert outliers.outlier_channels(x).nonzero().flatten().tolist() == [3, 11, 20]
    assert set(site.r[[3, 11, 20]].tolist()) == {3.0} and site.r.sum() < 3 * 64
    site.search(x)
    plain = [c for c in range(64) if c not in (3, 11, 20)]
    before, after = (uniform.sqnr_db(x[..., plain], rounded[..., plain]) for rounded in (flat(x), site(x)))
    assert after > before + 10  # two or three bits of the channels that are no outliers
    assert set(outliers.search_printed(x, site.scale).tolist()) == {1.0}


def test_the_printed_zero_point_loses_everything_below_zero() -> None:
    x = outlying()
    site = outliers.PowerOfTwo(64)
    site.initialise(x)
    site.search(x)
    step = site.scale * site.r.exp2()
    printed = (-x.min() / x.max()).round().clamp(0, site.last)
    wrong = ((x / step).round() + printed).clamp(0, site.last).sub(printed) * step
    assert uniform.sqnr_db(x, wrong) < 5 < 35 < uniform.sqnr_db(x, site(x))


# ---- A whole model. ----


@pytest.fixture(scope="module")
def integers(tiny: ViT) -> tuple[ViT, IntegerViT]:
    made = quantise.quantise(tiny, quantise.EQVIT, random_images(32))
    for site in (site for _, site in quantise.residuals(made)):
        site.r[:4] = 2  # so that not all channels share a step
    return made, IntegerViT.of(made)


@pytest.mark.parametrize("name", [*quantise.RECIPES, *quantise.ABLATIONS])
def test_every_recipe_makes_a_model_near_the_original(tiny: ViT, name: str) -> None:
    some = random_images(32)
    made = quantise.quantise(tiny, quantise.recipe(name), some)
    exact, rounded = tiny(some).detach(), made(some).detach()
    error = ((rounded - exact).square().mean() / exact.var()).item()
    assert (error == 0) == (name == "fp32") and error < 0.35


def heard_codes(made: ViT, some: Tensor) -> dict[str, np.ndarray]:
    """Return the integers at every site of a quantised model, and attention's codes, by name."""
    heard: dict[str, np.ndarray] = {}

    def hear(name: str, module: torch.nn.Module) -> Callable[..., None]:
        if isinstance(module, attention.Base2Softmax):
            last = 2**module.bits - 1
            return lambda _m, _i, out: heard.__setitem__(name, torch.where(out > 0, -out.log2(), last).numpy())
        return lambda _m, inputs, _o: heard.__setitem__(name, module.codes(inputs[0]).numpy())

    kinds = (uniform.Uniform, outliers.PowerOfTwo, attention.Base2Softmax)
    named = [(n, m) for n, m in made.named_modules() if isinstance(m, kinds) and not n.endswith("quantiser")]
    handles = [module.register_forward_hook(hear(name, module)) for name, module in named]
    with torch.no_grad():
        made(some)
    for handle in handles:
        handle.remove()
    return heard


def test_every_integer_operator_gives_the_codes_that_pytorch_has(integers: tuple[ViT, IntegerViT]) -> None:
    """Fed with PyTorch's codes, each operator returns PyTorch's next codes, but for a last bit now and then."""
    made, whole = integers
    some = random_images(16, seed=1)
    heard = heard_codes(made, some)
    pairs = {"embedded": (whole.embed(some.numpy()), heard["embedded"])}
    before = heard["embedded"]
    for number, block in enumerate(whole.blocks):
        at = {name.removeprefix(f"blocks.{number}."): x for name, x in heard.items()}
        q, k, v = (at[f"attention.{x}"] for x in "qkv")
        shape = (len(some), TINY.tokens, TINY.dim)
        qkv = np.concatenate([x.transpose(0, 2, 1, 3).reshape(shape) for x in (q, k, v)], axis=2)
        shifts = at["attention.softmax"].astype(np.int64)
        context = signed8(block.to_context(attention.weigh_twin(shifts, v, 4))).transpose(0, 2, 1, 3).reshape(shape)
        scores = signed8(block.to_scores(q @ k.swapaxes(2, 3)))
        branch1 = block.add1.branch(block.out(at["attention.context"]))
        branch2 = block.add2.branch(block.down(at["feed_forward.activated"]))
        pairs |= {
            f"{number} norm1": (block.norm1(before), at["normed1"]),
            f"{number} qkv": (signed8(block.to_qkv(block.qkv(at["normed1"]))), qkv),
            f"{number} softmax": (attention.base2_codes_twin(scores, 4, 3), shifts),
            f"{number} context": (context, at["attention.context"]),
            f"{number} out": (block.add1(branch1, before), at["residual1"]),
            f"{number} norm2": (block.norm2(at["residual1"]), at["normed2"]),
            f"{number} up": (signed8(block.to_hidden(block.up(at["normed2"]))), at["feed_forward.hidden"]),
            f"{number} gelu": (gelu.gelu_twin(at["feed_forward.hidden"], block.table), at["feed_forward.activated"]),
            f"{number} down": (block.add2(branch2, at["residual1"]), at["residual2"]),
        }
        before = at["residual2"]
    pairs["norm"] = (whole.norm(before[:, 0]), heard["normed"])
    for name, (found, expected) in pairs.items():
        off = np.abs(found - expected)
        rounded_twice = name.endswith(("out", "down"))  # each part of a sum, where PyTorch rounds the sum
        assert off.max() <= 1 and off.mean() < (0.3 if rounded_twice else 0.02), name
    logits = whole.to_logits(whole.head(heard["normed"]))
    assert np.corrcoef(logits.ravel(), made(some).detach().numpy().ravel())[0, 1] > 0.9999


def test_integer_model_holds_integers_of_the_stated_width(integers: tuple[ViT, IntegerViT]) -> None:
    _, whole = integers
    trace: dict[str, np.ndarray] = {}
    logits = whole(random_images(4).numpy(), trace)
    assert logits.dtype == np.int64 and logits.shape == (4, 10)
    assert all(value.dtype == np.int64 for value in trace.values())
    unsigned = ("embedded", "residual1", "residual2", "activated")
    for name, value in trace.items():
        kind = name.rsplit(".")[-1]
        wide = {"shifts": (0, 15)} | {site: (0, 255) for site in unsigned}
        low, high = wide.get(kind, (-127, 127))
        assert low <= value.min() and value.max() <= high, name
    block = whole.blocks[0]
    for rescale in (block.to_qkv, block.to_scores, block.to_context, block.to_hidden, whole.to_embedded):
        assert 2**22 <= rescale.multiplier.max() < 2**23


def test_integer_model_refuses_other_recipes_and_images(tiny: ViT, integers: tuple[ViT, IntegerViT]) -> None:
    others = [quantise.recipe("minmax"), quantise.recipe("no_table")]
    for other in (
        *others,
        *(dataclasses.replace(quantise.EQVIT, **{f"{x}_bits": 6}) for x in ("activation", "attention")),
    ):
        with pytest.raises(BookError, match="recipe"):
            IntegerViT.of(quantise.quantise(tiny, other, random_images(8)))
    made, whole = integers
    with pytest.raises(BookError, match="images are"):
        whole.predict(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), made)


@given(st.integers(0, 2**50))
def test_integer_root(x: int) -> None:
    root = int(integer_root(np.int64(x)))
    assert root * root <= x < (root + 1) ** 2


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=5), st.integers(-(2**23), 2**23))
def test_rescale_multiplies_to_the_nearest(factors: list[float], x: int) -> None:
    scaled = Rescale.by(np.array(factors))(np.full(len(factors), x))
    assert np.abs(scaled - x * np.array(factors)).max() <= 0.5 + abs(x) * max(factors) * 2.0**-22
    assert shift_round(np.array([3, -3]), 1).tolist() == [2, -1]


# ---- Training. ----


SHORT = dict(steps=6, batch=32, warmup=1, seed=3)


def test_training_resumes_to_the_same_weights(
    digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "SAVE_EVERY", 3)
    config = train.ImageTraining("pico_digits", **SHORT)
    whole = train.ImageTrainer(config, digits).run(progress=False)
    half = train.ImageTrainer(config, digits)
    steps = 0

    def interrupted() -> None:
        nonlocal steps
        if steps == 3:
            raise KeyboardInterrupt
        steps += 1
        train.ImageTrainer.take_step(half)

    monkeypatch.setattr(half, "take_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        half.run(tmp_path, progress=False)
    resumed = train.ImageTrainer(config, digits).run(tmp_path, resume=True, progress=False)
    for mine, yours in zip(whole.parameters(), resumed.parameters()):
        assert torch.equal(mine, yours)
    with pytest.raises(BookError, match="already holds a run"):
        train.ImageTrainer(config, digits).run(tmp_path, progress=False)
    other = dataclasses.replace(config, lr=1e-3)
    with pytest.raises(BookError, match="other settings"):
        train.ImageTrainer(other, digits).run(tmp_path, resume=True, progress=False)


def test_the_three_stages_of_algorithm_1(digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Range and coefficients move in stage 2 only; the same seed gives the same model, resumed or not."""
    monkeypatch.setattr(qat, "SEARCH_EVERY", 2)
    config = qat.QatTraining("pico_digits", **(SHORT | {"steps": 8}), lr=5e-3, searching=0.5)
    base = train.fresh(train.ImageTraining("pico_digits", seed=5))
    teacher = train.fresh(train.ImageTraining("teacher_digits", seed=6))
    trainer = qat.QatTrainer(config, digits, base, teacher)
    site, before = trainer.residuals[0], {n: p.clone() for n, p in trainer.model.named_parameters()}
    site.r.zero_()  # which no search leaves so
    seen = []
    for _ in range(config.steps):
        trainer.take_step()
        seen.append((site.high.item(), site.r.tolist()))
        if trainer.step == 5:
            trainer.save_state(tmp_path / "state.safetensors")
    assert len({high for high, _ in seen[:4]}) == 4 and len({high for high, _ in seen[3:]}) == 1
    assert sum(seen[1][1]) == 0 < sum(seen[2][1]) and all(r == seen[3][1] for _, r in seen[3:])
    assert [n for n, p in trainer.model.named_parameters() if torch.equal(p, before[n])] == []
    resumed = qat.QatTrainer(config, digits, base, teacher).run(tmp_path, resume=True, progress=False)
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    with pytest.raises(BookError, match="another model or teacher"):
        qat.QatTrainer(config, digits, teacher=teacher, base=train.fresh(train.ImageTraining("pico_digits"))).run(
            tmp_path, resume=True, progress=False
        )


@pytest.mark.parametrize("method", ["lsq", "qvit", "no_log2", "no_ptc"])
def test_every_scale_of_a_learning_recipe_is_learned(digits: ImageSet, method: str) -> None:
    config = qat.QatTraining("pico_digits", **(SHORT | {"steps": 2}), method=method)
    base = train.fresh(train.ImageTraining("pico_digits", seed=5))
    trainer = qat.QatTrainer(config, digits, base, train.fresh(train.ImageTraining("teacher_digits")))
    before = {n: p.clone() for n, p in trainer.model.named_parameters()}
    trainer.take_step()
    trainer.take_step()
    still = [n for n, p in trainer.model.named_parameters() if torch.equal(p, before[n])]
    assert still == [] and any(n.endswith("map.log_scale") for n in before) == (method != "no_ptc")


def test_a_quantised_model_comes_back_from_its_file(digits: ImageSet, tmp_path: Path) -> None:
    base = train.fresh(train.ImageTraining("pico_digits"))
    made = quantise.quantise(base, quantise.EQVIT, digits.train.images[:32])
    qat.save_quantised(tmp_path / "q.safetensors", made, "eqvit")
    found, method = qat.load_quantised(tmp_path / "q.safetensors", "pico_digits")
    some = digits.test.images[:20]
    assert method == "eqvit" and torch.equal(found(some), made(some))
    with pytest.raises(BookError, match="another model"):
        qat.load_quantised(tmp_path / "q.safetensors", "pico_cifar10")
    with pytest.raises(BookError, match="do not fit"):
        train.load_vit(tmp_path / "q.safetensors", CONFIGS["pico_digits"])


def test_batches_are_permutations_and_change_the_images(digits: ImageSet) -> None:
    config = train.ImageTraining("pico_digits", batch=89)
    labels = torch.cat([train.batch_at(digits.train, config, step)[1] for step in range(13)])
    assert torch.equal(labels.bincount(), digits.train.labels.bincount())
    photographs = random_images(8, CONFIGS["pico_cifar10"])
    moved = train.cropped(photographs, np.random.default_rng(0))
    assert moved.shape == photographs.shape and moved.dtype == torch.uint8 and not torch.equal(moved, photographs)


# ---- The study. ----


def test_paired_interval_knows_a_difference_from_none() -> None:
    rng = np.random.default_rng(0)
    base = rng.random((3, 2000)) < 0.8
    better = base | (rng.random((3, 2000)) < 0.1)
    right = {("fp32", s): base[s] for s in range(3)} | {("eqvit", s): better[s] for s in range(3)}
    found = study.Study(right, {})
    mean, low, high = found.difference("eqvit")
    assert mean == pytest.approx(100 * (better.mean() - base.mean())) and 1 < low < mean < high < 3
    noisy = {("fp32", s): base[s] ^ (rng.random(2000) < 0.05) for s in range(3)}
    noisy |= {("eqvit", s): base[s] ^ (rng.random(2000) < 0.05) for s in range(3)}
    mean, low, high = study.Study(noisy, {}).difference("eqvit")
    assert low < 0 < high and high - low < 4
    with pytest.raises(BookError, match="no method"):
        found.accuracy("lsq")


def test_a_study_comes_back_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "STUDIES", tmp_path)
    right = np.random.default_rng(0).random(21) < 0.5
    path, facts = tmp_path / "digits.safetensors", {"dataset": "digits", "images": 21}
    study.save_study(path, study.Study({("fp32", 2): right}, facts))
    assert np.array_equal(study.load_study("digits").right["fp32", 2], right)
    for damaged, says in (({"dataset": "cifar10"}, "no study of digits"), ({"images": 99}, "one bit for each of 99")):
        study.save_study(path, study.Study({("fp32", 2): right}, facts | damaged))
        with pytest.raises(BookError, match=says):
            study.load_study("digits")


def test_the_study_command_goes_on_where_it_stopped(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row on digits for two steps; the second run trains nothing; other settings are refused."""
    monkeypatch.setattr(study, "SEEDS", (1,))
    for name in ("pico_digits", "teacher_digits"):
        train.save_vit(tmp_path / f"{name}.safetensors", train.fresh(train.ImageTraining(name)))
    models = ("--base", tmp_path / "pico_digits.safetensors", "--teacher", tmp_path / "teacher_digits.safetensors")
    options = ("--dataset", "digits", *models, "--workers", 1, "--out", tmp_path / "study")
    options = (*options, "--ablation-seeds", 1)
    code, printed, _ = command(study.main, *options, "--steps", 2)
    assert code == 0 and all(method in printed for method in (*quantise.RECIPES, *quantise.ABLATIONS))
    monkeypatch.setattr(study, "train_one", None)
    assert command(study.main, *options, "--steps", 2)[:2] == (0, printed)
    code, _, error = command(study.main, *options, "--steps", 3)
    assert code == 2 and "other settings" in error
    code, _, error = command(study.main, *options[:-1], 4)
    assert code == 2 and "--ablation-seeds" in error


def test_committed_study_holds_every_row_on_the_full_test_set() -> None:
    found = study.load_study("cifar10")
    assert found.facts["images"] == 10_000
    for method in quantise.RECIPES:
        assert found.table(method).shape == (3, 10_000)
    assert set(quantise.ABLATIONS) <= set(found.methods)


# ---- Bad input: one sentence that names it. ----


@pytest.mark.parametrize("bits", [0, 1.5, 64])
def test_bits_nobody_can_quantise_to(bits: float) -> None:
    for refuse in (uniform.Uniform, attention.Log2Q, lambda b: quantise.Recipe(weight_bits=b), outliers_of):
        with pytest.raises(BookError, match=f"{bits} bits cannot be quantised to"):
            refuse(bits)


def outliers_of(bits: float) -> outliers.PowerOfTwo:
    return outliers.PowerOfTwo(4, bits)


@pytest.mark.parametrize("shape", [(2, 1, 8, 9), (2, 3, 8, 8), (1, 8, 8)])
def test_images_of_another_size(tiny: ViT, shape: tuple[int, ...]) -> None:
    with pytest.raises(BookError, match="images are torch.uint8 of shape"):
        tiny(torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(BookError, match="images are torch.float32"):
        tiny(torch.zeros(2, 1, 8, 8))


def broken_set(folder: Path, damage: str) -> None:
    """Write what looks like CIFAR-10's binary version, damaged in one way."""
    rng = np.random.default_rng(0)
    for name in images.BINARY:
        rows = rng.integers(0, 10, (4, 3073), dtype=np.uint8)
        if damage == "label" and name == "test_batch.bin":
            rows[0, 0] = 10
        data = rows.tobytes()
        (folder / name).write_bytes(data[:-1] if damage == "cut" and name == "test_batch.bin" else data)


@pytest.mark.parametrize(("damage", "says"), [("label", "from .* to 10, outside 0 to 9"), ("cut", "damaged")])
def test_cifar10_that_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, says: str) -> None:
    monkeypatch.setattr(images, "FILE_IMAGES", 4)
    broken_set(tmp_path, damage)
    with pytest.raises(BookError, match=says):
        images.read_cifar10(tmp_path)


def test_cifar10_in_both_its_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_set(tmp_path, "nothing")
    with pytest.raises(BookError, match="hold 20 and 4 images, not 50,000 and 10,000"):
        images.read_cifar10(tmp_path)
    monkeypatch.setattr(images, "FILE_IMAGES", 4)
    found = images.read_cifar10(tmp_path)
    assert found.train.images.shape == (20, 3, 32, 32) and len(found.test) == 4
    arrays = {}
    for name, split in (("train", found.train), ("test", found.test)):
        files = [io.BytesIO() for _ in split.images]
        for file, image in zip(files, split.images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
        sizes = [len(file.getvalue()) for file in files]
        arrays[f"{name}_bytes"] = np.frombuffer(b"".join(file.getvalue() for file in files), np.uint8)
        arrays |= {f"{name}_offsets": np.cumsum([0, *sizes]), f"{name}_labels": split.labels.numpy().astype(np.uint8)}
    np.savez(tmp_path / "cifar10_jpeg.npz", **arrays)
    packed = images.read_cifar10(tmp_path)
    assert packed.source == "cifar10_jpeg.npz" and torch.equal(packed.train.images, found.train.images)
    for wrong in ({"test_labels": arrays["test_labels"][:, None]}, {"train_offsets": np.float64(1)}):
        np.savez(tmp_path / "cifar10_jpeg.npz", **(arrays | wrong))
        with pytest.raises(BookError, match="one label each|damaged"):
            images.read_cifar10(tmp_path)


def test_cifar10_folder_that_is_missing_or_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR10_DIR", str(tmp_path / "none"))
    with pytest.raises(BookError, match="does not exist"):
        images.load_images("cifar10")
    monkeypatch.setenv("CIFAR10_DIR", str(tmp_path))
    with pytest.raises(BookError, match="holds neither"):
        images.load_images("cifar10")
    (tmp_path / "cifar10_jpeg.npz").write_bytes(b"no archive")
    with pytest.raises(BookError, match="damaged or of another set"):
        images.load_images("cifar10")
    monkeypatch.delenv("CIFAR10_DIR")
    assert images.load_images("cifar10") is None
    with pytest.raises(BookError, match="unknown"):
        images.load_images("imagenet")
    with pytest.raises(BookError, match="source 'Hub' is unknown"):
        images.load_images("cifar10", "Hub")


def test_a_data_set_of_another_model(digits: ImageSet) -> None:
    with pytest.raises(BookError, match="learns from cifar10, not digits"):
        train.ImageTrainer(train.ImageTraining("pico_cifar10"), digits)
    few = ImageSet("digits", "a test", digits.train.first(10), Split(digits.test.images, digits.test.labels))
    with pytest.raises(BookError, match="more than the 10 training images"):
        train.ImageTrainer(train.ImageTraining("pico_digits"), few)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ViTConfig(10, 1, 3), "does not divide into 3 heads"),
        (lambda: ViTConfig(12, 1, 3, image=30, patch=8), "does not divide into patches"),
        (lambda: train.ImageTraining("deit_t"), "not one to train"),
        (lambda: train.ImageTraining("pico_digits", seed=2**63), "seed is 9223372036854775808"),
        (lambda: qat.QatTraining("pico_digits", method="minmax"), "calibrated, not trained"),
        (lambda: quantise.recipe("hawq"), "method 'hawq' is unknown"),
        (lambda: quantise.Recipe(softmax="cordic"), "choose one of float, iexp, base2"),
        (lambda: quantise.Recipe(softmax="base2"), "choose attention_map='log2'"),
        (lambda: qat.QatTraining("pico_digits", pull=-1.0), "must not be negative"),
        (lambda: attention.Base2Softmax(16, fraction=15), "outside 0 to 14"),
    ],
)
def test_settings_that_make_no_sense(make: Callable[[], object], says: str) -> None:
    with pytest.raises(BookError, match=says):
        make()


def test_commands_refuse_in_one_sentence(command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CIFAR10_DIR", raising=False)
    code, _, error = command(qat.main, "--out", tmp_path)
    assert code == 2 and "set CIFAR10_DIR" in error
    save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {"config": {}})
    code, _, error = command(
        qat.main, "--model", "pico_digits", "--base", tmp_path / "x.safetensors", "--out", tmp_path
    )
    assert code == 2 and "holds another model" in error
    train.save_vit(tmp_path / "x.safetensors", train.fresh(train.ImageTraining("pico_digits")))
    code, _, error = command(
        qat.main, "--model", "pico_digits", "--base", tmp_path / "x.safetensors", "--out", tmp_path
    )
    assert code == 2 and "ships no teacher_digits; train it by python -m lib.acap.train --model teacher_digits" in error
    alone = ("--base", tmp_path / "x.safetensors", "--method", "lsq", "--steps", 1, "--out", tmp_path / "lsq")
    code, printed, _ = command(qat.main, "--model", "pico_digits", *alone)  # learns from the labels
    assert code == 0 and "pico_digits_lsq.safetensors" in printed


def test_the_training_command_writes_a_checkpoint_and_its_card(command: Callable, tmp_path: Path) -> None:
    code, printed, _ = command(train.main, "--model", "pico_digits", "--steps", 3, "--out", tmp_path)
    assert code == 0 and "of 640 test images from scikit-learn" in printed
    train.load_vit(tmp_path / "pico_digits.safetensors", CONFIGS["pico_digits"])
    teacher = tmp_path / "teacher_digits.safetensors"
    train.save_vit(teacher, train.fresh(train.ImageTraining("teacher_digits")))
    options = ("--base", tmp_path / "pico_digits.safetensors", "--teacher", teacher, "--steps", 2)
    code, printed, _ = command(qat.main, "--model", "pico_digits", *options, "--out", tmp_path / "q")
    assert code == 0 and "pico_digits_eqvit.safetensors" in printed


def test_openvino_and_torch_classify_alike_on_the_cpu() -> None:
    from lib.acap import cpu

    routes = cpu.contenders("pico_digits", threads=1)
    exact, int8 = routes["torch"](), next(iter(routes["openvino_int8"]().values()))
    assert np.corrcoef(exact.numpy().ravel(), int8.ravel())[0, 1] > 0.9
    found = cpu.latencies(routes, rounds=1, progress=False)
    assert set(found) == {"torch", "openvino_int8"} and all(ms > 0 for ms in found.values())
    with pytest.raises(BookError, match="at least 1"):
        cpu.latencies(routes, rounds=0)


# ---- What training learns from. ----


def test_what_a_student_learns_from(tiny: ViT) -> None:
    torch.manual_seed(1)
    teacher, some, labels = ViT(TINY).eval(), random_images(8), torch.arange(8)
    logits, target = tiny(some), teacher(some).softmax(dim=1)
    cross = torch.nn.functional.cross_entropy(logits, labels)
    by_hand = 0.75 * cross + 0.25 * -(target * logits.log_softmax(dim=1)).sum(1).mean()
    losses = [train.Teaching(teacher, 0.25, w).loss(tiny, some, labels).item() for w in (0.0, 1.0, 2.0)]
    assert losses[0] == pytest.approx(by_hand.item(), rel=1e-5)
    assert 0.01 < losses[1] - losses[0] == pytest.approx(losses[2] - losses[1], rel=1e-3)
    own = [train.Teaching(tiny, 0.25, w).loss(tiny, some, labels).item() for w in (0.0, 1.0)]
    assert own[0] == pytest.approx(own[1], rel=1e-6)  # nobody differs from himself


def test_photographs_are_shifted_and_half_of_them_mirrored() -> None:
    columns = torch.arange(32, dtype=torch.uint8).expand(400, 3, 32, 32)  # every pixel names its column
    moved = train.cropped(columns, np.random.default_rng(0)).long()
    steps = moved[:, 0, 16, 4:28].diff(dim=1)
    assert (steps == steps[:, :1]).all() and set(steps.unique().tolist()) == {-1, 1}
    mirrored = steps[:, 0] == -1
    assert 0.4 < mirrored.float().mean() < 0.6
    for some, first in ((moved[~mirrored], 4), (moved[mirrored], 27)):
        assert (some[:, 0, 16, 4] - first).unique().tolist() == list(range(-4, 5))
    assert set(moved.unique().tolist()) == {*range(32), vit.PIXEL_ZERO}


def test_the_shipped_model_is_right(digits: ImageSet) -> None:
    found = train.right(train.load_vit(qat.shipped("pico_digits"), CONFIGS["pico_digits"]), digits)
    assert found.shape == (640,) and 0.94 < found.mean() < 1  # 0.958


def test_teachers_and_pull(digits: ImageSet) -> None:
    base, larger = (train.fresh(train.ImageTraining(name)) for name in ("pico_digits", "teacher_digits"))
    for method, teacher in (("eqvit", larger), ("fp32", larger), ("self_teacher", base), ("no_teacher", None)):
        config = qat.QatTraining("pico_digits", **SHORT, method=method)
        assert qat.QatTrainer(config, digits, base, larger).teaching.teacher is teacher, method
    trainer = qat.QatTrainer(qat.QatTraining("pico_digits", **SHORT, pull=0.5), digits, base, larger)
    for number, site in enumerate(trainer.residuals):
        site.searching, site.loss = True, torch.tensor(float(number))
    assert trainer.extra_loss() == 0.5 * (len(trainer.residuals) - 1) / 2


def test_each_ablation_takes_one_idea_away(digits: ImageSet) -> None:
    full = dataclasses.asdict(quantise.EQVIT)
    found = {
        name: {k: v for k, v in dataclasses.asdict(recipe).items() if v != full[k]}
        for name, recipe in quantise.ABLATIONS.items()
    }
    assert found == {
        "no_log2": {"softmax": "float", "attention_map": "uniform", "attention_bits": 8},
        "no_base2": {"softmax": "float"}, "no_table": {"table": False}, "printed_clip": {"clip": "printed"},
        "no_ptc": {"residual": "uniform"}, "no_teacher": {"teacher": "none"}, "self_teacher": {"teacher": "self"},
        "one_scale": {"rows": False}, "untrained": {"trained": False},
    }  # fmt: skip
    four = quantise.recipe("eqvit_w4a8")
    assert dataclasses.replace(four, weight_bits=8) == quantise.EQVIT != four
    made = quantise.quantise(train.fresh(train.ImageTraining("pico_digits")), four, digits.train.images[:16])
    bits = {name: m.quantiser.bits for name, m in made.named_modules() if hasattr(m, "quantiser")}
    assert {b for name, b in bits.items() if name.startswith("blocks.")} == {4}
    assert {b for name, b in bits.items() if not name.startswith("blocks.")} == {8}
