"""The HLS alternative: SYCL kernels of our own, run on the CPU here, and what an FPGA would take.

``hw/sycl`` holds two programs, a vector addition and an INT8 matrix-vector product. Intel's SYCL
runtime from pip runs them on the CPU: g++ compiles the host, and the runtime compiles the kernel while
the program runs. NumPy says what they have to give, to the last bit. The same sources are written for
icpx, whose three stages to an FPGA are ``STAGES``; why a new project should not start there is ``CHANGE``.
"""

from __future__ import annotations

import hashlib
import numbers
import os
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from lib import ROOT
from lib.errors import BookError

SOURCES = ROOT / "hw" / "sycl"
PROGRAMS = {"vector_add": "vector_add_kernel.hpp", "matvec": "matvec_kernel.hpp"}
FOLDER = ROOT / "_build" / "sycl"
_PREFIX = Path(sysconfig.get_path("data"))  # where pip puts the include/ and lib/ of wheels
_INCLUDE, _LIB = _PREFIX / "include", _PREFIX / "lib"
_CPU = _LIB / "libintelocl.so"  # the OpenCL driver that makes a SYCL device of the CPU
LARGEST_MULTIPLIER = 2**31 - 1
LARGEST_SHIFT = 62
MOST_ROWS = 16_384
MOST_COLUMNS = 131_071  # one more, and products of -128 and -128 overflow the int32 sum


# ---- What the FPGA flow was. ----


@dataclass(frozen=True)
class Stage:
    """One of the three compilations on the way to an FPGA, as in oneAPI up to 2025.0.

    takes: how long by Intel's account, which was not measured here.
    """

    name: str
    flags: str
    suffix: str
    gives: str
    takes: str

    def command(self, program: str, definitions: str = "") -> str:
        """Return the command line for a program of ``hw/sycl``; matvec needs "-DROWS=64 -DCOLUMNS=64"."""
        words = ["icpx -fsycl -fintelfpga", self.flags, definitions, f"{program}.cpp -o {program}{self.suffix}"]
        return " ".join(filter(None, words))


STAGES = (
    Stage("emulation", "-DFPGA_EMULATOR", ".fpga_emu", "a program that runs the kernel on the CPU", "seconds"),
    Stage(
        "report",
        "-DFPGA_HARDWARE -fsycl-link=early -Xshardware -Xstarget=Arria10",
        "_report.a",
        "RTL, and a report of the loops' pipelines and the estimated resources; nothing to run",
        "minutes",
    ),
    Stage(
        "bitstream",
        "-DFPGA_HARDWARE -Xshardware -Xstarget=Arria10",
        ".fpga",
        "placed and routed logic, by Quartus: for a device family an IP core with its true area and clock, "
        "for a board (-Xstarget=<support package>:<variant>) the program with its bitstream",
        "hours",
    ),
)


@dataclass(frozen=True)
class Statement:
    """What a page says, and its address."""

    says: str
    url: str


CHANGE = (
    Statement(
        "The FPGA support package of the oneAPI DPC++/C++ compiler is deprecated and not available from the compiler's "
        "2025.1 release on; 2025.0, the last to have it, stays in the Linux package repositories, and Altera continues "
        "FPGA support in tools of its own.",
        "https://www.intel.com/content/www/us/en/developer/tools/oneapi/fpga.html",
    ),
    Statement(
        "Since Altera became a separate company, DPC++ concentrates on CPUs and GPUs, and its FPGA features are "
        "scheduled for removal (February 2025).",
        "https://github.com/intel/llvm/issues/16929",
    ),
    Statement(
        "All FPGA samples left Intel's collection on 4 March 2025 for altera-fpga/hls-samples.",
        "https://github.com/oneapi-src/oneAPI-samples/pull/2605",
    ),
    Statement(
        "Quartus Prime Pro 25.1.1 (July 2025) takes IP cores from an 'Altera oneAPI Base Toolkit', whose compilation "
        "targets a device family or part in place of an accelerator card.",
        "https://www.intel.com/content/www/us/en/docs/programmable/683609/25-1-1/"
        "add-ip-rtl-core-generated-from-the-oneapi.html",
    ),
    Statement(
        "Compiled for a device family the result is an IP core and no program to run; only a board support package "
        "makes it one (the repository's tutorial fpga_compile).",
        "https://github.com/altera-fpga/hls-samples",
    ),
)


