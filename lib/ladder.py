"""The verification ladder: one golden set, and every form of the model held against it, rung by rung.

Section 7.2 of the report. The golden set is two windows of built-in stories with the logits that
``pocket`` gave to them in PyTorch, in FP32. A rung is a name, a route and a tolerance. Its figures are
taken against the golden logits; its tolerance holds against these too, or against the rung it was
made from, which is the sharper test: a file exported from a quantised model owes its own model an
account, and shares with it the distance to FP32.

    python -m lib.ladder    (makes the golden set again)
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from lib import ROOT, stories
from lib.checkpoint import CHECKPOINTS, load_shipped, load_tensors, save_tensors
from lib.errors import BookError, run_command
from lib.evaluate import Logits, Scores, agreement, compare, torch_logits
from lib.export import constants
from lib.files import read_json, sha256, write_json
from lib.text import encode

GOLDEN = ROOT / "data" / "golden"
WINDOWS, SEED = 2, 7  # stories of a world that is in no corpus


@dataclass(frozen=True)
class Golden:
    """tokens: int64 (N, T + 1); logits: float32 (N, T, V), of the first T; card: how they came about."""

    tokens: np.ndarray
    logits: np.ndarray
    card: dict[str, Any]


def make_golden(folder: Path = GOLDEN, name: str = "pocket") -> None:
    """Write the golden set of a shipped checkpoint, under 200 kB, and its card."""
    model, _ = load_shipped(name)
    length = model.config.block + 1
    texts = (encode(story)[:length] for story in stories.stories(SEED, 100))
    tokens = np.stack(list(islice((t for t in texts if len(t) == length), WINDOWS))).astype(np.int64)
    tensors = {
        "tokens": torch.from_numpy(tokens.astype(np.uint8)),
        "logits": torch.from_numpy(torch_logits(model)(tokens[:, :-1])),
    }
    card = {
        "model": name,
        "checkpoint_sha256": sha256(CHECKPOINTS / f"{name}.safetensors"),
        "text": {"generator": stories.VERSION, "seed": SEED, "windows": WINDOWS, "characters": length},
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    save_tensors(folder / f"{name}.safetensors", tensors, card)
    write_json(folder / f"{name}.json", card)


def load_golden(folder: Path = GOLDEN, name: str = "pocket") -> Golden:
    """Read the golden set; BookError if it is missing, damaged, or of another checkpoint than the shipped one."""
    tensors, card = load_tensors(folder / f"{name}.safetensors")
    if (
        card != read_json(folder / f"{name}.json", "the golden set's card")
        or not {"tokens", "logits"} <= tensors.keys()
    ):
        raise BookError(
            f"{folder} holds a golden set that does not fit its card; make it again with python -m lib.ladder"
        )
    if card["checkpoint_sha256"] != sha256(CHECKPOINTS / f"{name}.safetensors"):
        raise BookError(f"the golden set is of another checkpoint than {name}; make it again with python -m lib.ladder")
    return Golden(tensors["tokens"].numpy().astype(np.int64), tensors["logits"].numpy(), card)


# ---- Rungs. ----


@dataclass(frozen=True)
class Tolerance:
    """What a rung may be off: largest and mean logit error, least argmax agreement, perplexity change in per cent."""

    max_abs: float
    mean_abs: float
    agreement: float
    ppl_pct: float


EXACT = Tolerance(1e-3, 1e-4, 1.0, 0.01)  # FP32 in another order of summation
EQUIVALENT = Tolerance(2.0, 0.15, 0.95, 1.0)  # the same roundings; a last bit decides some of them otherwise
INT8 = Tolerance(3.0, 0.25, 0.93, 4.0)  # eight bits with a good recipe, against FP32
TWIN = Tolerance(0.5, 0.02, 0.99, 0.25)  # the same roundings, summed by the same kernels
FOUR_BITS = Tolerance(6.0, 0.6, 0.88, 4.0)  # four-bit weights after training, against FP32
INT8_PLAIN = Tolerance(12.0, 1.0, 0.80, 12.0)  # eight bits as they come, against FP32


@dataclass(frozen=True)
class Rung:
    """A form of the model. ``source`` names the rung its tolerance holds against; None is the golden set."""

    name: str
    logits: Logits
    tolerance: Tolerance
    source: str | None = None


@dataclass(frozen=True)
class Distance:
    """How far one set of logits is from another on the golden tokens."""

    max_abs_err: float
    mean_abs_err: float
    agreement: float
    ppl_increase_pct: float

    def breaches(self, tolerance: Tolerance) -> list[str]:
        """Name what goes beyond the tolerance."""
        checks = {
            "largest error": self.max_abs_err <= tolerance.max_abs,
            "mean error": self.mean_abs_err <= tolerance.mean_abs,
            "agreement": self.agreement >= tolerance.agreement,
            "perplexity": abs(self.ppl_increase_pct) <= tolerance.ppl_pct,
        }
        return [name for name, within in checks.items() if not within]  # NaN is within nothing


@dataclass(frozen=True)
class Row:
    """A rung's distance from the golden logits and from its source, and what breaches its tolerance."""

    rung: Rung
    golden: Distance
    source: Distance
    breaches: list[str]


def distance(logits: np.ndarray, reference: np.ndarray, targets: np.ndarray) -> Distance:
    """Compare logits (N, T, V) with others on the same tokens, whose next symbols are targets (N, T)."""
    error = np.abs(logits.astype(np.float64) - reference)
    compared = compare(_scores(reference, targets), _scores(logits, targets))
    return Distance(float(error.max()), float(error.mean()), agreement(reference, logits), compared.ppl_increase_pct)


