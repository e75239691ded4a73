"""A Vision Transformer made of integers: what is rounded how, for each row of the paper's Table VII.

Every row quantises both factors of every matrix product, the attention map, GELU's output, the residual stream and
what LayerNorm hands on; a row whose GELU is a table, its input too. They differ in how the ranges are found, in the
grids, in the arithmetic of softmax and GELU, and in whether the weights are trained on with the rounding in place
(``lib.acap.qat``).
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Iterator

import torch
import torch.nn as nn
from torch import Tensor

from lib.acap import gelu
from lib.acap.attention import Base2Softmax, IntegerExpSoftmax, Log2Q
from lib.acap.outliers import PowerOfTwo
from lib.acap.ranges import RANGES, omse_rows, set_range
from lib.acap.uniform import QuantLinear, Uniform, check_bits
from lib.acap.vit import ViT
from lib.errors import BookError

EDGE_BITS = 8  # of the first and the last Linear, whatever the others have: they hold few weights and lose most


@dataclass(frozen=True)
class Recipe:
    """How a model is quantised, and how it is trained on.

    ranges: minmax, ema, percentile or omse. softmax: float, iexp (I-BERT's exponential, then a division) or base2 (with
    codes of powers of two as its output). attention_map: uniform or log2, of ``attention_bits``; base2 needs log2.
    table: GELU from an 8-bit input. clip: where the range of GELU's output starts: none (by ``ranges``), one_sided
    ([-0.17, 10], or less if less is reached) or printed (the paper's [-10, 10]). residual: uniform or ptc (power-of-two
    coefficients). rows: a scale for each row of a weight, else one for all. learned: scales are trained. rectify:
    Q-ViT's learned scale and shift of queries and keys. teacher: larger, self or none. trained: weights are trained on.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    ranges: str = "minmax"
    softmax: str = "float"
    attention_map: str = "uniform"
    attention_bits: int = 8
    table: bool = False
    clip: str = "none"
    residual: str = "uniform"
    rows: bool = True
    learned: bool = False
    rectify: bool = False
    teacher: str = "none"
    trained: bool = False
    quantised: bool = True

    def __post_init__(self) -> None:
        for bits in (self.weight_bits, self.activation_bits, self.attention_bits):
            check_bits(bits)
        choices = {
            "ranges": (*RANGES, "omse"),
            "clip": ("none", "one_sided", "printed"),
            "softmax": ("float", "iexp", "base2"),
            "attention_map": ("uniform", "log2"),
            "residual": ("uniform", "ptc"),
            "teacher": ("none", "larger", "self"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise BookError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}")
        if self.softmax == "base2" and self.attention_map != "log2":
            raise BookError("the base-2 softmax gives powers of two; choose attention_map='log2' with it")


_LEARNING = Recipe(ranges="omse", learned=True, trained=True)
EQVIT = dataclasses.replace(
    _LEARNING,
    softmax="base2",
    attention_map="log2",
    attention_bits=4,
    table=True,
    clip="one_sided",
    residual="ptc",
    teacher="larger",
)
RECIPES = {
    "fp32": Recipe(quantised=False, trained=True, teacher="larger"),
    "minmax": Recipe(),
    "ema": Recipe(ranges="ema"),
    "percentile": Recipe(ranges="percentile"),
    "omse": Recipe(ranges="omse"),
    "fqvit": Recipe(softmax="iexp", attention_map="log2", attention_bits=4, residual="ptc"),
    "lsq": _LEARNING,
    "qvit": dataclasses.replace(_LEARNING, softmax="iexp", table=True, rectify=True, teacher="larger"),
    "eqvit": EQVIT,
    "eqvit_w4a8": dataclasses.replace(EQVIT, weight_bits=4),
}
ABLATIONS = {
    "no_log2": dataclasses.replace(EQVIT, softmax="float", attention_map="uniform", attention_bits=8),
    "no_base2": dataclasses.replace(EQVIT, softmax="float"),
    "no_table": dataclasses.replace(EQVIT, table=False),
    "printed_clip": dataclasses.replace(EQVIT, clip="printed"),
    "no_ptc": dataclasses.replace(EQVIT, residual="uniform"),
    "no_teacher": dataclasses.replace(EQVIT, teacher="none"),
    "self_teacher": dataclasses.replace(EQVIT, teacher="self"),
    "one_scale": dataclasses.replace(EQVIT, rows=False),
    "untrained": dataclasses.replace(EQVIT, trained=False),
}


def recipe(name: str) -> Recipe:
    """Return a recipe of Table VII or of the ablation by its name; BookError with the known ones otherwise."""
    known = RECIPES | ABLATIONS
    if name not in known:
        raise BookError(f"the method {name!r} is unknown; choose one of {', '.join(known)}")
    return known[name]


class Rectify(nn.Module):
    """Q-ViT's rectification of queries or keys (B, H, T, D): a learned scale and shift of each head's dimension.

    Here it starts as the identity; after training it folds into the weights of the projection before it.
    """

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(heads, 1, width))
        self.shift = nn.Parameter(torch.zeros(heads, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain + self.shift


# ---- Building. ----


@torch.no_grad()
def quantise(model: ViT, method: Recipe, images: Tensor, batch: int = 64) -> ViT:
    """Return a copy of ``model`` quantised by a recipe, its ranges taken on ``images`` uint8 (N, channels, side, side).

    The copy has the model's weights; ``lib.acap.qat`` trains them. BookError for a convolution stem, or no images.
    """
    if model.config.stem != "patch":
        raise BookError("a convolution stem is not quantised here; take a model of patches")
    if any(isinstance(module, QuantLinear) for module in model.modules()):
        raise BookError("the model is quantised already; give the FP32 model it was made from")
    if not len(images):
        raise BookError("there are no images to calibrate on; give at least one")
    quantised = copy.deepcopy(model).eval()
    if not method.quantised:
        return quantised
    _replace_linears(quantised, method)
    _replace_nonlinearities(quantised, method)
    sites = _make_sites(quantised, method)
    samples = listen(quantised, list(sites), images, batch)
    for name, site in sites.items():
        _calibrate(name, site, samples[name], method)
    for name, site in sites.items():
        if method.rectify and name.endswith((".q", ".k")):
            site = nn.Sequential(Rectify(model.config.heads, model.config.head_width), site)
        quantised.set_submodule(name, site)
    return quantised


def _replace_linears(model: ViT, method: Recipe) -> None:
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear):
            bits = method.weight_bits if name.startswith("blocks.") else EDGE_BITS
            replaced = QuantLinear(layer, bits, method.rows, method.learned)
            low, high = _weight_range(layer.weight, bits, method)
            replaced.quantiser.set_range(low, high)
            model.set_submodule(name, replaced)


def _weight_range(weight: Tensor, bits: int, method: Recipe) -> tuple[Tensor, Tensor]:
    """Weights have no long tail: their full range, or the one of least error; by row or in one."""
    if method.ranges == "omse":
        low, high = omse_rows(weight if method.rows else weight.flatten()[None], bits)
    else:
        high = weight.abs().amax(dim=1, keepdim=True) if method.rows else weight.abs().max()
        low = -high
    return (low, high) if method.rows else (low.view(1), high.view(1))


def _replace_nonlinearities(model: ViT, method: Recipe) -> None:
    width = model.config.head_width
    for block in model.blocks:
        if method.softmax == "iexp":
            block.attention.softmax = IntegerExpSoftmax(width)
        elif method.softmax == "base2":
            block.attention.softmax = Base2Softmax(width, method.attention_bits)


def _make_sites(model: ViT, method: Recipe) -> dict[str, nn.Module]:
    """Make a quantiser for every site of the model that the recipe rounds, by the site's name."""
    bits, sites = method.activation_bits, {}
    for name, site in model.named_modules():
        kind = name.rsplit(".", 1)[-1]
        if not isinstance(site, nn.Identity):
            continue
        if kind in ("embedded", "residual1", "residual2") and method.residual == "ptc":
            sites[name] = PowerOfTwo(model.config.dim, bits)
        elif kind in ("embedded", "residual1", "residual2", "activated"):
            sites[name] = Uniform(bits, signed=False, learned=method.learned)
        elif kind == "map" and method.softmax != "base2":
            log2 = method.attention_map == "log2"
            grid = Uniform(method.attention_bits, signed=False, learned=method.learned)
            sites[name] = Log2Q(method.attention_bits) if log2 else grid
        elif kind in ("q", "k", "v", "context", "normed1", "normed2", "normed") or (kind == "hidden" and method.table):
            sites[name] = Uniform(bits, learned=method.learned)
    return sites


def listen(model: ViT, names: list[str], images: Tensor, batch: int = 64) -> dict[str, list[Tensor]]:
    """Return what passes the named sites, one tensor a batch of ``images`` uint8 (N, channels, side, side)."""
    heard: dict[str, list[Tensor]] = {name: [] for name in names}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: heard[name].append(out))
        for name in names
    ]
    for some in images.split(batch):
        model(some.to(next(model.parameters()).device))
    for handle in handles:
        handle.remove()
    return heard


def _calibrate(name: str, site: nn.Module, samples: list[Tensor], method: Recipe) -> None:
    if isinstance(site, PowerOfTwo):
        x = torch.cat(samples)
        site.initialise(x)
        if not method.trained:  # what training searches, calibration must
            site.search(x)
    elif name.endswith("activated") and method.clip == "one_sided":
        site.set_range(torch.tensor(gelu.LOWEST), max(x.max() for x in samples).clamp_max(gelu.HIGHEST))
    elif name.endswith("activated") and method.clip == "printed":
        site.set_range(torch.tensor(-gelu.HIGHEST), torch.tensor(gelu.HIGHEST))
    elif isinstance(site, Uniform):
        set_range(site, method.ranges, samples)


# ---- What is in it. ----


def residuals(model: ViT) -> Iterator[tuple[str, PowerOfTwo]]:
    """Yield the residual stream's quantisers that have coefficients, by name."""
    yield from ((name, site) for name, site in model.named_modules() if isinstance(site, PowerOfTwo))
