"""The CPU column of Table IV, measured: a batch of six images through PyTorch, and through OpenVINO in eight bits.

The paper took it on two virtual cores with PyTorch alone. Time does not depend on what the weights are, so they are
random here; the INT8 model is NNCF's, for Transformers, calibrated on random images.
"""

from __future__ import annotations

import statistics
import time
from typing import Callable

import numpy as np
import openvino as ov
import torch
from tqdm import tqdm

from lib import bench
from lib.acap.vit import CONFIGS, ViT
from lib.errors import BookError
from lib.ptq.quiet import quiet

with quiet("nncf"):
    import nncf

BATCH = 6  # Table IV
Inference = Callable[[], object]


def random_images(config: str, batch: int = BATCH, seed: int = 0) -> torch.Tensor:
    """Return images of the size a model takes, uint8 (batch, channels, side, side), every byte at random."""
    shape = CONFIGS[config]
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (batch, shape.channels, shape.image, shape.image), dtype=np.uint8))


def torch_inference(model: ViT, images: torch.Tensor, threads: int) -> Inference:
    @torch.inference_mode()
    def infer() -> torch.Tensor:
        with bench.threads(threads):
            return model(images)

    return infer


def openvino_inference(model: ViT, images: torch.Tensor, threads: int) -> Inference:
    """Quantise a model to INT8 by NNCF and compile it for the CPU; return a function that infers ``images``."""
    with quiet("nncf"), torch.no_grad():
        graph = ov.convert_model(model, example_input=images, input=list(images.shape))
        samples = nncf.Dataset([images.numpy()])
        graph = nncf.quantize(graph, samples, model_type=nncf.ModelType.TRANSFORMER, subset_size=1)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(graph, "CPU", settings).create_infer_request()
    request.set_input_tensor(ov.Tensor(images.numpy()))
    return lambda: request.infer(share_outputs=True)


def contenders(config: str, threads: int) -> dict[str, Inference]:
    """Return a model's routes on the CPU, by name: torch (FP32) and openvino_int8."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ViT(CONFIGS[config]).eval()
    images = random_images(config)
    return {
        "torch": torch_inference(model, images, threads),
        "openvino_int8": openvino_inference(model, images, threads),
    }


def latencies(routes: dict[str, Inference], rounds: int = 7, progress: bool = True) -> dict[str, float]:
    """Return each route's median milliseconds over ``rounds``, the routes taking turns; one more round warms up.

    Raises BookError for fewer than one round.
    """
    if rounds < 1:
        raise BookError(f"rounds is {rounds}; it must be at least 1")
    times: dict[str, list[float]] = {name: [] for name in routes}
    for number in tqdm(range(rounds + 1), desc="rounds", leave=False, disable=not progress):
        for name, infer in routes.items():
            start = time.perf_counter()
            infer()
            if number:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in times.items()}


KERNELS = {  # what PyTorch calls an operator, and what the paper's Fig. 2 would
    "aten::addmm": "linear",
    "aten::linear": "linear",
    "aten::bmm": "attention products",
    "aten::_softmax": "softmax",
    "aten::gelu": "GELU",
    "aten::native_layer_norm": "LayerNorm",
    "aten::add": "addition",
    "aten::copy_": "copies and transposes",
}


def kernel_shares(config: str, rounds: int = 5) -> dict[str, float]:
    """Return which share of PyTorch's time on one batch goes to which kind of operator, from its own profiler."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        infer = torch_inference(ViT(CONFIGS[config]).eval(), random_images(config), threads=2)
    infer()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(rounds):
            infer()
    shares: dict[str, float] = {}
    for event in profile.key_averages():
        kind = KERNELS.get(event.key, "other")
        shares[kind] = shares.get(kind, 0.0) + event.self_cpu_time_total
    total = sum(shares.values())
    return {kind: spent / total for kind, spent in sorted(shares.items(), key=lambda pair: -pair[1])}
