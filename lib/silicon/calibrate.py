"""From a trained checkpoint to an integer model: where to put the steps of every vector.

First the float model is rewritten, exactly: LayerNorm's gain and bias move into the Linear behind it, the residual
stream and the heads' values turn into a random basis (``lib.deploy.rotate``), and whatever writes to the stream loses
its mean, so that LayerNorm is a division by the root mean square. In the new basis no channel stands out, and
``golden.NORM_LEVELS`` steps a standard deviation serve every layer. Then the float model reads training text, each
vector gets the range of least squared error, weights are rounded, and every factor between two scales becomes a
multiplication and a shift.

A random basis and a mean taken off a row fill the zeros of a pruned model. ``keep_zeros`` does without: outliers then
have room because the steps are half as fine, and the little that the matrices add to the mean stays in the stream.

    python -m lib.silicon.calibrate data/checkpoints/pocket.safetensors --out out/pocket.safetensors
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import platform
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor
from tqdm import tqdm

from lib.affine import SMALLEST_SCALE, Grid, asymmetric, symmetric
from lib.checkpoint import load_model
from lib.corpus import SOURCES, Corpus, load_stories
from lib.deploy import DeployedGPT, deploy, fold_norms, linears, rotate
from lib.errors import BookError, run_command
from lib.evaluate import check_characters, scores_beside
from lib.files import sha256
from lib.gpt import GPT, Block
from lib.gptq import gptq_round
from lib.ptq import calibration_windows, check_windows
from lib.silicon import golden
from lib.silicon.golden import IntegerModel, Layer, Product, Shape
from lib.silicon.model_file import Calibrated, LayerScales, save

HEADROOM = 2  # times the largest residual, or logit, of the calibration text still fits 16 bits
CHARACTERS = 16_384  # of training text to calibrate on
BATCH = 16
BINS = 4096

NORM_SCALE = 1 / golden.NORM_LEVELS  # a step of the normalised vector, everywhere
LEVELS_WITH_OUTLIERS = golden.NORM_LEVELS // 2  # in the model's own basis: 127 lies at 9 standard deviations


# ---- The same model, made ready. ----


@torch.no_grad()
def fold(model: GPT, keep_zeros: bool = False) -> DeployedGPT:
    """Return a model of the same logits, in a basis without outliers, whose LayerNorms have no gain and find no mean.

    The mean over the width is taken off whatever writes to the residual stream, instead of off the stream.
    ``keep_zeros`` leaves the basis alone, and the blocks' matrices: their LayerNorms then still find a small mean.
    """
    folded = fold_norms(deploy(model)) if keep_zeros else rotate(deploy(model))
    for block in folded.blocks:
        for writer in (block.attention.out, block.feed_forward.down):
            writer.bias -= writer.bias.mean()
            if not keep_zeros:
                writer.weight -= writer.weight.mean(dim=0)
        for reader in (block.attention.qkv, block.feed_forward.up):
            if not keep_zeros:
                reader.weight -= reader.weight.mean(dim=1, keepdim=True)
    for table in (folded.token, folded.position, folded.unembed):
        table.weight -= table.weight.mean(dim=1, keepdim=True)
    return folded


@dataclass(frozen=True)
class Statistics:
    """What the float model showed on the calibration text.

    layers: the scales of its bytes; residual, logits: largest magnitudes; grams: X^T X of each product's inputs X.
    """

    layers: tuple[LayerScales, ...]
    residual: float
    logits: float
    grams: dict[str, Tensor]


# ---- Ranges of least squared error. ----


def best_symmetric(values: Tensor) -> Grid:
    """Return the grid of 256 steps around 0 that rounds and clips the values with the least squared error."""
    counts, centres = _histogram(values)
    magnitude = np.abs(centres).max()
    grids = [symmetric(magnitude * share, narrow=False) for share in np.linspace(1, 0.2, 81)]
    return min(grids, key=lambda grid: counts @ (grid.round(centres) - centres) ** 2)


def best_asymmetric(values: Tensor, through: Callable[[Tensor], Tensor] = lambda x: x) -> Grid:
    """Return the grid of the bytes -128 to 127 that does the least squared error to ``through(values)``.

    Each end is searched in turn, the other held. ``through`` is what comes next: what it levels out is not worth steps.
    """
    counts, centres = _histogram(values)
    exact = through(torch.from_numpy(centres)).numpy()

    def error(ends: tuple[float, float]) -> float:
        return counts @ (through(torch.from_numpy(asymmetric(*ends).round(centres))).numpy() - exact) ** 2

    low, high = ends = (min(0.0, float(centres[0])), max(0.0, float(centres[-1])))
    for _ in range(2):
        ends = min(((ends[0], high * share) for share in np.linspace(1, 0.02, 99)), key=error)
        ends = min(((low * share, ends[1]) for share in np.linspace(1, 0.02, 99)), key=error)
    grid = asymmetric(*ends)
    return Grid(grid.scale, grid.zero - 128, -128, 127)


def _histogram(values: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return how many values lie in each of BINS equal bins, and the bins' centres, both float32 (BINS,)."""
    low, high = (float(end) for end in values.aminmax())
    high = max(high, low + float(SMALLEST_SCALE))
    edges = np.linspace(low, high, BINS + 1)
    counts = torch.histc(values, BINS, low, high).numpy()
    return counts, ((edges[:-1] + edges[1:]) / 2).astype(np.float32)


