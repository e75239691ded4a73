"""The integer GPT: the specification that the RTL of ``hw/rtl/core.sv`` is held against, bit for bit.

No number here has a point. What a Linear layer makes is a sum of products of bytes; ``requantise`` brings it back to
a byte, or to the 16 bits of the residual stream, with one multiplication and one shift. LayerNorm is a sum of
squares, a leading one and a table; softmax is subtractions and shifts in base 2 (``base2_weights``); GELU is a table.

Two forms give the same integers: ``Golden.step``, one token at a time against a cache of keys and values, as the core
works, and ``logits``, whole windows at once, for scoring. ``lib.silicon.calibrate`` makes an integer model of a trained
checkpoint.

Shapes in the comments: B windows, T time, C width, H heads, D = C/H, S block, V alphabet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from threadpoolctl import threadpool_limits

from lib.errors import BookError
from lib.gpt import window_start

FRACTION = 5  # fraction bits of a score, which counts octaves
ACCUMULATOR_BITS = 24
LARGEST_SHIFT = 40
HEAD_WIDTH = 511  # above it a score, of products up to 128 * 128, could leave 24 bits
POSITIONS = 257  # above it a sum of weighted values, each up to 255 * 128, could leave 24 bits
NORM_LEVELS = 28  # steps of the normalised vector in one standard deviation: 127 lies at 4.5


# ---- What an integer model is. ----


@dataclass(frozen=True)
class Shape:
    """The shape of a model: ``lib.gpt.GPTConfig`` in integers, and the bits of a weight, 4 to 8."""

    layers: int
    width: int
    heads: int
    block: int
    vocab: int
    weight_bits: int = 8

    @property
    def head_width(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True)
class Product:
    """A matrix product and the way back to few bits, for O outputs of I inputs.

    weight: int8 (O, I); bias: int32 (O,), in the units of the sum; multiplier: uint16 (O,) and shift: the output is
    (sum + bias) * multiplier / 2^shift, rounded.
    """

    weight: np.ndarray
    bias: np.ndarray
    multiplier: np.ndarray
    shift: int

    @cached_property
    def columns(self) -> np.ndarray:
        """The weight as float32 (I, O): bytes, and sums of their products below 2^24, are exact there, in any order."""
        return np.ascontiguousarray(self.weight.T.astype(np.float32))


@dataclass(frozen=True)
class Layer:
    """One Transformer block. Rows of qkv: queries, keys, values, each (H, D). gelu: int8 (256,), of code -128 first.

    score_multiplier, score_shift: from q.k to octaves; mix_shift: doublings of what leaves attention, 0 to 3.
    """

    qkv: Product
    out: Product
    up: Product
    down: Product
    gelu: np.ndarray
    score_multiplier: int
    score_shift: int
    mix_shift: int


@dataclass(frozen=True)
class IntegerModel:
    """The whole model. token: int8 (V, C), position: int8 (S, C), shifted left by embed_shift into the residual stream.

    epsilon is added to the sum of squares; rsqrt: uint16 (256,) and rsqrt_shift as ``rsqrt_table`` gives them.
    """

    shape: Shape
    token: np.ndarray
    position: np.ndarray
    embed_shift: int
    layers: tuple[Layer, ...]
    head: Product
    epsilon: int
    rsqrt: np.ndarray
    rsqrt_shift: int

    def products(self) -> dict[str, Product]:
        """Return every matrix product by its name, in the order of the computation."""
        named = {
            f"layers.{i}.{field}": getattr(layer, field)
            for i, layer in enumerate(self.layers)
            for field in ("qkv", "out", "up", "down")
        }
        return named | {"head": self.head}


def reciprocal_table() -> np.ndarray:
    """Return 2^16 / (1 + f) for f in [0, 1), by the upper 8 bits of f: uint16 (256,), in (2^15, 2^16)."""
    return np.minimum(np.rint(2**16 / (1 + (np.arange(256) + 0.5) / 256)), 65535).astype(np.uint16)


def rsqrt_table(width: int, levels: float = NORM_LEVELS) -> tuple[np.ndarray, int]:
    """Return levels * sqrt(width / d) for d in [1, 4) as uint16 (256,), and the shift that its entries carry.

    Entries 0 to 127 stand for d in [1, 2), by the upper 7 bits of its fraction, the others for [2, 4) likewise.
    """
    gain = levels * math.sqrt(width)
    fraction = 1 + (np.arange(128) + 0.5) / 128
    exact = gain / np.sqrt(np.concatenate([fraction, 2 * fraction]))
    shift = math.floor(math.log2(65535 / exact[0]))
    return np.rint(exact * 2**shift).astype(np.uint16), shift


def dyadic(scale: np.ndarray) -> tuple[np.ndarray, int]:
    """Write positive factors (N,) as multiplier / 2^shift: uint16 (N,), the largest in [2^15, 2^16), and the shift.

    Raises BookError when the factors leave the range of shifts, 1 to 40.
    """
    largest = float(np.max(scale))
    shift = math.floor(math.log2(65535 / largest)) if 0 < largest < math.inf else 0
    if not 1 <= shift <= LARGEST_SHIFT:
        raise BookError(
            f"a factor of {largest:.3g} between two scales needs a shift of {shift}, outside 1 to 40; "
            "calibrate on text that the model knows"
        )
    return np.rint(np.asarray(scale) * 2.0**shift).astype(np.uint16), shift


# ---- The operations. ----


def saturate(x: np.ndarray, bits: int) -> np.ndarray:
    """Clip integers to what so many bits, sign included, hold."""
    return np.clip(x, -(1 << bits - 1), (1 << bits - 1) - 1)


def round_shift(x: np.ndarray, shift: np.ndarray | int) -> np.ndarray:
    """Divide by 2^shift, shift at least 1, and round to nearest, halves up: add half, then shift arithmetically."""
    return (x + (np.int64(1) << (np.asarray(shift, np.int64) - 1))) >> shift


def requantise(sums: np.ndarray, product: Product) -> np.ndarray:
    """Bring sums (..., O) to the units of the output: one addition, multiplication and shift each. int64 (..., O)."""
    return round_shift((sums + product.bias) * product.multiplier.astype(np.int64), product.shift)


def apply(product: Product, x: np.ndarray, bits: int) -> np.ndarray:
    """Multiply x, int64 (..., I), by the matrix, requantise and saturate: int64 (..., O)."""
    sums = x.astype(np.float32) @ product.columns  # (..., O)
    return saturate(requantise(sums.astype(np.int64), product), bits)


def leading_one(x: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return floor(log2 x) and the ``bits`` bits below the leading one, zeros below the point, of positive integers."""
    exponent = np.frexp(x.astype(np.float64))[1].astype(np.int64) - 1  # exact below 2^53
    return exponent, ((x << bits) >> exponent) - (1 << bits)


