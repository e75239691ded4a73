"""Running an IR: one token a step with the cache outside or inside the model, or a whole window at once.

``OpenVINOStep`` and ``StatefulStep`` stand in the place of a model for ``lib.gpt.generate`` and ``Stepper``, which
refill the cache by the book's rule. ``Feeder`` is what a benchmark calls.
"""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import openvino as ov
import torch
import torch.nn as nn
from torch import Tensor

from lib.errors import BookError
from lib.evaluate import Logits
from lib.export import Signature, static_logits
from lib.gpt import GPTConfig, Stepper
from lib.intel.convert import KINDS, Card, cache_shape, load_ir
from lib.intel.devices import check_device, compile_options, last_line, open_core


def open_request(
    path: str | os.PathLike[str],
    kinds: tuple[str, ...],
    device: str = "CPU",
    precision: str | None = "f32",
    threads: int | None = None,
    config: GPTConfig | None = None,
) -> tuple[ov.InferRequest, Card]:
    """Compile an IR for a device and return a request to infer with, and the IR's card.

    Raises BookError as ``load_ir``, ``check_device`` and ``compile_options`` do, for an IR that is none of ``kinds``,
    or one that the device refuses.
    """
    core = open_core()
    check_device(device, core)
    model, card = load_ir(path, config)
    if card.kind not in kinds:
        raise BookError(f"{path} is a {card.kind} IR; this route takes {' or '.join(kinds)}, convert such a graph")
    try:
        compiled = core.compile_model(model, device, compile_options(device, precision, threads, core))
    except RuntimeError as error:
        raise BookError(f"{device} does not take {path} ({last_line(error)}); choose another device") from None
    return compiled.create_infer_request(), card


def kernels(path: str | os.PathLike[str], precision: str | None = "f32") -> Counter[tuple[str, str]]:
    """Count what the CPU makes of an IR: kernels by (kind, type that they compute in), as in (FullyConnected, u8)."""
    request, _ = open_request(path, tuple(KINDS), precision=precision)
    running = request.get_compiled_model().get_runtime_model().get_ops()
    described = ("layerType", "runtimePrecision")
    return Counter(tuple(op.get_rt_info()[name].astype(str) for name in described) for op in running)


# ---- One token a step. ----


class _Step(nn.Module):
    """What the two ways to step share: a request whose inputs are set once, in memory shared with NumPy."""

    kind: str

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: str = "CPU",
        precision: str | None = "f32",
        threads: int | None = None,
        asynchronous: bool = False,
        config: GPTConfig | None = None,
    ) -> None:
        """Compile ``path`` (see ``open_request``); ``asynchronous`` starts each inference and waits for it."""
        super().__init__()
        self.request, card = open_request(path, (self.kind,), device, precision, threads, config)
        self.config, self.asynchronous = card.config, asynchronous
        self._token = np.zeros(self.request.get_tensor("token").shape, dtype=np.int64)  # (B,)
        self._position = np.zeros((), dtype=np.int64)
        self.request.set_tensor("token", ov.Tensor(self._token, shared_memory=True))
        self.request.set_tensor("position", ov.Tensor(self._position, shared_memory=True))

    def _infer(self, token: Tensor, position: Tensor) -> Tensor:
        self._token[...], self._position[...] = token.numpy(), position.numpy()
        if self.asynchronous:
            self.request.start_async()
            self.request.wait()
        else:
            self.request.infer()
        return torch.from_numpy(self.request.get_tensor("logits").data.copy())  # the next step writes over it


class OpenVINOStep(_Step):
    """A step IR in the place of a model; the caller carries the cache, as with ``lib.export.OnnxStep``.

    Two caches take turns: a step writes the one that it does not read, so nothing is copied. A cache that ``step``
    returned is therefore good for the next step, and overwritten by the one after it.
    """

    kind = "step"
    _turns: tuple[Tensor, ...] = ()  # the two caches, and below them the same memory as OpenVINO knows it
    _tensors: tuple[ov.Tensor, ...] = ()

    def empty_cache(self, batch: int | None = None) -> Tensor:
        """Return a zero KV cache (L, 2, B, H, S, D); B is the IR's own."""
        if batch not in (None, 1, len(self._token)):
            raise BookError(f"the IR takes a batch of {len(self._token)}, not {batch}; convert another")
        shape = cache_shape(self.config, len(self._token))
        self._turns = torch.zeros(shape), torch.zeros(shape)
        self._tensors = tuple(ov.Tensor(cache.numpy(), shared_memory=True) for cache in self._turns)
        return self._turns[0]

    def step(self, token: Tensor, position: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Advance by one token, as ``GPT.step``; ``cache`` is that of ``empty_cache`` or of the step before."""
        read = next((turn for turn, own in enumerate(self._turns) if own is cache), None)
        if read is None:
            raise BookError("the cache is of another run; take it from empty_cache or from the step before")
        self.request.set_tensor("cache", self._tensors[read])
        self.request.set_tensor("new_cache", self._tensors[1 - read])
        return self._infer(token, position), self._turns[1 - read]


class StatefulStep(_Step):
    """A stateful IR in the place of a model: ``cache`` is empty, and one ``Stepper`` at a time can use it."""

    kind = "stateful"

    def empty_cache(self, batch: int | None = None) -> Tensor:
        """Empty the cache inside, and return a tensor (0,) for the caller to carry."""
        if batch not in (None, 1, len(self._token)):
            raise BookError(f"the IR takes a batch of {len(self._token)}, not {batch}; convert another")
        self.request.reset_state()
        return torch.empty(0)

    def step(self, token: Tensor, position: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Advance by one token, as ``GPT.step``."""
        return self._infer(token, position), cache


STEPS: dict[str, type[_Step]] = {model.kind: model for model in (OpenVINOStep, StatefulStep)}


class Feeder:
    """A model that steps, as a benchmark wants it: ``feed`` a token, ``reset`` the context."""

    def __init__(self, model: _Step) -> None:
        self.model = model
        self.reset()

    def reset(self) -> None:
        """Forget all tokens."""
        self.stepper = Stepper(self.model)

    def feed(self, token: int) -> np.ndarray:
        """Take the next token and return the logits over the one after it, float32 (V,); refills as it must."""
        return self.stepper.feed(token).numpy()


# ---- Routes. ----


def openvino_logits(
    path: str | os.PathLike[str],
    device: str = "CPU",
    precision: str | None = "f32",
    threads: int | None = None,
    config: GPTConfig | None = None,
) -> Logits:
    """Make a route of a prefill IR: int64 (B, T) to float32 (B, T, V). BookError as ``open_request``."""
    request, card = open_request(path, ("prefill",), device, precision, threads, config)
    batch, time = request.get_tensor("tokens").shape

    def run(tokens: np.ndarray) -> np.ndarray:
        request.infer({"tokens": tokens})
        return request.get_tensor("logits").data.copy()

    return static_logits(run, Signature("prefill", batch, time, card.config.vocab))