def best_halved(mix: Tensor, v: Grid) -> Grid:
    """Return v's grid with its steps halved 0 to 3 times, for attention's mix, which averages v and so is smaller."""
    counts, centres = _histogram(mix)
    grids = [dataclasses.replace(v, scale=v.scale / 2**shift) for shift in range(4)]
    return min(grids, key=lambda grid: counts @ (grid.round(centres) - centres) ** 2)


# ---- Watching the float model. ----


@contextmanager
def recorded(module: nn.Module) -> Iterator[dict[str, list[tuple[Tensor, Tensor]]]]:
    """Collect what goes into and comes out of each Linear of ``module`` while the block lasts, call after call."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in linears(module)}

    def hook(name: str) -> Callable:
        return lambda _module, inputs, output: seen[name].append((inputs[0], output))

    handles = [layer.register_forward_hook(hook(name)) for name, layer in linears(module).items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def observe(folded: DeployedGPT, tokens: np.ndarray, progress: bool = False) -> Statistics:
    """Let the folded model read tokens, int64 (N, T), block after block, and choose each block's scales."""
    positions = torch.arange(tokens.shape[1])
    streams = [folded.token(some) + folded.position(positions) for some in torch.from_numpy(tokens).split(BATCH)]
    layers, grams, peak = [], {}, _largest(streams)
    for i, block in enumerate(tqdm(folded.blocks, desc="calibrating", leave=False, disable=not progress)):
        with recorded(block) as seen:
            streams = [block(x) for x in streams]
        peak = max(peak, _largest(streams))
        both = {name.split(".")[-1]: [torch.cat(part) for part in zip(*calls)] for name, calls in seen.items()}
        grams |= {f"layers.{i}.{name}": _gram(inputs) for name, (inputs, _) in both.items()}
        layers.append(_scales(block, both))
    gram = sum(_gram(folded.norm(x)) for x in streams)
    logits = _largest([folded.head(x) for x in streams])
    return Statistics(tuple(layers), peak, logits, grams | {"head": gram})


def _scales(block: Block, seen: dict[str, list[Tensor]]) -> LayerScales:
    q, k, v = (best_symmetric(part) for part in seen["qkv"][1].chunk(3, dim=-1))
    up = best_asymmetric(seen["up"][1], block.feed_forward.activation)
    gelu = best_asymmetric(seen["down"][0])
    symmetric_ones = (float(grid.scale) for grid in (q, k, v, best_halved(seen["out"][0], v)))
    return LayerScales(*symmetric_ones, float(up.scale), int(up.zero), float(gelu.scale), int(gelu.zero))


def _largest(tensors: Sequence[Tensor]) -> float:
    return max(float(x.abs().max()) for x in tensors)


def _gram(x: Tensor) -> Tensor:
    rows = x.flatten(0, -2)
    return (rows.T @ rows).double()


# ---- Rounding. ----