def normalise(model: IntegerModel, r: np.ndarray) -> np.ndarray:
    """LayerNorm, what is left of it: divide r (..., C) by its root mean square. int64 bytes (..., C)."""
    exponent, fraction = leading_one((r * r).sum(axis=-1) + model.epsilon, 7)  # (...,)
    factor = model.rsqrt.astype(np.int64)[(exponent & 1) << 7 | fraction]
    return saturate(round_shift(r * factor[..., None], ((exponent >> 1) + model.rsqrt_shift)[..., None]), 8)


def base2_weights(scores: np.ndarray, visible: np.ndarray | bool = True, fraction: int = FRACTION) -> np.ndarray:
    """Return 2^-d in 1/256, at most 255, d octaves below the row's largest visible score; 0 where not visible.

    scores: int64 (..., N), 2^-fraction octaves each. The fractional octave is a straight line: 2^-(n + f) is taken
    for (1 - f/2) 2^-n, so a shift and a subtraction do.
    """
    below = np.where(visible, scores, np.iinfo(np.int32).min).max(axis=-1, keepdims=True) - scores
    whole, rest = below >> fraction, below & ((1 << fraction) - 1)
    terms = ((((2 << fraction) - rest) << 9) >> (fraction + 1)) >> np.clip(whole, 0, 63)  # in 1/512
    return np.where(visible, np.minimum((terms + 1) >> 1, 255), 0)


