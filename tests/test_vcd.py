"""VCD files: what is read back is what was written."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib.silicon.vcd import write_vcd


def read(path: Path, ns: int) -> dict[str, list[int]]:
    """Read signals, clock by clock."""
    head, body = path.read_text().split("$enddefinitions $end\n")
    names = {code: name for code, name in re.findall(r"\$var wire \d+ (\S+) (\S+) \$end", head)}
    found: dict[str, list[int]] = {name: [] for name in names.values()}
    value: dict[str, int] = {}
    clock = 0
    for line in body.splitlines():
        if line.startswith("#"):
            for name in found:
                found[name] += [value.get(name, 0)] * (int(line[1:]) // ns - clock)
            clock = int(line[1:]) // ns
        else:
            bits, code = line[1:].split(" ")
            value[names[code]] = int(bits, 2)
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 100), st.integers(0, 20), st.sampled_from([1, 2, 2**63]), st.integers(0, 2**32))
def test_signals_come_back(tmp_path: Path, count: int, clocks: int, most: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    signals = {f"s{n}": rng.integers(0, most, clocks, dtype=np.uint64) for n in range(count)}
    write_vcd(tmp_path / "a.vcd", signals, ns=3)
    assert read(tmp_path / "a.vcd", 3) == {name: values.tolist() for name, values in signals.items()}