# ---- The programs. ----


def available() -> bool:
    """Say whether Intel's SYCL runtime and its CPU device are installed in this environment."""
    return all(path.exists() for path in (_INCLUDE / "sycl" / "sycl.hpp", _LIB / "libsycl.so", _CPU))


def build(name: str, folder: str | os.PathLike[str] = FOLDER) -> Path:
    """Compile ``vector_add`` or ``matvec`` with g++ into ``folder``, once for each state of its sources.

    Raises BookError for another name, if the runtime or g++ is missing, or if g++ refuses.
    """
    if name not in PROGRAMS:
        raise BookError(f"{name!r} is no SYCL program; choose one of {', '.join(PROGRAMS)}")
    if not available():
        raise BookError("Intel's SYCL runtime is not installed; run make sycl (1.6 GB, Linux on x86-64)")
    compiler = shutil.which("g++")
    if compiler is None:
        raise BookError("g++ is missing and compiles the SYCL programs; install it, on Debian and Ubuntu as g++")
    source = SOURCES / f"{name}.cpp"
    options = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-isystem", str(_INCLUDE)]
    libraries = [f"-L{_LIB}", f"-Wl,-rpath,{_LIB}", "-lsycl"]
    runtime = (_LIB / "libsycl.so").resolve()
    state = [compiler, source, *options, *libraries, runtime.name, runtime.stat().st_mtime_ns]
    contents = [path.read_bytes() for path in (source, SOURCES / "program.hpp", SOURCES / PROGRAMS[name])]
    digest = hashlib.sha256(b"\0".join([repr(state).encode(), *contents])).hexdigest()
    program = Path(folder).resolve() / f"{name}-{digest[:12]}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=program.parent) as scratch:  # so that a program is whole or absent
            made = Path(scratch) / name
            command = [compiler, *options, str(source), "-o", str(made), *libraries]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode:
                raise BookError(f"g++ does not compile {source.name} ({_first_error(result.stderr)}); mend it")
            made.replace(program)
    return program


def _first_error(output: str) -> str:
    lines = output.splitlines() or ["no message"]
    return next((line.strip() for line in lines if "error" in line), lines[0].strip())


def run_program(name: str, *arguments: object, folder: str | os.PathLike[str] = FOLDER) -> None:
    """Run a program with its command line's arguments, built first where it has to be; its output is in its files.

    The runtime keeps compiled kernels in ``folder``: the first run of a kernel, or of a matrix's shape, takes a
    second or two, later ones a fraction. Raises BookError with the program's own sentence when it refuses.
    """
    program = build(name, folder)
    settings = {
        "OCL_ICD_FILENAMES": str(_CPU),  # nothing registers the driver of a wheel with the system
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(_LIB), os.environ.get("LD_LIBRARY_PATH")])),
        "ONEAPI_DEVICE_SELECTOR": "opencl:cpu",  # whatever else the machine has
        "SYCL_CACHE_PERSISTENT": "1",
        "SYCL_CACHE_DIR": str(program.parent / "kernels"),
    }
    result = subprocess.run([program, *map(str, arguments)], env=os.environ | settings, capture_output=True, text=True)
    if result.returncode:
        said = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
        if result.returncode == 2:
            raise BookError(said.removeprefix("error: "))
        raise BookError(f"{name} failed ({said}); remove {program.parent} and try again")


