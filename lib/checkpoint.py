"""Checkpoints: weights in safetensors, never pickles, and a JSON card that says how they came about."""

from __future__ import annotations

import dataclasses
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Mapping

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lib import ROOT
from lib.errors import BookError
from lib.files import atomic_write, read_json
from lib.gpt import CONFIGS, GPT, GPTConfig

CHECKPOINTS = ROOT / "data" / "checkpoints"


def save_tensors(path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], metadata: Any) -> None:
    """Write named tensors and one JSON value as a safetensors file, atomically."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as file:
        file.write(save(contiguous, metadata={"book": json.dumps(metadata)}))


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[safe_open, Any]]:
    if not Path(path).is_file():
        raise BookError(f"the checkpoint {path} does not exist; check the path")
    try:
        with safe_open(path, framework="pt") as file:
            yield file, json.loads((file.metadata() or {})["book"])
    except SafetensorError as error:
        raise BookError(f"{path} is truncated or no safetensors file ({error}); copy or train it again") from None
    except (KeyError, json.JSONDecodeError):
        raise BookError(f"{path} is not one of this book's checkpoints; use one written by lib.train") from None


def load_metadata(path: str | os.PathLike[str]) -> Any:
    """Read the JSON value alone of what ``save_tensors`` wrote. Raises BookError as ``load_tensors``."""
    with _opened(path) as (_, metadata):
        return metadata


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], Any]:
    """Read what ``save_tensors`` wrote. Raises BookError if missing, truncated or foreign."""
    with _opened(path) as (file, metadata):
        return {name: file.get_tensor(name) for name in file.keys()}, metadata


def save_model(path: str | os.PathLike[str], model: GPT) -> None:
    """Write a model's weights and its shape."""
    save_tensors(path, model.state_dict(), {"config": dataclasses.asdict(model.config)})


def load_model(path: str | os.PathLike[str], config: GPTConfig | None = None) -> GPT:
    """Read a model, in evaluation mode; ``config``, when given, is the shape it must have.

    Raises BookError for a missing, truncated or foreign file, another configuration, tensors that
    do not fit the configuration, or weights that are not finite.
    """
    tensors, metadata = load_tensors(path)
    try:
        found = GPTConfig(**metadata["config"])
    except (KeyError, TypeError):
        raise BookError(f"{path} names no model configuration; use a checkpoint written by lib.train") from None
    if config is not None and dataclasses.replace(found, dropout=config.dropout) != config:
        raise BookError(f"{path} holds a model of another configuration ({found}); expected {config}")
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten: leave the caller's luck alone
        model = GPT(found)
    try:
        model.load_state_dict(tensors)
    except RuntimeError:
        raise BookError(f"{path} holds tensors that do not fit its configuration {found}; train it again") from None
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise BookError(f"{path} holds values in {name} that are not finite; take an earlier checkpoint")
    return model.eval()


def load_shipped(name: str) -> tuple[GPT, dict[str, Any]]:
    """Return one of the book's own checkpoints, ``pocket`` or ``nano`` or one made of them, and its card."""
    shipped = sorted(file.stem for file in CHECKPOINTS.glob("*.safetensors"))
    if name not in shipped:
        raise BookError(f"the book ships no checkpoint called {name!r}; it ships: {', '.join(shipped) or 'none'}")
    path = CHECKPOINTS / f"{name}.safetensors"
    card = read_json(path.with_suffix(".json"), "the checkpoint's card")
    activation = card.get("model", {}).get("activation", GPTConfig.activation)  # a fine-tuned model may have another
    base = CONFIGS.get(card.get("training", {}).get("model"))
    if base is None or set(load_metadata(path)) != {"config"}:
        raise BookError(f"{name} is no GPT in floating point; load it as the chapter that made it does")
    return load_model(path, dataclasses.replace(base, activation=activation)), card
