"""The host's side of a DPU: the model's pieces run in turn, a token at a time, CPU and DPU alternating.

``DPUStep`` stands in the place of a model, so ``lib.gpt.generate`` drives it as it drives every other
route. With AMD's ``xir`` and ``vart`` at hand (on the board) the DPU's pieces are xmodels and run there; elsewhere
the stand-in of ``lib.vitis.vart`` runs their ONNX files. The CPU's pieces run in ONNX Runtime on either.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from lib.errors import BookError
from lib.gpt import GPTConfig
from lib.ort import session
from lib.pieces import Piece, read


def runtime(name: str = "auto") -> tuple[Any, Any, str]:
    """Return what has ``Graph``, what has ``Runner``, and what they are called.

    auto takes AMD's packages where they can be imported and the stand-in elsewhere; ``vart`` and ``cpu`` insist.
    Raises BookError for another name, or for ``vart`` where it is absent.
    """
    if name not in ("auto", "vart", "cpu"):
        raise BookError(f"the runner {name!r} is unknown; choose one of auto, vart, cpu")
    if name != "cpu":
        try:
            import vart
            import xir

            return xir, vart, "VART"
        except ImportError:
            if name == "vart":
                raise BookError(
                    "xir and vart cannot be imported; they come with the board image of Vitis AI 3.0 "
                    "(or take --runner cpu)"
                ) from None
    from lib.vitis import vart

    return vart, vart, "CPU stand-in for VART"


class CPUPiece:
    """A stretch of the graph on the CPU, in ONNX Runtime."""

    device = "CPU"

    def __init__(self, piece: Piece, path: Path, threads: int | None) -> None:
        self.piece, self.session = piece, session(path, threads)

    def run(self, tensors: dict[str, np.ndarray]) -> None:
        """Take this piece's inputs from ``tensors``, and put its outputs there."""
        made = self.session.run(self.piece.outputs, {name: tensors[name] for name in self.piece.inputs})
        tensors.update(zip(self.piece.outputs, made))


class DPUPiece:
    """One subgraph on the DPU: a runner, and the buffers it reads and fills, allocated once."""

    device = "DPU"

    def __init__(self, piece: Piece, path: Path, xir: Any, vart: Any) -> None:
        if path.suffix == ".xmodel" and not path.is_file():  # AMD's library would end the process
            raise BookError(f"{path} does not exist; compile its folder with hw/vitis_ai/compile.sh")
        graph = xir.Graph.deserialize(str(path))
        children = graph.get_root_subgraph().toposort_child_subgraph()
        found = [c for c in children if c.has_attr("device") and c.get_attr("device").upper() == "DPU"]
        if len(found) != 1:
            raise BookError(f"{path} has {len(found)} DPU subgraphs instead of one; compile it again")
        self.graph = graph  # the runner reads from it as long as it lives
        self.runner = vart.Runner.create_runner(found[0], "run")
        self.inputs = _buffers(piece.inputs, piece.points, self.runner.get_input_tensors(), path)
        self.outputs = _buffers(piece.outputs, piece.points, self.runner.get_output_tensors(), path)

    def run(self, tensors: dict[str, np.ndarray]) -> None:
        """Copy this piece's inputs to their buffers, run the DPU, and put its outputs into ``tensors``."""
        for name, buffer in self.inputs.items():
            np.copyto(buffer, tensors[name].reshape(buffer.shape))  # images of one pixel: NCHW and NHWC are one order
        job = self.runner.execute_async(list(self.inputs.values()), list(self.outputs.values()))
        self.runner.wait(job)
        for name, buffer in self.outputs.items():
            tensors[name] = buffer.transpose(0, 3, 1, 2)


def _buffers(names: list[str], points: dict[str, int], tensors: list[Any], path: Path) -> dict[str, np.ndarray]:
    """Allocate a buffer for each tensor, in the runner's order, under the names that the manifest gives them.

    The compiler may put something behind a tensor's name, and has underscores in it. BookError if the names cannot be
    told apart, or if a tensor has another shape or another scale than the manifest says: then the file is of another
    model.
    """
    buffers = {}
    for tensor in tensors:
        fitting = [name for name in names if _bare(tensor.name).startswith(_bare(name))]
        if len(fitting) != 1 or fitting[0] in buffers:
            raise BookError(
                f"{path} has a tensor {tensor.name} that is not among {', '.join(names)}: another model's file"
            )
        if len(tensor.dims) != 4 or tensor.dims[1:3] != [1, 1]:
            raise BookError(
                f"{path} has a tensor of {tensor.dims}, which is no image of one pixel: another model's file"
            )
        if tensor.get_attr("fix_point") != points[fitting[0]]:
            raise BookError(f"{path} scales {tensor.name} by 2^-{tensor.get_attr('fix_point')}: another model's file")
        buffers[fitting[0]] = np.zeros(tensor.dims, dtype=np.int8)
    if len(buffers) != len(names):
        raise BookError(f"{path} has {len(buffers)} tensors where {len(names)} are expected: another model's file")
    return buffers


def _bare(name: str) -> str:
    return re.sub("[^0-9A-Za-z]", "_", name)


class DPUStep(nn.Module):
    """A folder of pieces in the place of a model, for ``lib.gpt.generate`` and ``Stepper``."""

    def __init__(
        self, folder: Path, runner: str = "auto", config: GPTConfig | None = None, threads: int | None = None
    ) -> None:
        """Open every piece. Raises BookError as ``lib.pieces.read`` and ``runtime`` do."""
        super().__init__()
        pieces, self.config = read(folder, config)
        xir, vart, self.runtime = runtime(runner)
        suffix = "xmodel" if self.runtime == "VART" else "onnx"
        self.pieces = [
            CPUPiece(piece, folder / f"{piece.name}.onnx", threads)
            if piece.device == "CPU"
            else DPUPiece(piece, folder / f"{piece.name}.{suffix}", xir, vart)
            for piece in pieces
        ]
        self.steps = 0
        self.seconds = {"CPU": 0.0, "DPU": 0.0}  # spent in the pieces of either device, crossings counted with the DPU

    @property
    def subgraphs(self) -> int:
        return sum(piece.device == "DPU" for piece in self.pieces)

    def step(self, token: Tensor, position: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Advance by one token, as ``GPT.step``, for one sequence."""
        tensors = {"token": token.numpy(), "position": position.numpy(), "cache": cache.numpy()}
        for piece in self.pieces:
            start = time.perf_counter()
            piece.run(tensors)
            self.seconds[piece.device] += time.perf_counter() - start
        self.steps += 1
        return torch.from_numpy(tensors["logits"]), torch.from_numpy(tensors["new_cache"])

    def empty_cache(self, batch: int = 1) -> Tensor:
        """Return a zero KV cache (L, 2, 1, H, S, D)."""
        if batch != 1:
            raise BookError(f"the pieces were built for one sequence, not {batch}; score one window at a time")
        c = self.config
        return torch.zeros(c.n_layer, 2, 1, c.n_head, c.block, c.n_embd // c.n_head)
