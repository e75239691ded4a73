"""The model on a GPU, one token a step, timed as chapter 7 times every route of the host.

PyTorch eager starts some hundred kernels for a token of ``pocket``, each of which takes microseconds to launch and next
to nothing to run: of a model this small a GPU shows its launch overhead.

    python -m lib.gpu    (on a machine that has one)
"""

from __future__ import annotations

from typing import Sequence

import torch

from lib import bench
from lib.checkpoint import load_shipped
from lib.errors import BookError, run_command
from lib.gpt import GPT
from lib.ladder import load_golden

NAME = "gpu_torch_kv"


def contender(model: GPT, device: str) -> bench.Contender:
    """PyTorch with a KV cache on ``device``, which the model is moved to; BookError where there is no such device."""
    try:
        model = model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise BookError(f"PyTorch cannot use {device!r} here ({str(error).splitlines()[0]}); name another") from None
    return bench.model_contender(model, NAME, device)


def measure(
    model: GPT, prompt: Sequence[int], length: int = 128, rounds: int = 3, device: str = "cuda"
) -> bench.Timing:
    """Time ``rounds`` texts of ``length`` characters after ``prompt``. BookError where there is no such device."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BookError("PyTorch sees no CUDA device here; on a machine with one, python -m lib.gpu measures it")
    return bench.race([contender(model, device)], prompt, length, rounds, progress=False)[NAME]


def main() -> None:
    model, _ = load_shipped("pocket")
    timing = measure(model, load_golden().tokens[0, : model.config.block // 2].tolist())
    print(f"{torch.cuda.get_device_name()}: {timing.tokens_per_s:,.0f} tokens/s, p50 {timing.p50_us:,.0f} us, ", end="")
    print(f"p99 {timing.p99_us:,.0f} us")


if __name__ == "__main__":
    run_command(main)
