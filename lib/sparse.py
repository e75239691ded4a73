"""Sparse files: what zeros save on disk once a format leaves them out.

Four layouts of a matrix, each in FP32 or INT8, in a safetensors file that reads back exactly:

* ``dense``    every weight;
* ``bitmask``  one bit a position says which weights follow;
* ``index``    the column of each weight in 16 bits, and how many each row has (CSR, with counts);
* ``gap``      4 bits a weight say how many zeros stand before it, as in EIE (Han et al., ISCA 2016); a
  run longer than 15 costs a stored zero for each 16 positions.

Only the matrices inside the blocks take a layout; embeddings stay dense, vectors stay FP32.
"""

from __future__ import annotations

import dataclasses
import gzip
import lzma
import os
from pathlib import Path
from typing import Callable

import numpy as np
import torch

from lib.affine import per_channel
from lib.checkpoint import load_tensors, save_tensors
from lib.deploy import DeployedGPT, check_unmasked
from lib.errors import BookError
from lib.files import atomic_write
from lib.gpt import GPT, GPTConfig

Parts = dict[str, np.ndarray]
LONGEST_GAP = 15  # what 4 bits hold
LARGEST_INDEX = 65_535  # what 16 bits hold: a column's index, and how many weights a row keeps
BITS = {"fp32": 32, "int8": 8}


# ---- Layouts: a matrix to the arrays that are stored, and back. ----


def encode(matrix: np.ndarray, layout: str) -> Parts:
    """Lay out a matrix (rows, columns) of any number type. BookError for ``index`` and over 65,535 columns."""
    return _LAYOUTS[layout][0](matrix)


def decode(parts: Parts, shape: tuple[int, int], layout: str) -> np.ndarray:
    """Return the matrix that ``encode`` laid out. Raises BookError if the parts do not fit the shape."""
    try:
        return _LAYOUTS[layout][1](parts, shape)
    except (KeyError, ValueError, IndexError, TypeError):
        raise BookError(f"the {layout} parts do not make a matrix of {shape[0]} x {shape[1]}; write it again") from None


def _dense(matrix: np.ndarray) -> Parts:
    return {"values": matrix}


def _from_dense(parts: Parts, shape: tuple[int, int]) -> np.ndarray:
    return parts["values"].reshape(shape)


def _bitmask(matrix: np.ndarray) -> Parts:
    kept = matrix.ravel() != 0
    return {"mask": np.packbits(kept), "values": matrix.ravel()[kept]}


def _from_bitmask(parts: Parts, shape: tuple[int, int]) -> np.ndarray:
    flat = np.zeros(shape[0] * shape[1], parts["values"].dtype)
    flat[np.unpackbits(parts["mask"], count=flat.size).astype(bool)] = parts["values"]
    return flat.reshape(shape)


def _index(matrix: np.ndarray) -> Parts:
    if matrix.shape[1] > LARGEST_INDEX:
        raise BookError(f"{matrix.shape[1]:,} columns are more than 16 bits index; choose another layout")
    rows, columns = matrix.nonzero()
    counts = np.bincount(rows, minlength=len(matrix))
    return {"count": counts.astype("u2"), "column": columns.astype("u2"), "values": matrix[rows, columns]}


def _from_index(parts: Parts, shape: tuple[int, int]) -> np.ndarray:
    matrix = np.zeros(shape, parts["values"].dtype)
    rows = np.repeat(np.arange(shape[0]), parts["count"])
    matrix[rows, parts["column"]] = parts["values"]
    return matrix


def _gap(matrix: np.ndarray) -> Parts:
    flat = matrix.ravel()
    places = flat.nonzero()[0]
    gaps = np.diff(places, prepend=-1) - 1
    fillers, rest = np.divmod(gaps, LONGEST_GAP + 1)  # a filler is 15 zeros and a stored one
    ends = np.cumsum(fillers + 1) - 1  # where each weight stands among weights and fillers
    count = int(ends[-1]) + 1 if len(ends) else 0
    codes, values = np.full(count + count % 2, LONGEST_GAP, np.uint8), np.zeros(count, flat.dtype)
    codes[ends], values[ends] = rest, flat[places]
    return {"gaps": codes[::2] << 4 | codes[1::2], "values": values}


