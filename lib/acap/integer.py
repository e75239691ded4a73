"""A whole Vision Transformer in integers, in NumPy: what the hardware computes, number for number.

``IntegerViT`` is made from a model that ``lib.acap.qat`` trained by EQ-ViT's recipe. Between operators only codes of
eight bits and attention's shift counts pass, scores and the Linear's part of a residual sum included, so that all
that leaves a matrix product is a byte, as in the paper. Inside a Linear are int32 sums and 24-bit multipliers with a
shift, 55 bits before it; inside attention sums of shifted values, of 31 bits up to 1,024 tokens; inside LayerNorm an
integer square root of 50 bits, and products of up to 43. The codes are those of the PyTorch model but for a last bit
here and there; residual sums differ by one in a quarter of their places, for PyTorch rounds them once and this model
each part. A trace keeps every operator's output by name, which is what generated hardware is held to.

Shapes: N images, T tokens, C width, H heads, D = C/H. All arrays are int64 here.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lib.acap.attention import Base2Softmax, base2_codes_twin, weigh_twin
from lib.acap.gelu import gelu_table, gelu_twin
from lib.acap.outliers import PowerOfTwo
from lib.acap.uniform import QuantLinear, Uniform, exact_product
from lib.acap.vit import PIXEL_SCALE, PIXEL_ZERO, Block, ViT, ViTConfig, check_images, cut_patches
from lib.errors import BookError

MULTIPLIER_BITS = 24  # the narrower input of Versal's DSP58, which multiplies 27 by 24 bits
ROOT_BITS = 6  # fraction bits of LayerNorm's square root
INVERSE_BITS = 40  # of its reciprocal: 2^40 / root
NORM_BITS = 16  # fraction bits of a normalised value, and of the gain after it

Trace = dict[str, np.ndarray]


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def _scale(site: Uniform) -> float:
    return site.scale.item()


@dataclass(frozen=True)
class Rescale:
    """Multiplication by real factors, as hardware does it: (x m + half) >> shift, m of 24 bits, one shift for all."""

    multiplier: np.ndarray  # int64, () or (channels,)
    shift: int

    @classmethod
    def by(cls, factor: np.ndarray) -> Rescale:
        """Choose the largest shift whose multipliers stay below 2^23; BookError if a factor is no positive number."""
        factor = np.asarray(factor, np.float64)
        if not (np.isfinite(factor).all() and (factor > 0).all()):
            raise BookError("a scale of the quantised model is not a positive number; train or calibrate it again")
        shift = int(np.floor(np.log2((2 ** (MULTIPLIER_BITS - 1) - 1) / factor.max())))
        return cls(np.rint(factor * 2.0**shift).astype(np.int64), shift)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return shift_round(x * self.multiplier, self.shift)


def shift_round(x: np.ndarray, shift: int) -> np.ndarray:
    """Return x / 2^shift, rounded to the nearest integer, halves upwards."""
    return (x + (1 << shift >> 1)) >> shift if shift > 0 else x << -shift


def signed8(x: np.ndarray) -> np.ndarray:
    """Saturate to the codes of a symmetric quantiser of 8 bits."""
    return np.clip(x, -127, 127)


@dataclass(frozen=True)
class IntegerLinear:
    """int8 (..., in) to int32 sums (..., out): weight (out, in), bias (out,) or (T, out) in units of the sums."""

    weight: np.ndarray
    bias: np.ndarray
    scale: np.ndarray  # float64 (out,): what one unit of the sums means; used to make rescalings, not at run time

    @classmethod
    def of(cls, layer: QuantLinear, scale: float, zero: int = 0, extra: np.ndarray | float = 0.0) -> IntegerLinear:
        """Take a layer's codes; its inputs are codes of ``scale`` and ``zero``. ``extra`` joins the bias, (T, out)."""
        weight = layer.codes().numpy()
        units = scale * _array(layer.quantiser.scale).reshape(-1)  # (out,), or (1,) for a weight of one scale
        units = np.broadcast_to(units, (len(weight),))
        bias = np.rint((_array(layer.bias) + extra) / units).astype(np.int64) - zero * weight.sum(axis=1)
        if (255 * np.abs(weight).sum(axis=1) + np.abs(bias)).max() >= 2**31:
            raise BookError("a Linear's sums outgrow 32 bits; calibrate the model again")
        return cls(weight, bias, units)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return exact_product(x, self.weight.T) + self.bias


