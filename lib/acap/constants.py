"""A quantised model's numbers as the sources of a design hold them: weights in engines' order, tables, widths."""

from __future__ import annotations

import numpy as np
import torch

from lib.acap.design import OUT_COLUMNS, Design, Unit
from lib.acap.integer import INVERSE_BITS, NORM_BITS, ROOT_BITS, Rescale
from lib.acap.integer import IntegerBlock, IntegerLinear, IntegerViT, LayerNorm
from lib.acap.vit import cut_patches
from lib.errors import BookError

MOST_SHIFT = 62  # of an accumulator's shift, round and saturate
OFFSET = 128  # GELU's codes are 0 to 255 and engines multiply int8: both sides agree to subtract this
CTYPES = (("signed char", 7), ("short", 15), ("int", 31), ("long long", 63))


# ---- C++ text. ----


def ctype(values: np.ndarray) -> str:
    """Return the smallest of C's signed types that holds whole numbers."""
    most = int(max(values.max(), -(values.min() + 1)))
    return next(name for name, bits in CTYPES if most < 2**bits)


def array(name: str, values: np.ndarray, kind: str | None = None, prefix: str = "static const") -> str:
    """Return the definition of a constant array of one or two axes, 32 numbers a line."""
    values = np.asarray(values)
    sides = "".join(f"[{side}]" for side in values.shape)
    rows = values.reshape(-1, values.shape[-1]).tolist()
    lines = [",\n".join(",".join(map(str, row[i : i + 32])) for i in range(0, len(row), 32)) for row in rows]
    body = lines[0] if values.ndim == 1 else ",\n".join(f"{{{line}}}" for line in lines)
    return f"{prefix} {kind or ctype(values)} {name}{sides} = {{\n{body}}};\n"


def scalar(name: str, value: int) -> str:
    return f"static const int {name} = {value};\n"


# ---- Weights. ----