def _scores(logits: np.ndarray, targets: np.ndarray) -> Scores:
    logs = torch.from_numpy(logits).double().log_softmax(dim=2).numpy()
    nll = -np.take_along_axis(logs, targets[:, :, None], axis=2).ravel()
    return Scores(nll, targets.ravel(), np.zeros(targets.size, dtype=np.int64), targets.shape[1])


def climb(rungs: Sequence[Rung], golden: Golden) -> list[Row]:
    """Run every rung on the golden tokens, in order, and hold it against its tolerance.

    Raises BookError for two rungs of one name, or a source that is not an earlier rung.
    """
    seen: dict[str, np.ndarray] = {}
    rows = []
    for rung in rungs:
        if rung.name in seen:
            raise BookError(f"two rungs are called {rung.name}; rename one")
        if rung.source is not None and rung.source not in seen:
            raise BookError(f"the rung {rung.name} is held against {rung.source}, which is not below it; put it there")
        targets = golden.tokens[:, 1:]
        seen[rung.name] = logits = rung.logits(golden.tokens[:, :-1])
        from_golden = distance(logits, golden.logits, targets)
        from_source = from_golden if rung.source is None else distance(logits, seen[rung.source], targets)
        rows.append(Row(rung, from_golden, from_source, from_source.breaches(rung.tolerance)))
    return rows


# ---- Deliberate faults, put into an exported file. ----

Change = Callable[[np.ndarray], np.ndarray]


def corrupt(model: onnx.ModelProto, change: Change, places: Sequence[tuple[int, int]]) -> onnx.ModelProto:
    """Return a copy of ``model`` in which one constant input is changed, for one node alone.

    places: (node, input) candidates in the order of the graph; the middle one is taken. BookError if
    there are none.
    """
    if not places:
        raise BookError("the graph has no place for this fault; choose another graph")
    number, slot = places[len(places) // 2]
    faulty = onnx.ModelProto()
    faulty.CopyFrom(model)
    node = faulty.graph.node[number]
    changed = np.ascontiguousarray(change(constants(model)[node.input[slot]]))
    faulty.graph.initializer.append(numpy_helper.from_array(changed, name="fault"))
    node.input[slot] = "fault"
    return faulty


def _places(model: onnx.ModelProto, slot: int, fits: Callable[[onnx.NodeProto, dict[str, np.ndarray]], bool]) -> list:
    """List the (node, slot) whose input there is a constant, among the nodes that fit."""
    values = constants(model)
    return [
        (number, slot)
        for number, node in enumerate(model.graph.node)
        if len(node.input) > slot and node.input[slot] in values and fits(node, values)
    ]


DEQUANTISERS = ("DequantizeLinear", "Quant", "BipolarQuant")


def _of_weight(node: onnx.NodeProto, values: dict[str, np.ndarray]) -> bool:
    """Whether a node dequantises a weight: it has a scale for each channel."""
    return node.op_type in DEQUANTISERS and values[node.input[1]].size > 1


def transposed_weight(model: onnx.ModelProto) -> onnx.ModelProto:
    """Transpose one square weight: rows taken for columns."""

    def square(slot: int) -> list:
        return _places(
            model,
            slot,
            lambda node, values: (
                node.op_type in ("MatMul", "Clip", *DEQUANTISERS)
                and values[node.input[slot]].ndim == 2
                and len(set(values[node.input[slot]].shape)) == 1
            ),
        )

    return corrupt(model, np.transpose, square(0) or square(1))  # a quantised weight comes first, a float one second


def weight_scales(model: onnx.ModelProto) -> list:
    """List the (node, input) that hold a weight's scales."""
    return _places(model, 1, _of_weight)


def doubled_scale(model: onnx.ModelProto) -> onnx.ModelProto:
    """Double the scales of one weight: a shift that is off by one place."""
    return corrupt(model, lambda scale: 2 * scale, weight_scales(model))


def shifted_zero_point(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take one activation's zero point one too high where it is taken off again."""
    places = _places(model, 2, lambda node, values: node.op_type == "DequantizeLinear" and not _of_weight(node, values))
    return corrupt(model, lambda zero: zero + np.ones_like(zero), places)


def swapped_neighbours(model: onnx.ModelProto) -> onnx.ModelProto:
    """Exchange every two neighbours in one weight: the halves of each byte unpacked the wrong way round."""

    def swap(weight: np.ndarray) -> np.ndarray:
        return weight.reshape(len(weight), -1, 2)[:, :, ::-1].reshape(weight.shape)

    places = _places(
        model,
        0,
        lambda node, values: node.op_type in ("Clip", *DEQUANTISERS) and values[node.input[0]].ndim == 2,
    )
    return corrupt(model, swap, places)


def shifted_positions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Read a step graph's position table one row late: a counter that starts at 1."""
    tables = _places(model, 0, lambda node, values: node.op_type == "Gather" and values[node.input[0]].ndim == 2)
    values = constants(model)
    rows = {place: len(values[model.graph.node[place[0]].input[0]]) for place in tables}
    longest = [place for place in tables if rows[place] == max(rows.values())]  # positions outnumber symbols
    return corrupt(model, lambda table: np.roll(table, -1, axis=0), longest)


def main() -> None:
    argparse.ArgumentParser(prog="python -m lib.ladder", description="Make the golden set again.").parse_args()
    make_golden()
    print(f"{GOLDEN / 'pocket.safetensors'}: {(GOLDEN / 'pocket.safetensors').stat().st_size:,} bytes")


if __name__ == "__main__":
    run_command(main)