def vector_add(a: np.ndarray, b: np.ndarray, folder: str | os.PathLike[str] = FOLDER) -> np.ndarray:
    """Add two int32 vectors (n,), n at least 1, on the SYCL device: int32 (n,) that wraps around as NumPy's does.

    Raises BookError for other types or shapes, and as ``run_program`` does.
    """
    if a.dtype != np.int32 or b.dtype != np.int32 or a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise BookError(
            f"{a.dtype} {a.shape} and {b.dtype} {b.shape} are no two int32 vectors of one length; convert them"
        )
    return _through_files("vector_add", [a, b], [], np.dtype(np.int32), folder)


def matvec(
    weight: np.ndarray, x: np.ndarray, multiplier: int, shift: int, folder: str | os.PathLike[str] = FOLDER
) -> np.ndarray:
    """Compute what ``matvec_reference`` does on the SYCL device, the kernel compiled for the weight's shape.

    Takes and raises what ``matvec_reference`` does, and raises as ``run_program`` does.
    """
    _check(weight, x, multiplier, shift)
    return _through_files("matvec", [weight, x], [*weight.shape, multiplier, shift], np.dtype(np.int8), folder)


def _through_files(
    name: str, inputs: list[np.ndarray], numbers: list[int], output: np.dtype, folder: str | os.PathLike[str]
) -> np.ndarray:
    with TemporaryDirectory() as scratch:
        paths = [Path(scratch) / f"input{i}.bin" for i in range(len(inputs))]
        for path, array in zip(paths, inputs):
            array.tofile(path)
        result = Path(scratch) / "output.bin"
        run_program(name, *paths, result, *numbers, folder=folder)
        return np.fromfile(result, output)


# ---- What they have to give. ----


def matvec_reference(weight: np.ndarray, x: np.ndarray, multiplier: int, shift: int) -> np.ndarray:
    """Return clamp(floor(weight x * multiplier / 2^shift + 1/2)), int8 (out,), in NumPy's integers.

    weight: int8 (out, in), at most 16,384 by 131,071; x: int8 (in,); multiplier: 1 to 2^31 - 1; shift: 0 to 62. The
    sum is exact in int32. A dyadic number multiplier / 2^shift stands for the scales' ratio (Jacob et al. 2018, Eq.
    (5) and (6)); a half is rounded upwards, which costs one addition and no comparison of signs. Raises BookError
    for other types, shapes or ranges.
    """
    _check(weight, x, multiplier, shift)
    sums = weight.astype(np.int32) @ x.astype(np.int32)
    steps = (sums.astype(np.int64) * multiplier + ((1 << shift) >> 1)) >> shift
    return np.clip(steps, -128, 127).astype(np.int8)


def _check(weight: np.ndarray, x: np.ndarray, multiplier: int, shift: int) -> None:
    if weight.dtype != np.int8 or x.dtype != np.int8:
        raise BookError(f"the weight is {weight.dtype} and the input {x.dtype}; quantise both to int8")
    if weight.ndim != 2 or x.shape != weight.shape[1:]:
        raise BookError(f"a weight {weight.shape} does not multiply an input {x.shape}; give (out, in) and (in,)")
    if not (1 <= weight.shape[0] <= MOST_ROWS and 1 <= weight.shape[1] <= MOST_COLUMNS):
        raise BookError(f"a weight {weight.shape} is empty or beyond {MOST_ROWS:,} by {MOST_COLUMNS:,}; divide it")
    if not isinstance(multiplier, numbers.Integral) or not 1 <= multiplier <= LARGEST_MULTIPLIER:
        raise BookError(f"the multiplier is {multiplier}; give an integer from 1 to 2^31 - 1")
    if not isinstance(shift, numbers.Integral) or not 0 <= shift <= LARGEST_SHIFT:
        raise BookError(f"the shift is {shift}; give an integer from 0 to {LARGEST_SHIFT}")


def mismatches(found: np.ndarray, expected: np.ndarray) -> int:
    """Count the elements that differ. Raises BookError unless the arrays agree in type and shape."""
    if found.dtype != expected.dtype or found.shape != expected.shape:
        raise BookError(
            f"{found.dtype} {found.shape} cannot be compared with {expected.dtype} {expected.shape}; "
            "give both one type and shape"
        )
    return int(np.count_nonzero(found != expected))
