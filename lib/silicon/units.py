"""The units of ``hw/rtl`` with their ports, and what goes into them and comes out in NumPy."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from lib import ROOT
from lib.silicon import golden
from lib.silicon.verilate import Unit

RTL = ROOT / "hw" / "rtl"
FP32 = RTL / "fp32"

SOFTMAX = Unit("softmax", (RTL / "softmax.sv",), ("score_i", "last_i", "count_i"), ("value_o", "last_o", "sum_o"))
GELU_TABLE = Unit("gelu_table", (RTL / "gelu_table.sv",), ("code_i",), ("code_o",))
GELU_PRINTED = Unit("gelu_printed", (RTL / "gelu_printed.sv",), ("code_i",), ("code_o",))
SOFTMAX_FP32 = Unit(
    "softmax_fp32", (FP32 / "multiply.sv", FP32 / "softmax_fp32.sv"), ("x_i", "last_i"), ("y_o", "last_o")
)
REQUANTISE = Unit(
    "requantise",
    (RTL / "round_shift.sv", RTL / "requantise.sv"),
    ("acc_i", "bias_i", "multiplier_i", "shift_i"),
    ("value_o",),
)
NORM_STATISTICS = Unit(
    "norm_statistics",
    (RTL / "leading_one.sv", RTL / "norm_statistics.sv"),
    ("residual_i", "last_i", "epsilon_i"),
    ("index_o", "halves_o"),
)
GELU_FP32 = Unit("gelu_fp32", (FP32 / "multiply.sv", FP32 / "gelu_fp32.sv"), ("x_i",), ("y_o",))

# The units that the core instantiates come after its own modules; its ports are more than a stream's.
CORE_UNITS = ("requantise", "round_shift", "norm_statistics", "leading_one", "softmax")
CORE = Unit(
    "core",
    (RTL / "core.sv", *sorted((RTL / "core").glob("*.sv")), *(RTL / f"{name}.sv" for name in CORE_UNITS)),
    (),
    (),
)
# What the sparse core shares with the dense one, beside those units.
SHARED = ("adder_tree", "attention", "deep_memory", "drain", "embedding", "logits", "memory", "residual")
SPARSE_CORE = Unit(
    "sparse_core",
    (
        *(RTL / "sparse_core.sv", *sorted((RTL / "sparse").glob("*.sv"))),
        *(*(RTL / "core" / f"{name}.sv" for name in SHARED), *(RTL / f"{name}.sv" for name in CORE_UNITS)),
    ),
    (),
    (),
)


def row_items(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Lay rows of float32 (N,) behind one another for softmax_fp32.sv: items int64 (sum of N, 2), number and last."""
    last = np.concatenate([np.arange(len(row)) == len(row) - 1 for row in rows])
    return np.stack([np.concatenate(rows).view(np.uint32).astype(np.int64), last], axis=1)


def score_items(rows: Sequence[np.ndarray], columns: int = 1, bits: int = 16) -> np.ndarray:
    """Lay rows of scores, int64 (N,), behind one another for softmax.sv: items int64 (clocks, 3), scores, last, count.

    Columns that a row leaves empty hold the largest score there is, and the count is 1 where it is not to be read.
    """
    items = []
    for row in rows:
        empty = -len(row) % columns
        scores = np.append(row, np.full(empty, (1 << bits - 1) - 1)).reshape(-1, columns)
        last = np.arange(len(scores)) == len(scores) - 1
        items.append(np.stack([packed(scores, bits), last, np.where(last, columns - empty, 1)], axis=1))
    return np.concatenate(items)


def packed(words: np.ndarray, bits: int) -> np.ndarray:
    """Put the words of each row (N, words), 64 bits at most, into one port's number: int64 (N,), the first lowest."""
    places = np.arange(words.shape[1], dtype=np.uint64) * np.uint64(bits)
    return ((words & ((1 << bits) - 1)).astype(np.uint64) << places).sum(axis=1, dtype=np.uint64).view(np.int64)


def unpacked(numbers: np.ndarray, count: int, bits: int) -> np.ndarray:
    """Take a port's numbers (N,) apart into ``count`` words of so many bits, without sign: int64 (N, count)."""
    places = np.arange(count, dtype=np.uint64) * np.uint64(bits)
    return (numbers.astype(np.uint64)[:, None] >> places).astype(np.int64) & ((1 << bits) - 1)


def base2_weights_twin(scores: np.ndarray, fraction: int) -> tuple[np.ndarray, int]:
    """Return what softmax.sv with WEIGHTS = 1 makes of one row of scores, int64 (N,): the weights and their sum.

    2^-d, d octaves below the largest score, as in ``lib.acap.attention.base2_codes_twin``, rounded to 1/256; 0 to 255.
    """
    weights = golden.base2_weights(scores, fraction=fraction)
    return weights, int(weights.sum())


def requantise_twin(items: np.ndarray, bits: int, bias: bool = True) -> np.ndarray:
    """Return what requantise.sv with OUT_W = bits and BIAS makes of sum, bias, multiplier and shift, int64 (N, 4)."""
    total, offset, multiplier, shift = items.T
    return golden.saturate(golden.round_shift((total + bias * offset) * multiplier, shift), bits)


def norm_statistics_twin(totals: np.ndarray) -> np.ndarray:
    """Return what norm_statistics.sv makes of rows: of epsilon plus squares, int64 (N,), index and halves (N, 2)."""
    exponent, fraction = golden.leading_one(totals, 7)
    return np.stack([(exponent & 1) << 7 | fraction, exponent >> 1], axis=1)


def table_text(table: np.ndarray) -> str:
    """Return the parameter TABLE of gelu_table.sv for 256 codes of 8 bits, that of input code q at q + 128."""
    return f"2048'h{sum(int(code) % 256 << 8 * i for i, code in enumerate(table)):0512x}"


def floats(words: np.ndarray) -> np.ndarray:
    """Read integers (N,) as the bits of FP32 numbers: float32 (N,)."""
    return words.astype(np.uint32).view(np.float32)
