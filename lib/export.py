"""From PyTorch to ONNX, and back to a route of the book.

Two graphs, both of static shape, as an FPGA needs them:

* prefill: ``tokens`` (B, T) int64 -> ``logits`` (B, T, V) float32, the whole window at once;
* step: ``token`` (B,) int64, ``position`` () int64, ``cache`` (L, 2, B, H, S, D) float32 -> ``logits``
  (B, V) and ``new_cache``: one token against the KV cache that the caller carries from step to step.

A file is read back only through ``load_onnx``, which says in one sentence what is wrong with it.
"""

from __future__ import annotations

import io
import logging
import math
import os
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Iterator, Sequence

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import torch
import torch.nn as nn
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_model, uses_external_data
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, DeduplicateInitializersPass
from onnxscript import optimizer
from torch import Tensor

from lib.deploy import check_unmasked
from lib.errors import BookError
from lib.evaluate import Logits
from lib.files import atomic_write
from lib.gpt import GPT, GPTConfig
from lib.ort import first_line, options, session

TORCHSCRIPT_OPSETS = range(13, 21)  # what torch.onnx.export(dynamo=False) can write here
DYNAMO_OPSETS = range(18, 24)
RUNTIME_OPSETS = range(13, 27)  # what ONNX Runtime is asked to run
FOLDED = 2**20  # largest constant, in values, that folding may make: a mask of 256 x 256 fits
INPUTS = {"prefill": ("tokens",), "step": ("token", "position", "cache")}
OUTPUTS = {"prefill": ("logits",), "step": ("logits", "new_cache")}


# ---- Writing. ----


def export_prefill(
    model: nn.Module,
    path: str | os.PathLike[str],
    opset: int = 17,
    dynamo: bool = False,
    batch: int = 16,
    time: int | None = None,
    tolerance: float | None = 1e-3,
) -> Path:
    """Write the full pass of ``model`` over windows (batch, time) and check the file; time None is the block.

    ``dynamo`` takes the exporter built on torch.export (opset 18 and above) in place of the one built
    on TorchScript. Raises BookError for a model that still carries pruning masks, an opset the exporter
    cannot write, windows that are empty or longer than the block, or a file whose logits differ from the model's by
    more than ``tolerance``; with None they are left for the caller to check. Leaves a GPT in evaluation mode.
    """
    block = model.config.block
    length = block if time is None else time
    if length > block:
        raise BookError(f"a window of {length} characters is longer than the model's block; give {block} at most")
    tokens = random_tokens((batch, length), model.config.vocab)
    if isinstance(model, GPT):  # what torch.export captured has no such switch
        model.eval()
    return _export(model, (tokens,), INPUTS["prefill"], OUTPUTS["prefill"], path, opset, dynamo, tolerance)


