"""OpenVINO's own benchmark, ``benchmark_app``, which comes with the package."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from lib.errors import BookError
from lib.files import read_json
from lib.intel.convert import load_ir
from lib.intel.devices import check_device

# The module runs nothing by itself, and the command benchmark_app need not be on the path of a notebook.
PROGRAM = "from openvino.tools.benchmark.main import main; main()"


@dataclass(frozen=True)
class Benchmark:
    """What one run found, inference alone: latencies in milliseconds, throughput in inferences a second."""

    median_ms: float
    mean_ms: float
    least_ms: float
    most_ms: float
    per_second: float
    iterations: int


def benchmark(
    path: str | os.PathLike[str], device: str = "CPU", precision: str | None = "f32", threads: int = 1, seconds: int = 2
) -> Benchmark:
    """Run ``benchmark_app`` on an IR for so many seconds: one synchronous request, one stream, random inputs.

    An inference of a step IR is one token, without the work around it. Raises BookError as ``load_ir`` and
    ``check_device``, or when the benchmark fails.
    """
    check_device(device)
    load_ir(path)
    options = {
        "-m": Path(path).resolve(),
        "-d": device,
        "-t": seconds,
        "-api": "sync",
        "-hint": "none",  # with a hint it takes no number of threads or streams
        "-nthreads": threads,
        "-nstreams": 1,
        "-report_type": "no_counters",
    }
    if precision is not None:
        options["-infer_precision"] = precision
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-c", PROGRAM, "-json_stats", "-report_folder", folder]
        command += [str(part) for option in options.items() for part in option]
        finished = subprocess.run(command, capture_output=True, text=True)
        if finished.returncode:
            said = (finished.stdout + finished.stderr).strip().splitlines() or ["no message"]
            raise BookError(f"benchmark_app failed on {path} ({said[-1]}); run it by hand to see more")
        return parse_report(Path(folder) / "benchmark_report.json")


def parse_report(path: Path) -> Benchmark:
    """Read the report of ``benchmark_app -json_stats``; BookError if it is missing or lacks a figure."""
    try:
        found = read_json(path, "benchmark_app's report")["execution_results"]
        latencies = [float(found[name]) for name in ("latency (ms)", "avg latency", "min latency", "max latency")]
        return Benchmark(*latencies, float(found["throughput"]), int(found["total number of iterations"]))
    except KeyError as error:
        raise BookError(f"{path} holds no {error}; this version of benchmark_app reports otherwise") from None
