"""Energy of a processor, where it counts it: Linux's powercap tree, which RAPL of Intel and AMD fills.

A package's counter includes its idle cores and whatever else runs, so what is read is an upper bound for one program.
Virtual machines hide the counters, and since 2020 only root may read them.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Sequence

from lib import cpu
from lib.errors import BookError
from lib.gpt import GPT, attention_macs, inventory

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Spent:
    """What an action took: wall clock in seconds, and energy of all packages in joules."""

    seconds: float
    joules: float


def packages(root: Path = POWERCAP) -> list[Path]:
    """List the packages whose counters can be read; BookError if there are none."""
    found = []
    for zone in sorted(root.glob("intel-rapl:*")):  # AMD's bear the name, too
        if zone.name.count(":") == 1 and _readable(zone / "energy_uj"):  # intel-rapl:0:1 is a part of intel-rapl:0
            found.append(zone)
    if not found:
        raise BookError(f"no energy counter can be read under {root}; on a machine of your own, run as root")
    return found


def _readable(counter: Path) -> bool:
    try:
        return counter.read_text().strip().isdigit()
    except OSError:
        return False


def measure(action: Callable[[], object], root: Path = POWERCAP) -> Spent:
    """Run ``action`` and read the counters before and after; a counter that has wrapped once is told from one that has
    not, so the action must be shorter than a wrap, about a minute at full load. BookError as ``packages``.
    """
    zones = packages(root)
    ranges = [_number(zone / "max_energy_range_uj") for zone in zones]
    before = [_number(zone / "energy_uj") for zone in zones]
    start = time.perf_counter()
    action()
    seconds = time.perf_counter() - start
    after = [_number(zone / "energy_uj") for zone in zones]
    spent = sum((b - a) % r if b < a else b - a for a, b, r in zip(before, after, ranges))
    return Spent(seconds, spent / 1e6)


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError) as error:
        raise BookError(f"{path} cannot be read as a number ({error}); energy is not measured here") from None


def nj_per_mac(model: GPT, prompt: Sequence[int], passes: int = 200, root: Path = POWERCAP) -> float:
    """Return nanojoules a multiply-accumulate of tuned C in INT8, one thread, reading ``prompt`` so many times.

    BookError as ``packages``, or where there is no compiler.
    """
    packages(root)  # before anything is built
    macs = sum(row.macs_per_token for row in inventory(model)) * len(prompt)
    macs += sum(attention_macs(model.config, seen + 1) for seen in range(len(prompt)))
    with tempfile.TemporaryDirectory() as folder:
        packed = cpu.pack(model, Path(folder) / "model.int8.bin", "int8")
        step = cpu.CStep(cpu.build(Path(folder) / "c"), packed, 1)

        def read() -> None:
            for _ in range(passes):
                step.reset()
                for token in prompt:
                    step.feed(token)

        return 1e9 * measure(read, root).joules / (passes * macs)
