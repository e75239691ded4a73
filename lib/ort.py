"""ONNX Runtime as the book uses it: on the CPU, few threads, and refusals in one sentence.

Apart from ``lib.export`` because a board that runs pieces of the model needs this and none of the exporters.
"""

from __future__ import annotations

import os

import onnxruntime
import torch

from lib.errors import BookError


def session(
    path: str | os.PathLike[str], threads: int | None = None, spin: bool = False
) -> onnxruntime.InferenceSession:
    """Open an ONNX Runtime session on the CPU; ``threads`` None means at most two, as PyTorch is set.

    Raises BookError when ONNX Runtime refuses the file.
    """
    chosen = options(threads or min(2, torch.get_num_threads()), spin)
    try:
        return onnxruntime.InferenceSession(os.fspath(path), chosen, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class of their own
        raise BookError(f"ONNX Runtime does not take {path} ({first_line(error)}); export it for this route") from None


def options(threads: int, spin: bool = False) -> onnxruntime.SessionOptions:
    """Return a session's options. ``spin``: threads that wait keep their cores, which is quicker than waking them."""
    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads = threads
    chosen.inter_op_num_threads = 1
    chosen.log_severity_level = 3  # errors only
    chosen.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    return chosen


def first_line(error: Exception) -> str:
    """Return what an error of ONNX or its runtime says first: the rest is for those who wrote them."""
    return str(error).strip().splitlines()[0]
