"""An integer model on disk, with the scales that turn its integers back into floats: safetensors and a JSON card.

The card says how the model came about. It stands beside the tensors, for people, and inside the file, for ``load``,
which also finds there the SHA-256 of all that it reads: a file that has been changed is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Mapping

import numpy as np
import torch

from lib import ROOT
from lib.checkpoint import CHECKPOINTS, load_tensors, save_tensors
from lib.errors import BookError
from lib.files import read_json, sha256, write_json
from lib.silicon import golden
from lib.silicon.golden import IntegerModel, Layer, Product, Shape

INTEGER = ROOT / "data" / "integer"


@dataclass(frozen=True)
class LayerScales:
    """What one step of a layer's bytes means: real = scale * (code - zero), the zero being 0 where none is given."""

    q: float
    k: float
    v: float
    mix: float
    up: float
    up_zero: int
    gelu: float
    gelu_zero: int


@dataclass(frozen=True)
class Calibrated:
    """An integer model and what its integers mean.

    residual_scale, logits_scale: one step of the residual stream and of the logits; layers: those of the bytes;
    weight_scales: by the name of the product, float64 (O,), one step of each row of weights.
    """

    model: IntegerModel
    residual_scale: float
    logits_scale: float
    layers: tuple[LayerScales, ...]
    weight_scales: dict[str, np.ndarray]

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """The integer model as a route of ``lib.evaluate``: tokens int64 (B, T) to float32 logits (B, T, V)."""
        return (golden.logits(self.model, tokens) * self.logits_scale).astype(np.float32)


def save(path: str | os.PathLike[str], calibrated: Calibrated, card: Mapping[str, Any]) -> None:
    """Write a calibrated model to ``path``, a .safetensors file, and its card beside it."""
    arrays, numbers = _flatten(calibrated)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    content = {"card": card, "numbers": numbers}
    save_tensors(path, tensors, content | {"sha256": _digest(arrays, content)})
    write_json(Path(path).with_suffix(".json"), card)


def load(path: str | os.PathLike[str]) -> tuple[Calibrated, dict[str, Any]]:
    """Read what ``save`` wrote: the same model, and its card.

    Raises BookError for a file that is missing, truncated, changed, of another kind, or beside the card of another.
    """
    tensors, content = load_tensors(path)
    card = read_json(Path(path).with_suffix(".json"), "the integer model's card")
    try:
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        promised = content.pop("sha256")
        whole = promised == _digest(arrays, content) and content["card"] == card
        calibrated = _build(arrays, content["numbers"]) if whole else None
    except (AttributeError, KeyError, TypeError, ValueError):
        raise BookError(f"{path} holds no integer model of this book; use one of lib.silicon.calibrate") from None
    if calibrated is None:
        raise BookError(f"{path} does not match its checksum or its card; copy both files again, or calibrate again")
    golden.check(calibrated.model)
    return calibrated, card


def load_shipped(name: str) -> tuple[Calibrated, dict[str, Any]]:
    """Return the integer model of one of the book's own checkpoints, ``pocket`` or ``nano_w6``, say, and its card."""
    shipped = sorted(file.stem for file in INTEGER.glob("*.safetensors"))
    if name not in shipped:
        raise BookError(f"the book ships no integer model {name!r}; it ships: {', '.join(shipped) or 'none'}")
    calibrated, card = load(INTEGER / f"{name}.safetensors")
    if card["checkpoint"]["sha256"] != sha256(CHECKPOINTS / f"{card['checkpoint']['name']}.safetensors"):
        raise BookError(f"data/integer/{name} is of another checkpoint; make it again with lib.silicon.calibrate")
    return calibrated, card


def fingerprint(model: IntegerModel) -> int:
    """Return 64 bits, not 0, that name a model: of its shape and all its numbers."""
    hash = hashlib.sha256(repr(model.shape).encode())
    _update(hash, model)
    return int.from_bytes(hash.digest()[:8], "little") or 1


def _update(hash: Any, part: object) -> None:
    """Add a model's part: an array, a number, or a dataclass or tuple of parts."""
    if isinstance(part, np.ndarray):
        hash.update(str((part.dtype.str, part.shape)).encode() + part.tobytes())
    elif isinstance(part, tuple):
        for element in part:
            _update(hash, element)
    elif isinstance(part, int):
        hash.update(b"%d;" % part)
    else:
        for field in fields(part):
            _update(hash, getattr(part, field.name))


def _flatten(calibrated: Calibrated) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Take a calibrated model apart: arrays by name, and everything else as JSON values."""
    model = calibrated.model
    arrays = {"token": model.token, "position": model.position, "rsqrt": model.rsqrt}
    for name, product in model.products().items():
        scale = calibrated.weight_scales[name]
        parts = {"weight": product.weight, "bias": product.bias, "multiplier": product.multiplier, "scale": scale}
        arrays |= {f"{name}.{part}": array for part, array in parts.items()}
    arrays |= {f"layers.{i}.gelu": layer.gelu for i, layer in enumerate(model.layers)}
    numbers = {
        "shape": dataclasses.asdict(model.shape),
        **{name: getattr(model, name) for name in ("embed_shift", "epsilon", "rsqrt_shift")},
        **{name: getattr(calibrated, name) for name in ("residual_scale", "logits_scale")},
        "shifts": {name: product.shift for name, product in model.products().items()},
        "scores": [[layer.score_multiplier, layer.score_shift, layer.mix_shift] for layer in model.layers],
        "scales": [dataclasses.asdict(scales) for scales in calibrated.layers],
    }
    return arrays, numbers


def _build(arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]) -> Calibrated:
    """Undo ``_flatten``."""
    shifts = numbers["shifts"]
    products = {
        name: Product(*(arrays[f"{name}.{part}"] for part in ("weight", "bias", "multiplier")), shift)
        for name, shift in shifts.items()
    }
    layers = tuple(
        Layer(
            *(products[f"layers.{i}.{field}"] for field in ("qkv", "out", "up", "down")),
            arrays[f"layers.{i}.gelu"],
            *scores,
        )
        for i, scores in enumerate(numbers["scores"])
    )
    model = IntegerModel(
        Shape(**numbers["shape"]),
        *(arrays["token"], arrays["position"], numbers["embed_shift"], layers, products["head"]),
        *(numbers["epsilon"], arrays["rsqrt"], numbers["rsqrt_shift"]),
    )
    return Calibrated(
        model,
        *(numbers["residual_scale"], numbers["logits_scale"]),
        tuple(LayerScales(**scales) for scales in numbers["scales"]),
        {name: arrays[f"{name}.scale"] for name in shifts},
    )


def _digest(arrays: Mapping[str, np.ndarray], content: Any) -> str:
    """Return the SHA-256 of arrays, their names, types and shapes, and a JSON value."""
    kinds = {name: [array.dtype.str, array.shape] for name, array in sorted(arrays.items())}
    digest = hashlib.sha256(json.dumps([kinds, content], sort_keys=True).encode())
    for _, array in sorted(arrays.items()):
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
