"""What the paper prints (Dong, Zhuang et al., "EQ-ViT"): figures cited beside those measured or computed here."""

from dataclasses import dataclass

from lib.published import MODELS, TABLE_4

TABLE_3 = {  # model: GMAC, megabytes of INT8 weights
    "deit_t": (1.3, 5.6),
    "deit_160": (0.9, 4.0),
    "deit_256": (2.1, 7.4),
    "lv_vit_t": (1.6, 6.75),
}


@dataclass(frozen=True)
class Design:
    """A row of Table V: engines used, latency of six images as the paper's tool estimates it and as its board shows."""

    engines: int
    estimate_ms: float
    board_ms: float


TABLE_5 = {
    "deit_t": Design(394, 0.58, 0.56),
    "deit_160": Design(396, 0.48, 0.46),
    "deit_256": Design(399, 0.92, 0.89),
    "lv_vit_t": Design(398, 0.59, 0.61),
}
CPU_MS = dict(zip(MODELS, TABLE_4[0].latency_ms))  # PyTorch on two virtual cores of a Xeon 8375C, batch 6
METHODS = ("fp32", "minmax", "ema", "percentile", "omse", "fqvit", "lsq", "qvit", "eqvit")
TABLE_7 = {  # top-1 accuracy of DeiT-T in per cent, in the order of METHODS; all but the first in eight bits
    "imagenet": dict(zip(METHODS, (72.2, 70.9, 71.2, 71.5, 71.3, 71.6, 71.5, 73.6, 74.5))),
    "cifar100": dict(zip(METHODS, (85.6, 85.0, 85.1, 85.3, 85.1, 85.4, 85.3, 86.2, 86.6))),
    "cifar10": dict(zip(METHODS, (97.8, 97.5, 97.6, 97.5, 97.4, 97.8, 97.7, 98.1, 98.3))),
}
IMAGENET = {  # Table VII: top-1 accuracy in per cent, FP32 and EQ-ViT in eight bits
    "deit_t": (72.2, 74.5),
    "deit_160": (68.1, 70.5),
    "deit_256": (77.2, 78.2),
    "lv_vit_t": (79.1, 80.5),
}
FPGA_MS = 3.9  # Table VIII: DeiT-T on a plain FPGA with EQ-ViT's mapping, estimated
TABLE_8 = {"int8": 4.2, "forwarding": 3.4, "spatial": 2.3, "pipelining": 2.7}  # factors of its last column, 89 in all