def attend(layer: Layer, q: np.ndarray, k: np.ndarray, v: np.ndarray, visible: np.ndarray) -> dict[str, np.ndarray]:
    """Attention of queries (B, H, T, D) to keys and values (B, H, N, D), where visible (T, N).

    Returns scores and weights (B, H, T, N) and the mix (B, H, T, D), bytes. The weights are not normalised; their sum
    divides the mix, once a head, by a table of reciprocals.
    """
    dots = (q.astype(np.float32) @ k.astype(np.float32).swapaxes(-1, -2)).astype(np.int64)  # (B, H, T, N)
    scores = saturate(round_shift(dots * layer.score_multiplier, layer.score_shift), 16)
    weights = base2_weights(scores, visible)
    sums = (weights.astype(np.float32) @ v.astype(np.float32)).astype(np.int64)  # (B, H, T, D)
    exponent, fraction = leading_one(weights.sum(axis=-1, keepdims=True), 8)
    factor = reciprocal_table().astype(np.int64)[fraction]
    mix = saturate(round_shift(sums * factor, exponent + 16 - layer.mix_shift), 8)
    return {"scores": scores, "weights": weights, "mix": mix}


def apply_layer(
    model: IntegerModel, layer: Layer, r: np.ndarray, past: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], dict[str, np.ndarray]]:
    """One block on the residual stream r (B, T, C), after ``past`` keys and values (B, H, P, D).

    Returns the new stream, the keys and values with the new ones behind, and every vector on the way by name.
    """
    B, T, C = r.shape
    heads, width = model.shape.heads, model.shape.head_width
    y = normalise(model, r)
    qkv = apply(layer.qkv, y, 8)  # (B, T, 3C)
    q, k, v = (part.reshape(B, T, heads, width).swapaxes(1, 2) for part in np.split(qkv, 3, axis=-1))  # (B, H, T, D)
    if past is not None:
        k, v = (np.concatenate(pair, axis=2) for pair in zip(past, (k, v)))
    seen = k.shape[2] - T
    attention = attend(layer, q, k, v, np.tri(T, seen + T, seen, dtype=bool))
    mix = attention["mix"].swapaxes(1, 2).reshape(B, T, C)
    middle = saturate(r + apply(layer.out, mix, 16), 16)
    z = normalise(model, middle)
    up = apply(layer.up, z, 8)  # (B, T, 4C)
    active = layer.gelu.astype(np.int64)[up + 128]
    end = saturate(middle + apply(layer.down, active, 16), 16)
    trace = {"norm1": y, "qkv": qkv, **attention, "middle": middle, "norm2": z, "up": up, "gelu": active, "end": end}
    return end, (k, v), trace


