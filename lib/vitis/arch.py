"""Which DPU: the name and fingerprint of the ZCU104's B4096, and the check that an ``arch.json`` means the same.

    python -m lib.vitis.arch /opt/vitis_ai/compiler/arch/DPUCZDX8G/ZCU104/arch.json

An xmodel runs on the DPU it was compiled for and on no other; VART compares 64-bit fingerprints. This file
needs Python's standard library alone, so it also runs in the vendor's container.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lib.errors import BookError, run_command
from lib.files import read_json

TARGET = "DPUCZDX8G_ISA1_B4096"
FINGERPRINT = 0x101000056010407  # of the DPUCZDX8G 4.1 in Vitis AI 3.0's images for ZCU102, ZCU104 and KV260
# Vitis AI 2.5 has version 4.0, 0x101000016010407, under the same name: only a fingerprint tells them apart.


def check_arch(path: Path) -> str:
    """Return what an ``arch.json`` says if it is this book's DPU: its target name or its fingerprint.

    Raises BookError for a missing or damaged file, or for another DPU.
    """
    arch = read_json(path, "the DPU's description")
    if not isinstance(arch, dict) or not {"target", "fingerprint"} & arch.keys():
        raise BookError(f"{path} names neither a target nor a fingerprint; take the arch.json that came with the DPU")
    if "target" in arch:
        found, expected = str(arch["target"]), TARGET
    else:
        found, expected = str(arch["fingerprint"]).lower(), f"{FINGERPRINT:#x}"
        if _number(found) == FINGERPRINT:  # with or without leading zeros
            return found
    if found != expected:
        raise BookError(
            f"{path} is of the DPU {found}, and this book's pieces are for {expected}; load that DPU's image"
        )
    return found


def _number(text: str) -> int | None:
    try:
        return int(text, 16)
    except ValueError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.vitis.arch", description="Check an arch.json.")
    parser.add_argument("arch", type=Path)
    given = parser.parse_args()
    print(f"{given.arch}: {check_arch(given.arch)}")


if __name__ == "__main__":
    run_command(main)