def tiles(matrix: np.ndarray, tile_k: int) -> np.ndarray:
    """Cut a right factor (k, n) into tiles of ``tile_k`` x 4 in an engine's order: down each column of tiles, flat."""
    k, n = matrix.shape
    cut = matrix.reshape(k // tile_k, tile_k, n // OUT_COLUMNS, OUT_COLUMNS)
    return cut.transpose(2, 0, 1, 3).ravel()


def engine_weights(weight: np.ndarray, unit: Unit) -> np.ndarray:
    """Return the weights (out, in) of one block as each engine holds them: int8 (B, C, k n), padded with zeros."""
    t, k, n = unit.tiling, unit.k, unit.n
    whole = np.zeros((t.B * k, t.C * n), np.int8)
    whole[: weight.shape[1], : weight.shape[0]] = weight.T
    parts = whole.reshape(t.B, k, t.C, n).transpose(0, 2, 1, 3)
    return np.stack([[tiles(part, unit.tile_k) for part in row] for row in parts])


def column_parts(values: np.ndarray, unit: Unit) -> np.ndarray:
    """Cut what each column has, (blocks, columns), into the engines' parts: (C, blocks, n), padded with zeros."""
    padded = np.zeros((len(values), unit.tiling.C * unit.n), np.int64)
    padded[:, : values.shape[1]] = values
    return padded.reshape(len(values), unit.tiling.C, unit.n).transpose(1, 0, 2)


def down_bias(layer: IntegerLinear) -> np.ndarray:
    """Return the bias of the product after GELU, whose left factor comes less ``OFFSET``; BookError past 32 bits."""
    bias = layer.bias + OFFSET * layer.weight.sum(axis=1)
    if np.abs(bias).max() >= 2**31:
        raise BookError("the bias of a feed-forward's second product outgrows 32 bits; calibrate the model again")
    return bias


def linears(model: IntegerViT, name: str) -> list[tuple[np.ndarray, np.ndarray, Rescale]]:
    """Return each block's weight, bias and rescaling of the product ``name``: qkv, out, up or down."""
    found = []
    for block in model.blocks:
        layer: IntegerLinear = getattr(block, name)
        rescale = {"qkv": block.to_qkv, "up": block.to_hidden}
        rescale |= {"out": block.add1.to_branch, "down": block.add2.to_branch}
        found.append((layer.weight, down_bias(layer) if name == "down" else layer.bias, rescale[name]))
    return found


def matrices(model: IntegerViT, unit: Unit) -> list[np.ndarray]:
    """Return a unit's weights (out, in), a matrix for each set."""
    single = {"patch": model.stem, "head": model.head}
    return [single[unit.name].weight] if unit.wide else [weight for weight, _, _ in linears(model, unit.name)]


def weights(model: IntegerViT, unit: Unit) -> np.ndarray:
    """Return all weights of a unit as its engines hold them: int8 (sets, B, C, k n)."""
    return np.stack([engine_weights(weight, unit) for weight in matrices(model, unit)])


def feed_words(model: IntegerViT, unit: Unit) -> np.ndarray:
    """Return the memory that a unit's weights stream from: stream after stream, of each block after block, int8."""
    return np.ascontiguousarray(weights(model, unit).transpose(1, 2, 0, 3)).reshape(-1)


# ---- What PL kernels know. ----


def check_shift(rescale: Rescale) -> int:
    if not 0 <= rescale.shift <= MOST_SHIFT:
        raise BookError(f"a rescaling shifts by {rescale.shift} bits, hardware by 0 to {MOST_SHIFT}; calibrate again")
    return rescale.shift


def _bits(most: int) -> int:
    """Return the width of a signed integer whose magnitude is at most ``most``."""
    return int(most).bit_length() + 1


def norm_constants(norms: list[LayerNorm]) -> tuple[str, dict[str, int]]:
    """Return a LayerNorm's header and the bit widths that suffice for it, whatever the codes."""
    width = len(norms[0].gain)
    shifts = np.stack([norm.residual.r for norm in norms])
    gain, bias = (np.stack([getattr(norm, name) for norm in norms]) for name in ("gain", "bias"))
    epsilon = np.array([norm.epsilon for norm in norms])
    most_r = int(shifts.max())
    most_u = 255 << most_r
    spread = width * width * most_u**2 + int(epsilon.max())
    root_bits = -(-(spread.bit_length() + 2 * ROOT_BITS) // 2)
    sum_bits = _bits(2 * width * most_u)
    # |n| is at most sqrt(C) roots of the spread, and the root, at least 2^ROOT_BITS, at most 1 too small
    normalised = int(np.ceil(np.sqrt(width) * (1 + 2.0**-ROOT_BITS) * 2**NORM_BITS)) + 1
    scaled = normalised * int(np.abs(gain).max()) + int(np.abs(bias).max()) + 2 ** (2 * NORM_BITS)
    text = scalar("BLOCKS", len(norms))
    text += array("EPSILON", epsilon) + array("ZERO", np.array([norm.residual.zero for norm in norms]), "int")
    text += array("SHIFTS", shifts) + array("GAIN", gain) + array("BIAS", bias)
    widths = {
        "most_r": most_r,
        "u_bits": 9 + most_r,
        "sum_bits": sum_bits,
        "square_bits": (width * most_u**2).bit_length(),
        "spread_bits": spread.bit_length(),
        "root_bits": root_bits,
        "product_bits": sum_bits + INVERSE_BITS + 1,
        "scaled_bits": _bits(scaled),
    }
    return text, widths


def add_constants(blocks: list[IntegerBlock], name: str) -> tuple[str, dict[str, int]]:
    adds = [getattr(block, name) for block in blocks]
    text = scalar("BLOCKS", len(adds)) + scalar("LAST", adds[0].new.last)
    text += array("OLD_ZERO", np.array([add.old.zero for add in adds]), "int")
    text += array("NEW_ZERO", np.array([add.new.zero for add in adds]), "int")
    text += array("MULTIPLIER", np.stack([add.to_stream.multiplier for add in adds]))
    shifts = np.array([check_shift(add.to_stream) for add in adds])
    text += array("SHIFT", shifts)
    return text, {"product_bits": _bits(255 * 2**23 + 2 ** int(shifts.max()) + 2**10)}


def gelu_constants(blocks: list[IntegerBlock]) -> str:
    table = np.stack([block.table for block in blocks])
    if table.min() < 0 or table.max() > 255:
        raise BookError("GELU's codes are not of eight bits without sign; quantise the model by EQ-ViT's recipe")
    return scalar("BLOCKS", len(blocks)) + array("TABLE", table - OFFSET)


def embed_constants(model: IntegerViT) -> str:
    text = array("BIAS", model.stem.bias, "int") + array("MULTIPLIER", model.to_embedded.multiplier)
    text += scalar("SHIFT", check_shift(model.to_embedded)) + scalar("ZERO", model.embedded.zero)
    return text + scalar("LAST", model.embedded.last) + array("CLASS_CODES", model.class_codes)


def logits_constants(model: IntegerViT) -> str:
    text = array("BIAS", model.head.bias, "int") + array("MULTIPLIER", model.to_logits.multiplier)
    return text + scalar("SHIFT", check_shift(model.to_logits))


# ---- Images. ----


def image_words(images: np.ndarray, design: Design) -> np.ndarray:
    """Cut images uint8 (N, channels, side, side) as the reader takes them: int8 (N, patches, bytes of whole words)."""
    patches = cut_patches(torch.from_numpy(images), design.config.patch).numpy()
    unit = design.units["patch"]
    padded = np.zeros((*patches.shape[:2], design.row_words(unit.inner) * design.lanes), np.uint8)
    padded[..., : unit.inner] = patches ^ 128  # a byte less 128, as an int8
    return padded.view(np.int8)