def _from_gap(parts: Parts, shape: tuple[int, int]) -> np.ndarray:
    codes = np.stack([parts["gaps"] >> 4, parts["gaps"] & LONGEST_GAP], axis=1).ravel()[: len(parts["values"])]
    flat = np.zeros(shape[0] * shape[1], parts["values"].dtype)
    flat[np.cumsum(codes.astype(np.int64) + 1) - 1] = parts["values"]
    return flat.reshape(shape)


_LAYOUTS: dict[str, tuple[Callable[[np.ndarray], Parts], Callable[[Parts, tuple[int, int]], np.ndarray]]] = {
    "dense": (_dense, _from_dense),
    "bitmask": (_bitmask, _from_bitmask),
    "index": (_index, _from_index),
    "gap": (_gap, _from_gap),
}
LAYOUTS = tuple(_LAYOUTS)


# ---- Files. ----


def write_sparse(path: str | os.PathLike[str], model: GPT, layout: str, number: str) -> Path:
    """Write a model, its blocks' matrices in ``layout``, all matrices in ``number``: fp32 or int8.

    int8 is symmetric and per row, so a zero stays a zero. Raises BookError for an unknown layout or number.
    """
    if layout not in LAYOUTS or number not in BITS:
        raise BookError(f"{layout}, {number}: choose one of {', '.join(LAYOUTS)} and one of {', '.join(BITS)}")
    check_unmasked(model)
    stored: Parts = {}
    for name, tensor in model.state_dict().items():
        array = tensor.detach().cpu().numpy()
        if array.ndim < 2:
            stored[name] = array
            continue
        if number == "int8":
            grid = per_channel(array)
            stored[f"{name}.scale"] = grid.scale.ravel()
            array = grid.quantise(array).astype(np.int8)
        parts = encode(array, _layout_of(name, layout))
        stored |= {f"{name}.{part}": values for part, values in parts.items()}
    metadata = {"config": dataclasses.asdict(model.config), "layout": layout, "number": number}
    save_tensors(path, {name: torch.from_numpy(array) for name, array in stored.items()}, metadata)
    return Path(path)


def read_sparse(path: str | os.PathLike[str]) -> GPT:
    """Read what ``write_sparse`` wrote, a GPT or a DeployedGPT, in evaluation mode, INT8 as the numbers it stands for.

    Raises BookError if the file is missing, truncated, foreign or damaged.
    """
    tensors, metadata = load_tensors(path)
    try:
        layout = metadata["layout"]
        with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten
            kind = DeployedGPT if "unembed.bias" in tensors else GPT
            model = kind(GPTConfig(**metadata["config"]))
        weights = {n: _tensor(n, tuple(t.shape), tensors, layout) for n, t in model.state_dict().items()}
        model.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError):
        raise BookError(f"{path} holds no model in a sparse layout; use a file of lib.sparse.write_sparse") from None
    except BookError as error:
        raise BookError(f"{path} is damaged: {error}") from None
    return model.eval()


def _layout_of(name: str, layout: str) -> str:
    return layout if name.startswith("blocks.") else "dense"


def _tensor(name: str, shape: tuple[int, ...], tensors: dict[str, torch.Tensor], layout: str) -> torch.Tensor:
    if len(shape) < 2:
        return tensors[name]
    parts = {n.removeprefix(f"{name}."): t.numpy() for n, t in tensors.items() if n.startswith(f"{name}.")}
    matrix = decode(parts, shape, _layout_of(name, layout))
    if "scale" in parts:
        matrix = parts["scale"][:, None] * matrix
    return torch.from_numpy(np.ascontiguousarray(matrix, dtype=np.float32))


def compress(path: Path, tool: str) -> Path:
    """Write a file compressed by ``gzip`` or ``xz`` beside it, and return the new path."""
    pack = {"gzip": lambda data: gzip.compress(data, 9, mtime=0), "xz": lzma.compress}[tool]
    packed = path.with_name(f"{path.name}.{tool}")
    with atomic_write(packed) as file:
        file.write(pack(path.read_bytes()))
    return packed


def megabytes(path: str | os.PathLike[str]) -> float:
    """Return a file's size in MB of a million bytes."""
    return Path(path).stat().st_size / 1e6
