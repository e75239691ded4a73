"""The B4096 of a ZCU104 as ``lib.offload`` wants it: what is documented, and what is assumed.

No document says what a crossing costs. AMD's published frame rates of very small networks bound it: a frame
is one subgraph, so its time, less its arithmetic, holds two crossings and all that the host does to an image.
"""

from __future__ import annotations

from lib.offload import Overlay

B4096 = Overlay(
    "DPU",
    macs_per_cycle=2048,
    clock_hz=300e6,
    pixels=8,
    bytes_per_s=19.2e9,
    crossing_s=100e-6,
    cpu_macs_per_s=0.5e9,
    sources={
        "macs_per_cycle": "PG338: 4,096 operations a cycle, two to a multiply-accumulate",
        "clock_hz": "UG1354, ZCU104: 300 MHz",
        "pixels": "PG338: 8 pixels x 16 input channels x 16 output channels",
        "bytes_per_s": "ZCU104: DDR4-2400, 64 bit",
        "crossing_s": "assumed; below what the published frame rates leave",
        "cpu_macs_per_s": "assumed, for one Cortex-A53 core in floating point",
    },
)

# Networks of UG1354 2.5, "ZCU104 Evaluation Board": operations a frame (10^9), frames a second on one thread.
PUBLISHED = {"face-quality": (0.06, 3100.6), "face_landmark": (0.14, 1014.4), "densebox_320_320": (0.49, 513.4)}


def crossing_bound(gop: float, frames_per_s: float) -> float:
    """Return the most that a crossing can have cost, in seconds, if a frame did nothing but compute and cross twice."""
    return (1 / frames_per_s - gop * 1e9 / (2 * B4096.macs_per_cycle * B4096.clock_hz)) / 2