def export_step(
    model: GPT,
    path: str | os.PathLike[str],
    opset: int = 17,
    dynamo: bool = False,
    batch: int = 1,
    tolerance: float = 1e-3,
) -> Path:
    """Write one step of ``model`` against its KV cache, and check the file as ``export_prefill`` does."""
    cache = torch.randn(model.empty_cache(batch).shape, generator=torch.Generator().manual_seed(0))
    position = torch.tensor(model.config.block // 2)
    example = (random_tokens((batch,), model.config.vocab), position, cache)
    return _export(_Step(model).eval(), example, INPUTS["step"], OUTPUTS["step"], path, opset, dynamo, tolerance)


def export_part(
    part: nn.Module, example: Tensor, path: str | os.PathLike[str], opset: int = 17, tolerance: float | None = 1e-3
) -> Path:
    """Write any module of one input ``x`` and one output ``y``, and check the file as ``export_prefill`` does."""
    return _export(part.eval(), (example,), ("x",), ("y",), path, opset, False, tolerance)


class _Step(nn.Module):
    """``GPT.step`` as a forward, which is what the exporters trace."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, token: Tensor, position: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.step(token, position, cache)


def random_tokens(shape: tuple[int, ...], vocab: int) -> Tensor:
    """Draw tokens to trace a model with, the same at each call; BookError for a shape that holds none."""
    if min(shape) < 1:
        raise BookError(f"tokens of shape {shape} are none; give 1 or more of each")
    return torch.randint(0, vocab, shape, generator=torch.Generator().manual_seed(0))


def _export(
    model: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    path: str | os.PathLike[str],
    opset: int,
    dynamo: bool,
    tolerance: float | None,
) -> Path:
    check_unmasked(model)
    opsets = DYNAMO_OPSETS if dynamo else TORCHSCRIPT_OPSETS
    if opset not in opsets:
        name = "dynamo" if dynamo else "TorchScript"
        raise BookError(
            f"the {name} exporter writes opsets {opsets[0]} to {opsets[-1]}, not {opset}; choose one of them"
        )
    names = {"input_names": list(inputs), "output_names": list(outputs)}
    with quiet_exporter(), torch.no_grad():
        if dynamo:
            program = torch.onnx.export(
                model, example, opset_version=opset, dynamo=True, external_data=False, verbose=False, **names
            )
            graph = program.model_proto
        else:
            graph = _torchscript_graph(model, example, opset, names)
    graph = save_onnx(tidied(graph), path)
    if tolerance is not None:
        with torch.no_grad():
            expected = model(*example)
        _check_equal(graph, path, example, expected if isinstance(expected, tuple) else (expected,), tolerance)
    return Path(path)


def _torchscript_graph(
    model: nn.Module, example: tuple[Tensor, ...], opset: int, names: dict[str, list[str]]
) -> onnx.ModelProto:
    buffer = io.BytesIO()
    torch.onnx.export(model, example, buffer, opset_version=opset, dynamo=False, **names)
    return onnx.load_from_string(buffer.getvalue())


def tidied(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Fold shape arithmetic and causal masks into constants, keep one of equal constants, drop the exporter's notes."""
    tidied = onnx_ir.from_proto(optimizer.optimize(graph, input_size_limit=FOLDED, output_size_limit=FOLDED))
    onnx_ir.passes.Sequential(DeduplicateInitializersPass(FOLDED), ClearMetadataAndDocStringPass())(tidied)
    return onnx_ir.to_proto(tidied)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence what the exporters always say: one is deprecated, torchvision is absent, a type is renamed."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You are using the legacy TorchScript-based ONNX export")
            warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)`", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def save_onnx(model: onnx.ModelProto, path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Infer every shape, check the graph, write it in one file, atomically; return it with its shapes."""
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    with atomic_write(path) as file:
        file.write(model.SerializeToString())
    return model


def _check_equal(
    graph: onnx.ModelProto,
    path: str | os.PathLike[str],
    example: tuple[Tensor, ...],
    expected: tuple[Tensor, ...],
    tolerance: float,
) -> None:
    feeds = {entry.name: tensor.numpy() for entry, tensor in zip(graph.graph.input, example)}
    found = session(path).run(None, feeds)
    error = max(float(np.abs(a - b.numpy()).max()) for a, b in zip(found, expected))
    if not error <= tolerance:
        raise BookError(
            f"{path} gives values up to {error:.3g} away from the model's, more than the tolerance {tolerance:g}; "
            "check the export"
        )


# ---- Reading. ----


@dataclass(frozen=True)
class Signature:
    """What a file's graph takes and gives: ``prefill`` or ``step``, and its static sizes."""

    kind: str
    batch: int
    time: int  # the window of a prefill graph, the cache's slots of a step graph
    vocab: int


def load_onnx(
    path: str | os.PathLike[str], config: GPTConfig | None = None, opsets: range = RUNTIME_OPSETS
) -> tuple[onnx.ModelProto, Signature]:
    """Read a file that this book exported; ``config``, when given, is the model it must hold.

    Raises BookError for a file that is missing, truncated or no ONNX, whose external data is missing,
    of an opset outside ``opsets`` (what the route can take), whose graph breaks ONNX's rules, or that
    holds another model: other inputs and outputs, shapes that are not static, another vocabulary.
    """
    path = Path(path)
    if not path.is_file():
        raise BookError(f"the ONNX file {path} does not exist; check the path")
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError:
        raise BookError(f"{path} is truncated or no ONNX file; export it again") from None
    if not model.graph.node or not model.graph.output:  # cut between two fields, it still decodes
        raise BookError(f"{path} is truncated or holds no graph; export it again")
    _load_external_data(model, path)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset not in opsets:
        raise BookError(
            f"{path} is of opset {opset} and this route takes {opsets[0]} to {opsets[-1]}; export it with one of these"
        )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BookError(f"{path} breaks the rules of ONNX ({first_line(error)}); export it again") from None
    return model, _signature(model, path, config)


def _load_external_data(model: onnx.ModelProto, path: Path) -> None:
    for tensor in filter(uses_external_data, model.graph.initializer):
        info = ExternalDataInfo(tensor)
        data = path.parent / info.location
        if not data.is_file() or data.stat().st_size < (info.offset or 0) + (info.length or 0):
            raise BookError(
                f"{path} keeps its weights in {info.location}, which is missing or cut short beside it; copy both, "
                "or export with external_data=False"
            )
    load_external_data_for_model(model, str(path.parent))


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    """Return a value's shape; a dimension that is not static counts 0."""
    return [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]


def _signature(model: onnx.ModelProto, path: Path, config: GPTConfig | None) -> Signature:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: _shape(value) for value in model.graph.input if value.name not in weights}
    outputs = {value.name: _shape(value) for value in model.graph.output}
    kind = next((k for k in INPUTS if set(INPUTS[k]) == set(inputs) and set(OUTPUTS[k]) == set(outputs)), None)
    if kind is None:
        raise BookError(
            f"{path} is of another model: it maps {', '.join(inputs)} to {', '.join(outputs)}, where this book's "
            "map tokens to logits; export it with lib.export"
        )
    sizes = [size for shape in (*inputs.values(), *outputs.values()) for size in shape]
    ranks = (2, 3) if kind == "prefill" else (6, 2)
    found = (len(inputs["tokens" if kind == "prefill" else "cache"]), len(outputs["logits"]))
    if found != ranks or 0 in sizes:
        raise BookError(
            f"{path} has inputs {inputs} that are not of this book's static shapes; export it with lib.export"
        )
    time = inputs["tokens"][1] if kind == "prefill" else inputs["cache"][4]
    signature = Signature(kind, outputs["logits"][0], time, outputs["logits"][-1])
    if config is not None and (signature.vocab != config.vocab or time > config.block):
        raise BookError(
            f"{path} is of another model: {signature.vocab} symbols and windows of {time}, "
            f"where {config.vocab} symbols and at most {config.block} are expected; export the right one"
        )
    return signature


def node_counts(model: onnx.ModelProto) -> Counter[str]:
    """Count the nodes of each type, constants left out."""
    return Counter(node.op_type for node in model.graph.node if node.op_type != "Constant")


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return a graph's constant values by name."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return values


# ---- Running. ----


def optimised(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Return the graph that ONNX Runtime makes of a file before it runs it: which nodes became integer kernels."""
    with TemporaryDirectory() as folder:
        result = Path(folder) / "optimised.onnx"
        chosen = options(threads=1)
        chosen.optimized_model_filepath = str(result)
        onnxruntime.InferenceSession(os.fspath(path), chosen, providers=["CPUExecutionProvider"])
        return onnx.load(result)


def onnx_logits(path: str | os.PathLike[str], threads: int | None = None, config: GPTConfig | None = None) -> Logits:
    """Make a route of an exported prefill graph, run by ONNX Runtime.

    Raises BookError as ``load_onnx`` does, for a step graph, and, when called, for windows longer than
    the graph's: see ``static_logits``.
    """
    _, signature = load_onnx(path, config)
    if signature.kind != "prefill":
        raise BookError(f"{path} is a step graph; run it with OnnxStep, or export a prefill graph")
    running = session(path, threads)
    return static_logits(lambda tokens: running.run(["logits"], {"tokens": tokens})[0], signature)


def static_logits(run: Logits, signature: Signature) -> Logits:
    """Make a route for tokens (B, T) of any size from ``run``, which takes a graph's own static size alone.

    The last batch is filled up with zeros, and so are windows shorter than the graph's, at their end,
    where causal attention cannot see. Called with longer windows, the route raises BookError.
    """

    def logits(tokens: np.ndarray) -> np.ndarray:
        count, length = tokens.shape
        if length > signature.time:
            raise BookError(
                f"the graph takes windows of {signature.time} characters, not {length}; export a longer one"
            )
        batches = math.ceil(count / signature.batch)
        padded = np.zeros((batches * signature.batch, signature.time), dtype=np.int64)
        padded[:count, :length] = tokens
        return np.concatenate([run(part) for part in np.split(padded, batches)])[:count, :length]

    return logits


class OnnxStep(nn.Module):
    """An exported step graph in ONNX Runtime, in the place of a model for ``lib.gpt.generate`` and ``Stepper``."""

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None, spin: bool = False) -> None:
        super().__init__()
        model, signature = load_onnx(path)
        if signature.kind != "step":
            raise BookError(f"{path} is a prefill graph; run it with onnx_logits, or export a step graph")
        cache = next(_shape(value) for value in model.graph.input if value.name == "cache")
        layers, _, self.batch, heads, block, width = cache
        self.config = GPTConfig(layers, heads, heads * width, block, signature.vocab)
        self.session = session(path, threads, spin)

    def empty_cache(self, batch: int | None = None) -> Tensor:
        """Return a zero KV cache (L, 2, B, H, S, D); B is the graph's own."""
        if batch not in (None, 1, self.batch):
            raise BookError(f"the step graph was exported for a batch of {self.batch}, not {batch}; export another")
        c = self.config
        return torch.zeros(c.n_layer, 2, self.batch, c.n_head, c.block, c.n_embd // c.n_head)

    def step(self, token: Tensor, position: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Advance by one token, as ``GPT.step``."""
        feeds = {"token": token.numpy(), "position": position.numpy(), "cache": cache.numpy()}
        logits, new_cache = self.session.run(["logits", "new_cache"], feeds)
        return torch.from_numpy(logits), torch.from_numpy(new_cache)


def onnx_step_logits(path: str | os.PathLike[str]) -> Logits:
    """Make a route of an exported step graph of batch 1, on one thread for each of two windows at a time."""
    return step_logits(OnnxStep(path, threads=1), together=min(2, torch.get_num_threads()))


def step_logits(model: nn.Module, together: int = 1) -> Logits:
    """Make a route of whatever steps like ``OnnxStep``, for one sequence: windows (N, T), each token by token.

    together: windows at a time, for a model that may be called from several threads.
    """

    def window(tokens: np.ndarray) -> np.ndarray:
        cache, steps = model.empty_cache(), []
        for position, token in enumerate(tokens):
            logits, cache = model.step(torch.tensor([token]), torch.tensor(position), cache)
            steps.append(logits[0])
        return torch.stack(steps).numpy()

    def logits(tokens: np.ndarray) -> np.ndarray:
        with ThreadPoolExecutor(together) as pool:
            return np.stack(list(pool.map(window, tokens)))

    return logits