@dataclass(frozen=True)
class Residual:
    """The residual stream's grid at one place: a code c of channel i means (c - zero) 2^r_i scale."""

    scale: float
    zero: int
    r: np.ndarray  # int64 (C,)
    last: int

    @classmethod
    def of(cls, site: PowerOfTwo) -> Residual:
        return cls(float(site.scale), int(site.zero), site.r.numpy().astype(np.int64), site.last)

    @property
    def steps(self) -> np.ndarray:
        return self.scale * 2.0**self.r

    def units(self, codes: np.ndarray) -> np.ndarray:
        """Return codes as integers of one unit, the scale: a subtraction and a shift."""
        return (codes - self.zero) << self.r

    def saturate(self, x: np.ndarray) -> np.ndarray:
        return np.clip(x + self.zero, 0, self.last)


@dataclass(frozen=True)
class Add:
    """The residual sum: the Linear's part and the stream, both brought to the new grid, added and saturated."""

    to_branch: Rescale  # the Linear's sums to steps of the new grid, where they leave the matrix product as int8
    to_stream: Rescale  # the old codes, zero point taken off, to the same steps
    old: Residual
    new: Residual

    @classmethod
    def of(cls, linear: IntegerLinear, old: Residual, new: Residual) -> Add:
        return cls(Rescale.by(linear.scale / new.steps), Rescale.by(old.steps / new.steps), old, new)

    def branch(self, sums: np.ndarray) -> np.ndarray:
        return signed8(self.to_branch(sums))

    def __call__(self, branch: np.ndarray, codes: np.ndarray) -> np.ndarray:
        return self.new.saturate(branch + self.to_stream(codes - self.old.zero))


@dataclass(frozen=True)
class LayerNorm:
    """Codes of the residual stream to int8: n = C u - sum(u) over the square root of D = C sum(u^2) - sum(u)^2."""

    gain: np.ndarray  # int64 (C,), NORM_BITS fraction bits, over the output's scale
    bias: np.ndarray  # int64 (C,), 2 NORM_BITS fraction bits
    epsilon: int
    residual: Residual

    @classmethod
    def of(cls, norm: torch.nn.LayerNorm, site: Uniform, residual: Residual) -> LayerNorm:
        width, scale = norm.normalized_shape[0], _scale(site)
        gain = np.rint(_array(norm.weight) / scale * 2**NORM_BITS).astype(np.int64)
        bias = np.rint(_array(norm.bias) / scale * 2 ** (2 * NORM_BITS)).astype(np.int64)
        return cls(gain, bias, max(1, round(norm.eps * (width / residual.scale) ** 2)), residual)

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        u = self.residual.units(codes)  # 11 bits and sign
        width, total = u.shape[-1], u.sum(axis=-1, keepdims=True)
        deviation = width * u - total
        spread = width * (u * u).sum(axis=-1, keepdims=True) - total * total + self.epsilon
        inverse = (1 << INVERSE_BITS) // integer_root(spread << (2 * ROOT_BITS))  # one division a token
        normalised = (deviation * inverse) >> (INVERSE_BITS - ROOT_BITS - NORM_BITS)
        return signed8(shift_round(normalised * self.gain + self.bias, 2 * NORM_BITS))


def integer_root(x: np.ndarray) -> np.ndarray:
    """Return floor(sqrt(x)) for 0 <= x < 2^52: the estimate in double precision, corrected."""
    root = np.sqrt(x.astype(np.float64)).astype(np.int64)
    root = root - (root * root > x)
    return root + ((root + 1) * (root + 1) <= x)


