"""What this processor can do that decides figures: some INT8 results depend on it, whatever the software."""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


@cache
def has_vnni() -> bool:
    """Whether sums of products of bytes stay exact in the fast kernels of INT8 runtimes.

    x86 without VNNI adds pairs of products in 16 bits, which saturate. Processors without a list of x86's features,
    ARM's among them, are taken to be exact.
    """
    try:
        flags = re.search(r"^flags\s*:(.*)$", CPUINFO.read_text(), re.MULTILINE)
    except OSError:
        return True
    return flags is None or bool({"avx512_vnni", "avx_vnni"} & set(flags[1].split()))


@cache
def processor_name() -> str:
    """Return the processor's name as the system gives it, or else its architecture."""
    try:
        name = re.search(r"^model name\s*:(.*)$", CPUINFO.read_text(), re.MULTILINE)
    except OSError:
        name = None
    return name[1].strip() if name else platform.machine()
