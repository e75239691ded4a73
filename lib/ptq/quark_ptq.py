"""AMD Quark, the published successor of Vitis AI's quantiser, on the ONNX graph."""

from __future__ import annotations

import copy
import logging
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Sequence

import numpy as np

from lib.deploy import DeployedGPT
from lib.evaluate import Logits
from lib.export import onnx_logits
from lib.ptq.graph import Reader, prepare
from lib.ptq.quiet import quiet

with quiet("torchao", "torch.utils._pytree"):
    from quark.common.utils.log import ScreenLogger

    ScreenLogger.set_shared_level(logging.ERROR)  # before the rest is imported: it reports every step
    from quark.onnx import ModelQuantizer
    from quark.onnx.quantization.config.config import Config
    from quark.onnx.quantization.config.custom_config import get_default_config


def quantise(
    model: DeployedGPT, windows: np.ndarray, path: Path, config: str, operators: Sequence[str] | None = None
) -> Logits:
    """Quantise by a configuration that Quark ships, the operators of the given types (None: all it knows).

    XINT8 has scales of powers of two, as the DPU wants them, chosen by mean squared error;
    INT8_TRANSFORMER_DEFAULT has free scales from smoothed extremes.
    """
    path = path.resolve()
    prepared = prepare(model, path)
    chosen = copy.deepcopy(get_default_config(config))
    chosen.op_types_to_quantize = list(operators or ())
    with quiet(), tempfile.TemporaryDirectory() as scratch, chdir(scratch):  # it leaves a report where it stands
        quantizer = ModelQuantizer(Config(global_quant_config=chosen))
        quantizer.quantize_model(str(prepared), str(path), Reader(windows))
    prepared.unlink()
    return onnx_logits(path)
