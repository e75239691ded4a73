"""Checkpoints come back bit by bit, and whatever is not one is refused in a sentence."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from safetensors.torch import save_file

from lib.checkpoint import load_model, load_shipped, load_tensors, save_model, save_tensors
from lib.errors import BookError
from lib.gpt import CONFIGS, GPT, GPTConfig

SHAPE = GPTConfig(n_layer=1, n_head=2, n_embd=16, block=8, dropout=0.1)


@pytest.fixture
def model(random_model: Callable[..., GPT]) -> GPT:
    return random_model(SHAPE)


def test_a_model_comes_back_exactly_and_ready_to_use(tmp_path: Path, model: GPT) -> None:
    save_model(tmp_path / "a.safetensors", model.train())
    back = load_model(tmp_path / "a.safetensors", dataclasses.replace(SHAPE, dropout=0.0))  # dropout is no shape
    assert back.config == SHAPE
    assert not back.training
    assert back.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_tensors_and_their_metadata_come_back_exactly(tmp_path: Path) -> None:
    whole = torch.arange(6.0).view(2, 3)
    save_tensors(tmp_path / "a", {"transposed": whole.T, "double": whole.double() / 3}, {"step": 3, "best": None})
    tensors, metadata = load_tensors(tmp_path / "a")
    assert torch.equal(tensors["transposed"], whole.T)
    assert torch.equal(tensors["double"], whole.double() / 3)
    assert metadata == {"step": 3, "best": None}


@pytest.mark.parametrize("length", [0, 4, 8, 100, 0.5, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, model: GPT, length: float) -> None:
    path = tmp_path / "a.safetensors"
    save_model(path, model)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(length * len(whole)) if length == 0.5 else length])
    with pytest.raises(BookError, match="a.safetensors is truncated or no safetensors file .*; copy or train it again"):
        load_model(path)


class Trap:
    """An object whose unpickling leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path, sprung = tmp_path / "a.safetensors", tmp_path / "sprung"
    torch.save({"token.weight": torch.ones(2), "trap": Trap(sprung)}, path)
    with pytest.raises(BookError, match="truncated or no safetensors file"):
        load_model(path)
    assert not sprung.exists()
    torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    assert sprung.exists()  # the trap was a real one


def spoil(path: Path, model: GPT, value: float) -> None:
    """Write a model with one weight of that value."""
    model.norm.bias.data[3] = value
    save_model(path, model)


CONFIG = dataclasses.asdict(SHAPE)
BAD: dict[str, tuple[Callable[[Path, GPT], object], str]] = {
    "missing": (lambda p, m: None, "a.safetensors does not exist; check the path"),
    "folder": (lambda p, m: p.mkdir(), "a.safetensors does not exist"),
    "foreign": (lambda p, m: save_file(m.state_dict(), p), "is not one of this book's checkpoints"),
    "foreign metadata": (lambda p, m: save_file(m.state_dict(), p, {"book": "{"}), "is not one of this book's"),
    "no configuration": (lambda p, m: save_tensors(p, m.state_dict(), {"step": 3}), "names no model configuration"),
    "no object": (lambda p, m: save_tensors(p, m.state_dict(), [1]), "names no model configuration"),
    "unknown field": (
        lambda p, m: save_tensors(p, m.state_dict(), {"config": CONFIG | {"experts": 8}}),
        "names no model configuration",
    ),
    "other configuration": (
        lambda p, m: save_model(p, GPT(dataclasses.replace(SHAPE, block=16))),
        r"another configuration \(.*block=16.*\); expected .*block=8",
    ),
    "other tensors": (
        lambda p, m: save_tensors(p, m.state_dict(), {"config": CONFIG | {"n_layer": 2}}),
        "holds tensors that do not fit its configuration .*n_layer=2",
    ),
    "a tensor too few": (
        lambda p, m: save_tensors(p, dict(list(m.state_dict().items())[1:]), {"config": CONFIG}),
        "holds tensors that do not fit",
    ),
    "not a number": (lambda p, m: spoil(p, m, torch.nan), "holds values in norm.bias that are not finite"),
    "infinite": (lambda p, m: spoil(p, m, -torch.inf), "holds values in norm.bias that are not finite"),
}


@pytest.mark.parametrize("write, complaint", BAD.values(), ids=BAD)
def test_what_is_no_checkpoint_is_refused(
    tmp_path: Path, model: GPT, write: Callable[[Path, GPT], object], complaint: str
) -> None:
    path = tmp_path / "a.safetensors"
    write(path, model)
    with pytest.raises(BookError, match=complaint) as told:
        load_model(path, SHAPE if "expected" in complaint else None)
    assert "\n" not in str(told.value)


def test_a_shipped_checkpoint_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.checkpoint.CHECKPOINTS", tmp_path)
    with pytest.raises(BookError, match="no checkpoint called 'nano'; it ships: none"):
        load_shipped("nano")
    card = {"training": {"model": "nano"}, "step": 7}
    for name in ("nano", "nano_pruned"):  # the card says which configuration the weights are of
        save_model(tmp_path / f"{name}.safetensors", GPT(CONFIGS["nano"]))
        (tmp_path / f"{name}.json").write_text(json.dumps(card))
        model, found = load_shipped(name)
        assert (model.config, found) == (CONFIGS["nano"], card)
    for name in ("colossal", "pocket", "../nano"):
        with pytest.raises(BookError, match=f"no checkpoint called '{name}'; it ships: nano, nano_pruned"):
            load_shipped(name)


@pytest.mark.parametrize("name", ["pico_cifar10", "pocket_dpu", "pocket_qat_w4a8"])
def test_a_shipped_checkpoint_of_another_kind_is_refused(name: str) -> None:
    with pytest.raises(BookError, match=f"{name} is no GPT in floating point; load it as the chapter"):
        load_shipped(name)