@dataclass(frozen=True)
class IntegerBlock:
    """One encoder block, from codes of the residual stream to codes of the residual stream, both uint8 (N, T, C)."""

    heads: int
    norm1: LayerNorm
    qkv: IntegerLinear
    to_qkv: Rescale  # sums to q, k and v
    to_scores: Rescale  # q.k to scores of eight bits, ``fraction`` of them after the binary point
    fraction: int
    attention_bits: int
    to_context: Rescale
    out: IntegerLinear
    add1: Add
    norm2: LayerNorm
    up: IntegerLinear
    to_hidden: Rescale
    table: np.ndarray
    down: IntegerLinear
    add2: Add

    @classmethod
    def of(cls, block: Block, before: Residual) -> IntegerBlock:
        attention, feed_forward = block.attention, block.feed_forward
        q, k, v, context = (_scale(site) for site in (attention.q, attention.k, attention.v, attention.context))
        residual1, residual2 = Residual.of(block.residual1), Residual.of(block.residual2)
        qkv = IntegerLinear.of(attention.qkv, _scale(block.normed1))
        out = IntegerLinear.of(attention.out, context)
        up = IntegerLinear.of(feed_forward.up, _scale(block.normed2))
        down = IntegerLinear.of(feed_forward.down, _scale(feed_forward.activated), int(feed_forward.activated.zero))
        softmax, width = attention.softmax, len(out.weight)
        return cls(
            heads=attention.heads,
            norm1=LayerNorm.of(block.norm1, block.normed1, before),
            qkv=qkv,
            to_qkv=Rescale.by(qkv.scale / np.repeat((q, k, v), width)),
            to_scores=Rescale.by(np.float64(q * k * softmax.scale * 2**softmax.fraction)),
            fraction=softmax.fraction,
            attention_bits=softmax.bits,
            to_context=Rescale.by(np.float64(v / context / 2.0 ** (2**softmax.bits - 2))),
            out=out,
            add1=Add.of(out, before, residual1),
            norm2=LayerNorm.of(block.norm2, block.normed2, residual1),
            up=up,
            to_hidden=Rescale.by(up.scale / _scale(feed_forward.hidden)),
            table=gelu_table(feed_forward.hidden, feed_forward.activated),
            down=down,
            add2=Add.of(down, residual1, residual2),
        )

    def __call__(self, codes: np.ndarray, trace: Trace | None = None, name: str = "block") -> np.ndarray:
        trace = {} if trace is None else trace
        N, T, C = codes.shape
        normed1 = self.norm1(codes)
        qkv = signed8(self.to_qkv(self.qkv(normed1)))  # (N, T, 3C)
        q, k, v = qkv.reshape(N, T, 3, self.heads, C // self.heads).transpose(2, 0, 3, 1, 4)  # each (N, H, T, D)
        scores = signed8(self.to_scores(exact_product(q, k.swapaxes(2, 3))))  # (N, H, T, T)
        shifts = base2_codes_twin(scores, self.attention_bits, self.fraction)
        weighed = weigh_twin(shifts, v, self.attention_bits)
        context = signed8(self.to_context(weighed)).transpose(0, 2, 1, 3).reshape(N, T, C)
        branch1 = self.add1.branch(self.out(context))
        residual1 = self.add1(branch1, codes)
        normed2 = self.norm2(residual1)
        hidden = signed8(self.to_hidden(self.up(normed2)))
        activated = gelu_twin(hidden, self.table)
        branch2 = self.add2.branch(self.down(activated))
        residual2 = self.add2(branch2, residual1)
        steps = {"normed1": normed1, "q": q, "k": k, "v": v, "scores": scores, "shifts": shifts, "context": context}
        steps |= {"branch1": branch1, "residual1": residual1, "normed2": normed2, "hidden": hidden}
        steps |= {"activated": activated, "branch2": branch2, "residual2": residual2}
        trace.update({f"{name}.{step}": value for step, value in steps.items()})
        return residual2


def _check(model: ViT) -> None:
    """Raise BookError unless everything between a model's operators is codes of eight bits, and its softmax base 2."""
    sites = [model.embedded, model.normed]
    for block in model.blocks:
        attention, feed_forward = block.attention, block.feed_forward
        sites += [block.normed1, block.residual1, block.normed2, block.residual2]
        sites += [attention.q, attention.k, attention.v, attention.context, feed_forward.hidden, feed_forward.activated]
    softmaxes = [block.attention.softmax for block in model.blocks]
    eight = all(isinstance(site, (Uniform, PowerOfTwo)) and site.bits == 8 for site in sites)
    streams = [model.embedded, *(site for b in model.blocks for site in (b.residual1, b.residual2))]
    integers = all(isinstance(site, PowerOfTwo) for site in streams)
    base2 = all(isinstance(softmax, Base2Softmax) and softmax.bits <= 4 for softmax in softmaxes)
    if not (eight and integers and base2):
        raise BookError("only a model of EQ-ViT's recipe is all integers; quantise it by eqvit or eqvit_w4a8")


@dataclass(frozen=True)
class IntegerViT:
    """The model: bytes in, whole-numbered logits out."""

    patch: int
    stem: IntegerLinear  # its bias is (T - 1, C): the positions are in it
    to_embedded: Rescale
    class_codes: np.ndarray  # (C,): the class token at its position, a constant
    embedded: Residual
    blocks: list[IntegerBlock] = field(repr=False)
    norm: LayerNorm
    head: IntegerLinear
    to_logits: Rescale

    @classmethod
    def of(cls, model: ViT) -> IntegerViT:
        """Take the codes of a quantised model; BookError if it was not quantised by EQ-ViT's recipe."""
        _check(model)
        model = copy.deepcopy(model).cpu().eval()
        embedded = Residual.of(model.embedded)
        stem = IntegerLinear.of(model.stem.linear, PIXEL_SCALE, extra=_array(model.position[0, 1:]))
        blocks, before = [], embedded
        for block in model.blocks:
            blocks.append(IntegerBlock.of(block, before))
            before = Residual.of(block.residual2)
        head = IntegerLinear.of(model.head, _scale(model.normed))
        return cls(
            patch=model.config.patch,
            stem=stem,
            to_embedded=Rescale.by(stem.scale / embedded.steps),
            class_codes=model.embedded.codes(model.class_token[0, 0] + model.position[0, 0]).numpy(),
            embedded=embedded,
            blocks=blocks,
            norm=LayerNorm.of(model.norm, model.normed, before),
            head=head,
            to_logits=Rescale.by(head.scale / head.scale.max()),  # logits need no scale, but one for all
        )

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Cut images uint8 (N, channels, side, side) and embed them: codes (N, T, C)."""
        pixels = torch.from_numpy(images.astype(np.int64) - PIXEL_ZERO)
        sums = self.stem(cut_patches(pixels, self.patch).numpy())
        codes = self.embedded.saturate(self.to_embedded(sums))
        first = np.broadcast_to(self.class_codes, (len(images), 1, len(self.class_codes)))
        return np.concatenate((first, codes), axis=1)

    def __call__(self, images: np.ndarray, trace: Trace | None = None) -> np.ndarray:
        """Map uint8 images to logits (N, classes), int64; ``trace``, if given, receives every operator's output."""
        trace = {} if trace is None else trace
        trace["embedded"] = codes = self.embed(images)
        for number, block in enumerate(self.blocks):
            codes = block(codes, trace, f"blocks.{number}")
        trace["normed"] = normed = self.norm(codes[:, 0])
        return self.to_logits(self.head(normed))

    def predict(self, images: Tensor, model: ViT, batch: int = 100) -> np.ndarray:
        """Return the classes of uint8 images, int64 (N,); BookError if they are not of the size ``model`` takes."""
        check_images(images, model.config)
        return np.concatenate([self(some.numpy()).argmax(axis=1) for some in images.split(batch)])


def random_integers(config: ViTConfig, seed: int = 0) -> IntegerViT:
    """Return a model of random integers of the right shapes, for designs whose speed matters and whose answers do not.

    Half of the multipliers are powers of two, so that sums halfway between two codes do occur.
    """
    rng, C = np.random.default_rng(seed), config.dim

    def linear(out: int, inner: int, *rows: int) -> IntegerLinear:
        return IntegerLinear(rng.integers(-127, 128, (out, inner)), rng.integers(-999, 999, (*rows, out)), np.ones(out))

    def rescale(shift: int, *sides: int) -> Rescale:
        return Rescale(np.where(rng.random(sides) < 0.5, 2**22, rng.integers(2**21, 2**23, sides)), shift)

    def residual() -> Residual:
        return Residual(0.1, int(rng.integers(100, 150)), rng.integers(0, 4, C), 255)

    def norm() -> LayerNorm:
        return LayerNorm(rng.integers(2**20, 2**22, C), rng.integers(-(2**36), 2**36, C), 100, residual())

    def block() -> IntegerBlock:
        hidden = config.mlp_ratio * C
        adds = [Add(rescale(32, C), rescale(22, C), residual(), residual()) for _ in range(2)]
        attention = (linear(3 * C, C), rescale(31, 3 * C), rescale(31), 3, 4, rescale(39), linear(C, C), adds[0])
        feed_forward = (linear(hidden, C), rescale(31, hidden), rng.integers(0, 256, 256), linear(C, hidden), adds[1])
        return IntegerBlock(config.heads, norm(), *attention, norm(), *feed_forward)

    blocks = [block() for _ in range(config.depth)]
    stem, head = linear(C, config.patch**2 * config.channels, config.patches), linear(config.classes, C)
    first = (stem, rescale(31, C), rng.integers(0, 256, C), residual())
    return IntegerViT(config.patch, *first, blocks, norm(), head, rescale(23, config.classes))
