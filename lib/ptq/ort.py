"""ONNX Runtime's static quantiser: QDQ nodes around operators of a floating-point graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Sequence

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from lib.deploy import DeployedGPT
from lib.evaluate import Logits
from lib.export import onnx_logits
from lib.ptq.graph import Reader, prepare
from lib.ptq.quiet import quiet


def quantise(model: DeployedGPT, windows: np.ndarray, path: Path, operators: Sequence[str] | None) -> Logits:
    """Quantise the operators of the given types (None: all that the tool knows) with min-max ranges."""
    prepared = prepare(model, path)
    insert_qdq(prepared, windows, path, op_types_to_quantize=operators)
    prepared.unlink()
    return onnx_logits(path)


def insert_qdq(prepared: Path, windows: np.ndarray, path: Path, **options: Any) -> None:
    """Run the quantiser on a prepared full pass, which it calibrates on windows (N, T): see ``write_qdq``."""
    write_qdq(prepared, Reader(windows), path, **options)


def write_qdq(prepared: Path, reader: CalibrationDataReader, path: Path, **options: Any) -> None:
    """Run the quantiser on a prepared graph: int8 throughout, weights per channel, activations per tensor."""
    with quiet():
        quantize_static(
            prepared,
            path,
            reader,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            **options,
        )
