"""The GPU's contender, on the processor: it must write what the model writes."""

from __future__ import annotations

import pytest
import torch

from lib import gpu
from lib.checkpoint import load_shipped
from lib.errors import BookError
from lib.gpt import generate


def test_it_writes_what_the_model_writes() -> None:
    model, _ = load_shipped("nano")
    timing = gpu.measure(model, [1, 2, 3], length=8, rounds=1, device="cpu")
    assert timing.tokens == list(generate(model, [1, 2, 3], 8))
    assert timing.tokens_per_s > 0 and timing.p99_us >= timing.p50_us


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_device_it_says_so() -> None:
    model, _ = load_shipped("nano")
    with pytest.raises(BookError, match="no CUDA device here"):
        gpu.measure(model, [1])
    with pytest.raises(BookError, match="PyTorch cannot use 'abacus' here"):
        gpu.contender(model, "abacus")
