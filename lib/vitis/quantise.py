"""Eight bits for the DPU: AMD Quark on the rewritten step graph, every scale a power of two.

The calibration set is written as files, since the vendor's flow reads files: one ``.npz`` for each step, with
the token, its position and the KV cache that the model had then.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from contextlib import chdir
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn as nn
from onnxruntime.quantization import CalibrationDataReader, QuantType
from onnxruntime.quantization.shape_inference import quant_pre_process
from tqdm import tqdm

from lib.errors import BookError
from lib.export import export_step
from lib.files import atomic_write
from lib.partition import Partition, partition
from lib.ptq.quiet import quiet
from lib.vitis.operators import DPU
from lib.vitis.rewrite import ImageGPT

with quiet("torchao", "torch.utils._pytree"):
    from quark.common.utils.log import ScreenLogger

    ScreenLogger.set_shared_level(logging.ERROR)  # before the rest is imported: it reports every step
    from quark.onnx import ModelQuantizer
    from quark.onnx.quantization.config.config import Config
    from quark.onnx.quantization.config.custom_config import get_default_config

POWERS, FREE = "XINT8", "S8S8_AAWS"  # two of the configurations that Quark ships
WORTHWHILE = "Convolution"  # a subgraph without one is not worth a crossing


def prepare(model: ImageGPT, path: Path) -> onnx.ModelProto:
    """Write the step graph of a rewritten model, its operators fused as ONNX Runtime's preparation does."""
    exported = path.with_suffix(".plain.onnx")
    export_step(model, exported)
    with quiet():
        quant_pre_process(exported, path, skip_symbolic_shape=True)
    exported.unlink()
    return onnx.load(path)


def cut(prepared: onnx.ModelProto) -> Partition:
    """Partition a prepared step graph for the DPU: every subgraph that holds a convolution."""
    return partition(prepared, DPU, needs=WORTHWHILE)


def write_calibration(model: nn.Module, windows: np.ndarray, every: int, folder: Path) -> list[Path]:
    """Step a model through windows (N, T) of int64 tokens and write one step in ``every`` as a file; return the files.

    Each window is sampled at other positions, none more often than in the text: the first position of a window has
    values larger than any other's, and ranges made for it are too wide for all the rest. Raises BookError for
    windows that are empty.
    """
    if not windows.size:
        raise BookError("the calibration set is empty; give windows (N, T) of training text")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    with torch.no_grad():
        for number, window in enumerate(tqdm(windows, desc="calibration set", leave=False)):
            cache = model.empty_cache()
            for place, token in enumerate(window):
                feed = torch.tensor([token]), torch.tensor(place), cache
                if (place + number) % every == 0:
                    files.append(folder / f"{number:03d}_{place:03d}.npz")
                    with atomic_write(files[-1]) as file:
                        arrays = dict(zip(("token", "position", "cache"), (part.numpy() for part in feed)))
                        np.savez_compressed(file, **arrays)
                _, cache = model.step(*feed)
    for old in set(folder.glob("*.npz")) - set(files):
        old.unlink()  # of an earlier set
    return files


class Files(CalibrationDataReader):
    """A calibration set of files, in their order."""

    def __init__(self, files: list[Path]) -> None:
        self.feeds = map(_load, files)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def _load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def quantise(prepared: Path, files: list[Path], nodes: list[str], path: Path, config: str = POWERS) -> Path:
    """Quantise the named nodes of a prepared graph with Quark, calibrated on ``files``; write ``path``.

    config: ``POWERS``, int8 with scales of powers of two, those of least mean squared error, which is what the
    DPU computes with; or ``FREE``, the same integers with free scales, to see what the powers cost. Both get
    signed activations: XINT8's own are unsigned, for another of AMD's engines.
    """
    chosen = copy.deepcopy(get_default_config(config))
    chosen.activation_type = QuantType.QInt8
    chosen.nodes_to_quantize, chosen.op_types_to_quantize = nodes, []
    prepared, path = prepared.resolve(), path.resolve()
    files = [file.resolve() for file in files]
    with quiet(), tempfile.TemporaryDirectory() as scratch, chdir(scratch):  # it leaves a report where it stands
        ModelQuantizer(Config(global_quant_config=chosen)).quantize_model(str(prepared), str(path), Files(files))
    return path


def dpu_nodes(graph: onnx.ModelProto, pieces: Partition) -> list[str]:
    """Name the nodes of a partition that run on the DPU."""
    return [graph.graph.node[number].name for subgraph in pieces.subgraphs for number in subgraph.nodes]