def round_weight(weight: Tensor, least: np.ndarray, bits: int, gram: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Round weight (O, I), float64: codes int8 (O, I), and a step for each row, float64 (O,), at least ``least`` (O,).

    The step has the least squared error. Below eight bits it is GPTQ that rounds, against the inputs' ``gram``.
    """
    limit = 2 ** (bits - 1) - 1
    widest = np.maximum(weight.abs().amax(dim=1).numpy() / limit, least)
    steps = np.maximum(widest * np.linspace(1, 0.5, 51)[:, None], least)  # (candidates, O)
    errors = [((torch.from_numpy(step)[:, None] * _codes(weight, step, limit) - weight) ** 2).sum(1) for step in steps]
    scale = steps[torch.stack(errors).argmin(dim=0).numpy(), np.arange(len(weight))]
    if bits < 8:
        weight = gptq_round(weight, gram, torch.from_numpy(scale)[:, None], bits)
    return _codes(weight, scale, limit).to(torch.int8).numpy(), scale


def _codes(weight: Tensor, scale: np.ndarray, limit: int) -> Tensor:
    return (weight / torch.from_numpy(scale)[:, None]).round().clamp(-limit, limit)


@dataclass(frozen=True)
class Sides:
    """What the numbers on both sides of a product mean: scales and zero points; scale_out is one, or float64 (O,)."""

    scale_in: float
    scale_out: float | np.ndarray
    zero_in: int = 0
    zero_out: int = 0


def sides(scales: LayerScales, norm_scale: float, residual_scale: float, width: int) -> dict[str, Sides]:
    """Return the sides of a layer's products, by their names in ``golden.Layer``."""
    return {
        "qkv": Sides(norm_scale, np.repeat([scales.q, scales.k, scales.v], width)),
        "out": Sides(scales.mix, residual_scale),
        "up": Sides(norm_scale, scales.up, zero_out=scales.up_zero),
        "down": Sides(scales.gelu, residual_scale, zero_in=scales.gelu_zero),
    }


@dataclass(frozen=True)
class Rounder:
    """Makes integer products of Linears, and remembers the steps of their weights."""

    bits: int
    norm_scale: float
    grams: dict[str, Tensor]
    weight_scales: dict[str, np.ndarray]

    def product(self, name: str, linear: nn.Linear, sides: Sides) -> Product:
        """Round a Linear. The input's zero point and the output's both move into the bias."""
        bias = linear.bias.detach().double().numpy() + sides.zero_out * sides.scale_out
        # A row of tiny weights gets steps so wide that its bias takes at most 22 of the sum's 24 bits.
        least = np.maximum(np.abs(bias) / (sides.scale_in * 2**21), float(SMALLEST_SCALE))
        weight, scale = round_weight(linear.weight.detach().double(), least, self.bits, self.grams[name])
        self.weight_scales[name] = scale
        multiplier, shift = golden.dyadic(scale * sides.scale_in / sides.scale_out)
        sums = np.rint(bias / (scale * sides.scale_in)) - sides.zero_in * weight.sum(axis=1, dtype=np.int64)
        return Product(weight, sums.astype(np.int32), multiplier, shift)

    def layer(self, name: str, block: Block, scales: LayerScales, residual_scale: float) -> Layer:
        """Round one block."""
        octaves = scales.q * scales.k * math.log2(math.e) / block.attention.head_width**0.5
        (multiplier,), shift = golden.dyadic(np.array([octaves * 2**golden.FRACTION]))
        named = sides(scales, self.norm_scale, residual_scale, block.attention.out.in_features)
        layers = {path.split(".")[-1]: linear for path, linear in linears(block).items()}
        return Layer(
            **{field: self.product(f"{name}.{field}", layers[field], named[field]) for field in named},
            gelu=activation_table(block.feed_forward.activation, scales),
            score_multiplier=int(multiplier),
            score_shift=shift,
            mix_shift=round(math.log2(scales.v / scales.mix)),
        )


def activation_table(activation: Callable[[Tensor], Tensor], scales: LayerScales) -> np.ndarray:
    """Tabulate an activation from byte to byte: int8 (256,), of code -128 first."""
    x = scales.up * (torch.arange(-128, 128, dtype=torch.float64) - scales.up_zero)
    return (activation(x) / scales.gelu).round().add(scales.gelu_zero).clamp(-128, 127).to(torch.int8).numpy()


def calibrate(
    model: GPT, tokens: np.ndarray, weight_bits: int = 8, progress: bool = False, keep_zeros: bool = False
) -> Calibrated:
    """Make an integer model of ``model``, calibrated on tokens, int64 (N, block), of training text.

    keep_zeros: a weight of the blocks that is zero stays zero, for a core that skips them.

    Raises BookError for tokens that do not fit the model, and, from ``golden.check``, for a model that could overflow.
    """
    check_windows(tokens, model)
    if not 4 <= weight_bits <= 8:
        raise BookError(f"weights of {weight_bits} bits are not supported; choose 4 to 8")
    c = model.config
    if c.block > golden.POSITIONS:
        raise BookError(f"the block is {c.block}, and {golden.POSITIONS} positions are the most; train a shorter one")
    if keep_zeros and weight_bits < 8:
        raise BookError(f"GPTQ, which rounds weights of {weight_bits} bits, fills zeros; keep them with 8 bits only")
    folded = fold(model, keep_zeros)
    levels = LEVELS_WITH_OUTLIERS if keep_zeros else golden.NORM_LEVELS
    found = observe(folded, tokens, progress)
    tables = [table.weight.detach().double().numpy() for table in (folded.token, folded.position)]
    wanted = HEADROOM * found.residual / (2**15 - 1)  # the finest step of the residual that gives the headroom
    embed_scale = max(max(np.abs(table).max() for table in tables) / 127, wanted)
    embed_shift = min(math.floor(math.log2(embed_scale / wanted)), 7)  # 2 * 127 << 7 still fits 16 bits
    residual_scale, logits_scale = embed_scale / 2**embed_shift, HEADROOM * found.logits / (2**15 - 1)
    rounder = Rounder(weight_bits, 1 / levels, found.grams, {})
    rsqrt, rsqrt_shift = golden.rsqrt_table(c.n_embd, levels)
    integer = IntegerModel(
        Shape(c.n_layer, c.n_embd, c.n_head, c.block, c.vocab, weight_bits),
        *(np.rint(table / embed_scale).astype(np.int8) for table in tables),
        embed_shift,
        tuple(
            rounder.layer(f"layers.{i}", block, scales, residual_scale)
            for i, (block, scales) in enumerate(zip(folded.blocks, found.layers))
        ),
        rounder.product("head", folded.unembed, Sides(rounder.norm_scale, logits_scale)),
        max(1, round(folded.norm.eps * c.n_embd / residual_scale**2)),
        rsqrt,
        rsqrt_shift,
    )
    golden.check(integer)
    return Calibrated(integer, residual_scale, logits_scale, found.layers, rounder.weight_scales)


# ---- The command. ----


def make(
    checkpoint: Path, weight_bits: int, corpus: Corpus, characters: int = 25_600, keep_zeros: bool = False
) -> tuple[Calibrated, dict[str, Any]]:
    """Return the integer model of a checkpoint file, and its card with the scores on so many characters.

    Raises BookError for a file that holds no model, fewer characters than its block, and as ``calibrate`` does.
    """
    model = load_model(checkpoint)
    check_characters(characters, model.config.block)
    tokens = calibration_windows(corpus, max(1, CHARACTERS // model.config.block), model.config.block)
    calibrated = calibrate(model, tokens, weight_bits, progress=True, keep_zeros=keep_zeros)
    card = {
        "checkpoint": {"name": checkpoint.stem, "sha256": sha256(checkpoint)},
        "model": dataclasses.asdict(calibrated.model.shape),
        **({"zeros": "kept"} if keep_zeros else {}),
        "calibration": {
            "corpus": corpus.name,
            "source": corpus.source,
            "train_sha256": corpus.meta["splits"]["train"]["sha256"],
            "windows": len(tokens),
            "characters": tokens.size,
        },
        "residual_scale": calibrated.residual_scale,
        "logits_scale": calibrated.logits_scale,
        "scores": scores_beside(model, calibrated.logits, corpus, characters, batch=8),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "date": time.strftime("%Y-%m-%d"),
    }
    return calibrated, card


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.silicon.calibrate", description="Make an integer model.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write, with a .json card")
    parser.add_argument("--weight-bits", type=int, default=8, help="bits of a weight, 4 to 8; GPTQ rounds below 8")
    parser.add_argument("--keep-zeros", action="store_true", help="of a pruned model, for the core that skips them")
    parser.add_argument("--characters", type=int, default=25_600, help="validation characters to score at the end")
    parser.add_argument("--source", choices=SOURCES, default="auto", help="where the text comes from")
    given = parser.parse_args()
    if given.out.suffix != ".safetensors":
        raise BookError(f"--out is {given.out}; name a file that ends in .safetensors")
    if given.out.resolve() == given.checkpoint.resolve():
        raise BookError(f"--out is the checkpoint itself, {given.out}, which would be lost; name another file")
    corpus = load_stories(given.source)
    calibrated, card = make(given.checkpoint, given.weight_bits, corpus, given.characters, given.keep_zeros)
    save(given.out, calibrated, card)
    found = card["scores"]
    print(
        f"{given.out}: {given.out.stat().st_size:,} bytes, perplexity {found['ppl_increase_pct']:+.2f} % "
        f"on {found['characters']:,} characters of {found['corpus']}"
    )


if __name__ == "__main__":
    run_command(main)
