"""Post-training quantisation to INT8: many libraries, one interface.

``quantise(route, model, windows, folder)`` calibrates a model on windows of training text and returns
something to score (a ``Logits`` callable), and a file to deploy: an ONNX graph in QDQ form. Each
route lives in a module of its own, imported when it is asked for, so a package that is missing costs
its own row and no other.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Callable

import numpy as np

from lib.corpus import Corpus
from lib.deploy import DeployedGPT, deploy
from lib.errors import BookError
from lib.evaluate import Logits
from lib.gpt import GPT

BATCH = 16  # windows that pass through a graph at once; the exported graphs are of this static batch


@dataclass(frozen=True)
class Quantised:
    """A quantised model: what computes its logits, and the QDQ file it is deployed as."""

    route: str
    logits: Logits
    file: Path

    @property
    def size_mb(self) -> float:
        """The file's size, in 10^6 bytes."""
        return self.file.stat().st_size / 1e6


@dataclass(frozen=True)
class Route:
    """Where a route's ``quantise(model, windows, path, **options) -> Logits`` is, and what it rests on."""

    module: str
    package: str
    rounded: str  # what it rounds to INT8
    options: dict[str, object]


EVERY_LINEAR = "Linears"
OUTPUTS = "Linears, their outputs"
KEYS = "Linears, q and k"
ALL_OUTPUTS = "Linears, attention's products, all outputs"
EVERYTHING = "all that the tool knows"

ROUTES = {
    "torch_ao_fbgemm": Route("torch_ao", "torch", OUTPUTS, {"engine": "fbgemm"}),
    "torch_ao_qnnpack": Route("torch_ao", "torch", OUTPUTS, {"engine": "qnnpack"}),
    "pt2e": Route("pt2e", "torchao", EVERY_LINEAR, {}),
    "ort": Route("ort", "onnxruntime", ALL_OUTPUTS, {"operators": ("MatMul", "Gemm")}),
    "ort_all": Route("ort", "onnxruntime", EVERYTHING, {"operators": None}),
    "brevitas": Route("brevitas_ptq", "brevitas", EVERY_LINEAR, {"power_of_two": False}),
    "brevitas_po2": Route("brevitas_ptq", "brevitas", EVERY_LINEAR, {"power_of_two": True}),
    "nncf": Route("nncf_ptq", "nncf", KEYS, {}),
    "quark_xint8": Route("quark_ptq", "amd-quark", OUTPUTS, {"config": "XINT8", "operators": ("Gemm",)}),
    "quark_transformer": Route("quark_ptq", "amd-quark", OUTPUTS, {"config": "INT8_TRANSFORMER_DEFAULT"}),
    "best": Route("best", "onnxruntime", EVERY_LINEAR, {}),
}


def calibration_windows(corpus: Corpus, windows: int, block: int, seed: int = 0) -> np.ndarray:
    """Draw windows (windows, block), int64, from a corpus's training text: never from what is evaluated.

    Raises BookError for a count below 1, or a text shorter than a block.
    """
    if windows < 1:
        raise BookError(f"the calibration set has {windows} windows; give at least one")
    if len(corpus.train) < block:
        raise BookError(f"the training text has {len(corpus.train)} characters, less than a block of {block}; use more")
    starts = np.random.default_rng(seed).integers(0, len(corpus.train) - block + 1, windows)
    return np.stack([corpus.train[s : s + block] for s in starts]).astype(np.int64)


def quantise(route: str, model: GPT, windows: np.ndarray, folder: str | os.PathLike[str]) -> Quantised:
    """Quantise ``model`` by one of ``ROUTES``, calibrated on windows (N, block) of int64 tokens.

    The QDQ file is written to ``folder``. Raises BookError for an unknown route, a package that is
    not installed, calibration windows that are empty, of another vocabulary or of another length than the block.
    """
    if route not in ROUTES:
        raise BookError(f"the route {route!r} is unknown; choose one of {', '.join(ROUTES)}")
    check_windows(windows, model)
    chosen = ROUTES[route]
    try:
        module = import_module(f"lib.ptq.{chosen.module}")
    except ImportError as error:
        raise BookError(
            f"the route {route} needs {chosen.package}, which cannot be imported ({error}); "
            f"pip install {chosen.package}, or go on with the other routes"
        ) from None
    path = Path(folder) / f"{route}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    apply: Callable[..., Logits] = module.quantise
    deployed: DeployedGPT = deploy(model)
    return Quantised(route, apply(deployed, windows, path, **chosen.options), path)


def check_windows(windows: np.ndarray, model: GPT) -> None:
    """Raise BookError unless ``windows`` is a calibration set for ``model``."""
    vocab, block = model.config.vocab, model.config.block
    if windows.ndim != 2 or not windows.size:
        raise BookError("the calibration set is empty; give windows (N, block) of training text")
    if windows.dtype != np.int64:
        raise BookError(f"the calibration windows are {windows.dtype}; make them int64 with .astype(np.int64)")
    if windows.shape[1] != block:
        raise BookError(f"the calibration windows have {windows.shape[1]} characters; cut them to the block, {block}")
    if not (0 <= windows.min() and windows.max() < vocab):
        raise BookError(f"the calibration windows hold symbols outside the model's 0 to {vocab - 1}; encode them anew")
