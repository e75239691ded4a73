"""A small stand-in for AMD's ``xir`` and ``vart`` packages, for machines without a DPU.

It has the calls that ``lib.vitis.host`` makes and no others, under their own names (Vitis AI 3.0,
UG1414, "Programming with VART"), and runs each subgraph, an ONNX file of ``lib.segments``, on the CPU. It
computes what a DPU would up to its way of rounding, says nothing about its speed, and is strict where
VART is: buffers of the tensors' own shape and type, in the tensors' order; a job waited for before
its output is read or its buffers are used again; no job of an unknown number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lib.errors import BookError
from lib.export import constants
from lib.ort import session


class Tensor:
    """``xir.Tensor``: a name, the dims of an image in the DPU's order (N, H, W, C), and attributes."""

    def __init__(self, name: str, dims: list[int], fix_point: int) -> None:
        self.name, self.dims = name, dims
        self._attributes = {"fix_point": fix_point, "bit_width": 8}

    def has_attr(self, name: str) -> bool:
        return name in self._attributes

    def get_attr(self, name: str) -> Any:
        return self._attributes[name]


class Subgraph:
    """``xir.Subgraph``, in a graph that has one root and below it one subgraph, the DPU's."""

    def __init__(self, path: Path, children: list[Subgraph]) -> None:
        self.path, self.children = path, children
        self.is_leaf = not children

    def toposort_child_subgraph(self) -> list[Subgraph]:
        return self.children

    def has_attr(self, name: str) -> bool:
        return name == "device" and self.is_leaf

    def get_attr(self, name: str) -> str:
        return "DPU"


class Graph:
    """``xir.Graph``. An xmodel is AMD's own format: the stand-in reads the ONNX file of the same name beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def deserialize(cls, path: str) -> Graph:
        found = Path(path).with_suffix(".onnx")
        if not found.is_file():
            raise BookError(f"{found} does not exist; build the folder again with python -m lib.vitis.build")
        return cls(found)

    def get_root_subgraph(self) -> Subgraph:
        return Subgraph(self.path, [Subgraph(self.path, [])])


class Runner:
    """``vart.Runner``: takes jobs, one at a time per set of buffers, and computes them when they are waited for."""

    def __init__(self, subgraph: Subgraph) -> None:
        if not subgraph.has_attr("device"):
            raise BookError("a runner takes a DPU subgraph, not the graph's root; choose one of its children")
        model = onnx.load(subgraph.path)
        self._session = session(subgraph.path, threads=1)
        points = _points(model)
        self._inputs = [_tensor(value, points) for value in model.graph.input]
        self._outputs = [_tensor(value, points) for value in model.graph.output]
        self._jobs: dict[int, tuple[list[np.ndarray], list[np.ndarray]]] = {}
        self._issued = 0

    @classmethod
    def create_runner(cls, subgraph: Subgraph, mode: str) -> Runner:
        if mode != "run":
            raise BookError(f"the mode {mode!r} is unknown; VART has the mode 'run'")
        return cls(subgraph)

    def get_input_tensors(self) -> list[Tensor]:
        return self._inputs

    def get_output_tensors(self) -> list[Tensor]:
        return self._outputs

    def execute_async(self, inputs: list[np.ndarray], outputs: list[np.ndarray]) -> tuple[int, int]:
        """Submit a job; returns its number and a status, 0. Raises BookError for buffers VART would not take."""
        for what, buffers, tensors in (("input", inputs, self._inputs), ("output", outputs, self._outputs)):
            if len(buffers) != len(tensors):
                raise BookError(f"{len(buffers)} {what} buffers for {len(tensors)} tensors; give one for each")
            for buffer, tensor in zip(buffers, tensors):
                if buffer.dtype != np.int8 or list(buffer.shape) != tensor.dims or not buffer.flags.c_contiguous:
                    raise BookError(
                        f"the {what} buffer of {tensor.name} is {buffer.dtype} {list(buffer.shape)}; the DPU takes "
                        f"int8 {tensor.dims}, contiguous"
                    )
        busy = {id(buffer) for job in self._jobs.values() for buffers in job for buffer in buffers}
        if busy & {id(buffer) for buffer in (*inputs, *outputs)}:
            raise BookError("a buffer belongs to a job that is still running; wait for it first")
        self._issued += 1
        self._jobs[self._issued] = (inputs, outputs)
        return self._issued, 0

    def wait(self, job: tuple[int, int]) -> int:
        """Block until a job is done and its outputs are filled; returns 0. BookError for a job that is not running."""
        number, _ = job
        if number not in self._jobs:
            raise BookError(f"job {number} is not running; wait once for each execute_async")
        inputs, outputs = self._jobs.pop(number)
        feeds = {value.name: buffer.transpose(0, 3, 1, 2) for value, buffer in zip(self._session.get_inputs(), inputs)}
        for buffer, made in zip(outputs, self._session.run(None, feeds)):
            buffer[...] = made.transpose(0, 2, 3, 1)
        return 0


def _tensor(value: onnx.ValueInfoProto, points: dict[str, int]) -> Tensor:
    """Describe an int8 input or output as a DPU would, in its order of dims."""
    n, c, h, w = (dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
    return Tensor(value.name, [n, h, w, c], points[value.name])


def _points(model: onnx.ModelProto) -> dict[str, int]:
    """Return the fix points of a piece's integer tensors, from the quantiser next to each."""
    values = constants(model)
    integers = {node.output[0]: node for node in model.graph.node if node.op_type == "QuantizeLinear"}
    integers |= {node.input[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return {name: int(-np.log2(values[node.input[1]])) for name, node in integers.items()}