def embed(model: IntegerModel, tokens: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return the residual stream (B, T, C) of tokens (B, T) at positions (T,)."""
    return (model.token.astype(np.int64)[tokens] + model.position.astype(np.int64)[positions]) << model.embed_shift


def head(model: IntegerModel, r: np.ndarray) -> np.ndarray:
    """Return the logits, int64 (..., V) within 16 bits, of the last residual stream (..., C)."""
    return apply(model.head, normalise(model, r), 16)


# ---- The two forms. ----


class Golden:
    """The model one token at a time, as the core works. ``trace`` holds the last step's vectors, a dict a layer."""

    def __init__(self, model: IntegerModel) -> None:
        check(model)
        self.model = model
        self.reset()

    def reset(self) -> None:
        """Forget the context."""
        self.history: list[int] = []
        self.trace: list[dict[str, np.ndarray]] = []
        self._past: list[tuple[np.ndarray, np.ndarray] | None] = [None] * self.model.shape.layers

    def feed(self, token: int) -> np.ndarray:
        """Take the next token, refill the cache by the rule of ``lib.gpt.window_start``, return the logits int64 (V,).

        Raises BookError for a token outside the vocabulary; the context is then unchanged.
        """
        n, block = len(self.history), self.model.shape.block
        if not 0 <= token < self.model.shape.vocab:
            raise BookError(f"the token {token} is outside 0 to {self.model.shape.vocab - 1}; encode it with lib.text")
        start = window_start(n, block)
        if n and start != window_start(n - 1, block):
            for position, old in enumerate(self.history[start:]):
                self.step(old, position)
        self.history.append(token)
        return self.step(token, n - start)

    def step(self, token: int, position: int) -> np.ndarray:
        """Advance by one token at a position whose predecessors are cached; return the logits int64 (V,)."""
        r = embed(self.model, np.array([[token]]), np.array([position]))
        self.trace = [{"embed": r}]
        for i, layer in enumerate(self.model.layers):
            past = None if position == 0 else tuple(part[:, :, :position] for part in self._past[i])
            r, self._past[i], trace = apply_layer(self.model, layer, r, past)
            self.trace.append(trace)
        return head(self.model, r)[0, 0]


@threadpool_limits.wrap(limits=1)  # the products are small: threads would wait for one another
def logits(model: IntegerModel, tokens: np.ndarray) -> np.ndarray:
    """Return the logits int64 (B, T, V) of windows of tokens int64 (B, T), T <= S: those of ``Golden``, all at once."""
    B, T = tokens.shape
    if T > model.shape.block:
        raise BookError(f"a window of {T} tokens exceeds the model's block of {model.shape.block}; shorten it")
    r = embed(model, tokens, np.arange(T))
    for layer in model.layers:
        r, _, _ = apply_layer(model, layer, r, None)
    return head(model, r)


# ---- What can be wrong with a model, and one to test with. ----


def check(model: IntegerModel) -> None:
    """Prove from the weights that nothing overflows; BookError with the tensor and the bits, or what is malformed."""
    shape = model.shape
    sizes = [getattr(shape, field.name) for field in fields(shape)]
    if any(not isinstance(size, int) or size < 1 for size in sizes) or shape.width % shape.heads or shape.block % 2:
        raise BookError(f"no model has the shape {shape}; heads must divide the width, and the block be even")
    if not 4 <= shape.weight_bits <= 8:
        raise BookError(f"weights of {shape.weight_bits} bits are not supported; choose 4 to 8")
    if shape.block > POSITIONS:
        raise BookError(f"a block of {shape.block} positions could overflow 24 bits in attention; at most {POSITIONS}")
    if shape.head_width > HEAD_WIDTH:
        raise BookError(f"a head {shape.head_width} wide could overflow 24 bits in a score; at most {HEAD_WIDTH}")
    C, rows = shape.width, {"qkv": 3 * shape.width, "out": shape.width, "up": 4 * shape.width, "down": shape.width}
    _expect("token", model.token, np.int8, (shape.vocab, C))
    _expect("position", model.position, np.int8, (shape.block, C))
    _expect("rsqrt", model.rsqrt, np.uint16, (256,))
    if len(model.layers) != shape.layers:
        raise BookError(f"the model has {len(model.layers)} layers, its shape says {shape.layers}; calibrate it again")
    for i, layer in enumerate(model.layers):
        _expect(f"layers.{i}.gelu", layer.gelu, np.int8, (256,))
        _within(f"layers.{i}.score_multiplier", layer.score_multiplier, 0, 2**16 - 1)
        _within(f"layers.{i}.score_shift", layer.score_shift, 1, LARGEST_SHIFT)
        _within(f"layers.{i}.mix_shift", layer.mix_shift, 0, 3)
    _within("epsilon", model.epsilon, 1, 2**32 - 1)
    _within("rsqrt_shift", model.rsqrt_shift, 1, LARGEST_SHIFT - 24)
    _within("embed_shift", model.embed_shift, 0, 15)
    for name, product in model.products().items():
        outputs = rows.get(name.split(".")[-1], shape.vocab)
        _check_product(name, product, outputs, 4 * C if name.endswith("down") else C, shape.weight_bits)
    largest = (np.abs(model.token.astype(int)).max(0) + np.abs(model.position.astype(int)).max(0)) << model.embed_shift
    if largest.max() >= 2**15:
        bits = int(largest.max()).bit_length() + 1
        raise BookError(f"token and position add up to {bits} bits where the residual has 16; lower embed_shift")
    if (wide := C * 2**30 + model.epsilon).bit_length() > 48:
        raise BookError(f"a width of {C} makes sums of squares of {wide.bit_length()} bits; 48 is the most")


def _check_product(name: str, product: Product, outputs: int, inputs: int, weight_bits: int) -> None:
    _expect(f"{name}.weight", product.weight, np.int8, (outputs, inputs))
    _expect(f"{name}.bias", product.bias, np.int32, (outputs,))
    _expect(f"{name}.multiplier", product.multiplier, np.uint16, (outputs,))
    _within(f"{name}.shift", product.shift, 1, LARGEST_SHIFT)
    weight = np.abs(product.weight.astype(np.int64))
    if weight.max() >= 1 << weight_bits - 1:
        raise BookError(f"{name}.weight reaches {weight.max()}, beyond {weight_bits} bits; calibrate it again")
    largest = (128 * weight.sum(axis=1) + np.abs(product.bias.astype(np.int64))).max()
    if largest >= 1 << ACCUMULATOR_BITS - 1:
        bits = int(largest).bit_length() + 1
        raise BookError(f"{name} may need {bits} bits where the accumulator has {ACCUMULATOR_BITS}; narrow the layer")


def _expect(name: str, array: np.ndarray, dtype: type, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise BookError(
            f"{name} is {array.dtype}{list(array.shape)} where {np.dtype(dtype)}{list(shape)} is due; calibrate again"
        )


def _within(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or not low <= value <= high:
        raise BookError(f"{name} is {value}, outside {low} to {high}; calibrate the model again")


def random_model(shape: Shape, seed: int) -> IntegerModel:
    """Return a model of random weights whose vectors spread over their ranges, now and then beyond: for tests."""
    rng = np.random.default_rng(seed)
    C, top = shape.width, (1 << shape.weight_bits - 1) - 1

    def product(outputs: int, inputs: int, spread: float) -> Product:
        """Inputs spread by 40 steps give outputs that spread by ``spread``."""
        weight = rng.integers(-top, top + 1, (outputs, inputs)).astype(np.int8)
        sigma = 40 * math.sqrt(inputs * top * (top + 1) / 3)
        bias = rng.normal(0, sigma / 4, outputs).astype(np.int32)
        multiplier, shift = dyadic(spread / sigma * rng.uniform(0.5, 1.5, outputs))
        return Product(weight, bias, multiplier, shift)

    def layer() -> Layer:
        codes = np.arange(-128, 128)
        gelu = np.clip(np.rint(codes * rng.uniform(0.5, 1.2) * (codes > 0) + rng.uniform(-90, 0)), -128, 127)
        (multiplier,), shift = dyadic(np.array([rng.uniform(0.3, 12) * 2**FRACTION / (1600 * shape.head_width**0.5)]))
        products = product(3 * C, C, 40), product(C, C, 2000), product(4 * C, C, 40), product(C, 4 * C, 2000)
        return Layer(*products, gelu.astype(np.int8), int(multiplier), shift, int(rng.integers(0, 4)))

    rsqrt, rsqrt_shift = rsqrt_table(C)
    embeddings = (rng.integers(-128, 128, (rows, C)).astype(np.int8) for rows in (shape.vocab, shape.block))
    return IntegerModel(
        *(shape, *embeddings, int(rng.integers(4, 7)), tuple(layer() for _ in range(shape.layers))),
        *(product(shape.vocab, C, 3000), int(rng.integers(1, 5000)), rsqrt, rsqrt_shift),
    )
