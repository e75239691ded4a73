"""Signals of a simulation as a VCD file (IEEE 1800, section 21.7), which GTKWave and Surfer show."""

from __future__ import annotations

import os
from typing import Mapping

import numpy as np

from lib.files import atomic_write


def write_vcd(path: str | os.PathLike[str], signals: Mapping[str, np.ndarray], ns: int = 10) -> None:
    """Write signals, uint64 (clocks,) by name, such as ``Core.trace`` gives; a clock takes ``ns`` nanoseconds.

    A signal has as many bits as its largest value needs. Raises OSError where the file cannot be written.
    """
    widths = {name: max(1, int(values.max(initial=0)).bit_length()) for name, values in signals.items()}
    codes = {name: _code(number) for number, name in enumerate(signals)}
    lines = ["$timescale 1ns $end", "$scope module core $end"]
    lines += [f"$var wire {width} {codes[name]} {name} $end" for name, width in widths.items()]
    lines += ["$upscope $end", "$enddefinitions $end"]
    clocks = max((len(values) for values in signals.values()), default=0)
    shown: dict[str, int] = {}
    for clock in range(clocks):
        now = {name: int(values[clock]) for name, values in signals.items() if clock < len(values)}
        changed = {name: value for name, value in now.items() if shown.get(name) != value}
        if changed:
            lines += [f"#{clock * ns}", *(f"b{value:b} {codes[name]}" for name, value in changed.items())]
        shown |= changed
    with atomic_write(path) as file:
        file.write(("\n".join([*lines, f"#{clocks * ns}"]) + "\n").encode())


def _code(number: int) -> str:
    """Return a short name of printable characters."""
    return chr(33 + number % 94) + (_code(number // 94 - 1) if number >= 94 else "")
