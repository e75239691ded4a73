"""What the two source documents print: their tables as data, cited beside what this book ran.

The report's tables stand in ``lib.comparison.CLAIMS``; here are its power figures, and Table IV of Dong, Zhuang et al.,
"EQ-ViT" (IEEE TCAD), whose figures are of batches of six images.
"""

from __future__ import annotations

from dataclasses import dataclass

BATCH = 6  # images, everywhere in Table IV
MODELS = ("deit_t", "deit_160", "deit_256", "lv_vit_t")


@dataclass(frozen=True)
class Platform:
    """A column of Table IV. Per model, in the order of MODELS: latency of a batch in ms, images a second and watt."""

    name: str
    latency_ms: tuple[float, ...]
    images_per_s_w: tuple[float, ...]

    def nj_per_mac(self, gmac: float, model: str = "deit_t") -> float:
        """Return nanojoules a multiply-accumulate, for a model of ``gmac`` 10^9 of them an image."""
        return 1 / (self.images_per_s_w[MODELS.index(model)] * gmac)


TABLE_4 = (
    Platform("Xeon 8375C, PyTorch", (167.68, 129.01, 294.61, 213.0), (3.8, 4.9, 2.2, 3.0)),
    Platform("A10G, TensorRT", (1.78, 1.78, 2.07, 2.55), (15.8, 16.9, 12.5, 10.6)),
    Platform("A100, TensorRT", (1.84, 1.73, 2.09, 2.54), (18.6, 20.0, 15.0, 12.9)),
    Platform("Orin, TensorRT", (7.97, 7.92, 10.44, 10.1), (17.7, 19.0, 13.2, 13.5)),
    Platform("ZCU102, HeatViT", (32.72, 29.75, 39.33, 43.21), (19.4, 21.9, 14.7, 13.5)),
    Platform("U250, HeatViT", (7.3, 6.34, 9.13, 9.36), (10.2, 12.2, 8.5, 7.8)),
    Platform("VCK190, SSR", (0.54, 0.50, 0.98, 0.85), (213.7, 206.8, 102.9, 115.3)),
    Platform("VCK190, EQ-ViT", (0.56, 0.46, 0.89, 0.61), (224.7, 280.0, 142.8, 202.8)),
    Platform("VEK280, EQ-ViT, estimated", (0.33, 0.28, 0.53, 0.37), (427.8, 503.5, 269.3, 359.9)),
)


@dataclass(frozen=True)
class Power:
    """A row of the report's Table 6.1: what it draws in watts, and its time for a token in milliseconds."""

    name: str
    watts: float
    ms_per_token: float

    def nj_per_mac(self, macs: float) -> float:
        """Return nanojoules a multiply-accumulate, for a model that takes ``macs`` of them for a token."""
        return 1e6 * self.watts * self.ms_per_token / macs


REPORT_POWER = (
    Power("ZCU104's A53, FP32", 5, 215.5),
    Power("ZCU104's DPU, INT8", 12, 45.2),
    Power("Arria 10, INT8", 20, 52.8),
)
