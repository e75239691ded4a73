"""The C baseline of ``hw/cpu/gpt.c``: write its models, compile it, and run it as a library or as a program.

What is quoted of an accelerator's speed has to stand beside a CPU that was tried with the same care. The
C program computes what ``lib.gpt`` computes, in FP32, or in INT8: int8 weights with a scale a row
(symmetric, -127 to 127), a matrix's input in 256 codes over its own range at each token, int32 sums, and
all else in FP32.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path
from typing import Iterator, Sequence

import numpy as np

from lib import ROOT
from lib.errors import BookError
from lib.files import atomic_write
from lib.gpt import GPT, GPTConfig
from lib.text import encode_prompt

SOURCE = ROOT / "hw" / "cpu" / "gpt.c"
PRECISIONS = ("fp32", "int8")
MAGIC, VERSION = b"BOOKGPT\0", 1
FLAGS = ("-std=c11", "-O3", "-ffp-contract=fast", "-Wall", "-Wextra", "-Wno-psabi")
FUNCTIONS = ("exp", "erf", "gelu")
RUN_SECONDS = 600  # far above any run of the book


# ---- Writing a model. ----


def pack(model: GPT, path: str | os.PathLike[str], precision: str = "fp32") -> Path:
    """Write ``model`` for the C program, atomically, and return the path.

    The file is little-endian: magic, version and CRC-32 of all that follows; then precision (0 FP32, 1 INT8)
    and shape as uint32; then the tensors in the order of ``GPT.state_dict``, as float32. In INT8 each row of
    a matrix that multiplies (the token embedding, which is the head, too) is a float32 scale and int8 codes.
    Raises BookError for another precision, a model that is not a plain GPT with GELU (masked, deployed,
    quantised), or weights that are not finite.
    """
    if precision not in PRECISIONS:
        raise BookError(f"the C program computes in {' or '.join(PRECISIONS)}, not {precision!r}; choose one of them")
    _check_plain(model)
    c = model.config
    body = struct.pack("<6I", PRECISIONS.index(precision), c.n_layer, c.n_head, c.n_embd, c.block, c.vocab)
    body += b"".join(_tensors(model, precision))
    with atomic_write(path) as file:
        file.write(MAGIC + struct.pack("<2I", VERSION, zlib.crc32(body)) + body)
    return Path(path)


def _check_plain(model: GPT) -> None:
    activation = getattr(model.config, "activation", "gelu")
    if activation != "gelu":
        raise BookError(f"the C program knows GELU and the model has {activation}; pack a model with gelu")
    if {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} != _shapes(model.config):
        raise BookError(
            "the model's tensors are not those of a plain lib.gpt.GPT; remove masks, and pack it before it is "
            "deployed or quantised"
        )
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise BookError(f"the model holds values in {name} that are not finite; take an earlier checkpoint")


def _shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """List a plain GPT's tensors in the file's order."""
    C = config.n_embd
    block = {"norm1": (C,), "attention.qkv": (3 * C, C), "attention.out": (C, C)}
    block |= {"norm2": (C,), "feed_forward.up": (4 * C, C), "feed_forward.down": (C, 4 * C)}
    modules = {f"blocks.{i}.{name}": shape for i in range(config.n_layer) for name, shape in block.items()}
    shapes: dict[str, tuple[int, ...]] = {"token.weight": (config.vocab, C), "position.weight": (config.block, C)}
    for name, shape in (modules | {"norm": (C,)}).items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def _tensors(model: GPT, precision: str) -> Iterator[bytes]:
    tensors = model.state_dict()
    for name in _shapes(model.config):
        values = tensors[name].detach().cpu().numpy().astype("<f4")
        multiplies = values.ndim == 2 and name != "position.weight"
        yield _int8_rows(values) if multiplies and precision == "int8" else values.tobytes()


def _int8_rows(weight: np.ndarray) -> bytes:
    """Quantise rows (R, K) to -127 to 127 by their largest magnitudes: R times a float32 and K int8."""
    scale = (np.abs(weight).max(axis=1, keepdims=True) / 127).astype("<f4")
    code = np.rint(weight / np.where(scale > 0, scale, 1)).clip(-127, 127).astype(np.int8)
    return np.concatenate([scale.view(np.int8), code], axis=1).tobytes()


# ---- Compiling. ----


def build(folder: str | os.PathLike[str], arch: str = "native", library: bool = True) -> Path:
    """Compile ``hw/cpu/gpt.c`` into ``folder`` and return the library's or the program's path.

    ``arch`` "native" is this machine's own processor, "aarch64" the Cortex-A53 of a Zynq UltraScale+, for
    which only the program is built, statically. Raises BookError when the compiler is missing or fails.
    """
    if arch not in ("native", "aarch64"):
        raise BookError(f"there is no build for {arch!r}; choose native or aarch64")
    if library and arch != "native":
        raise BookError("a library for aarch64 could not be loaded here; build the program, with library=False")
    name = "libgpt.so" if library else f"gpt-{arch}"
    if arch == "aarch64":
        compiler, package, target = "aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu", ["-mcpu=cortex-a53", "-static"]
    else:
        option = "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"
        compiler, package, target = "gcc", "gcc", [option]
    if library:
        target += ["-DGPT_LIBRARY", "-fPIC", "-shared"]
    return _compile(compiler, package, target, Path(folder) / name)


def _compile(compiler: str, package: str, target: Sequence[str], path: Path) -> Path:
    if shutil.which(compiler) is None:
        raise BookError(f"the compiler {compiler} is missing; install it (on Debian and Ubuntu the package {package})")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:  # a library in use must be replaced, not changed
        made = Path(scratch) / path.name
        command = [compiler, *FLAGS, *target, os.fspath(SOURCE), "-o", os.fspath(made), "-lm", "-pthread"]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            first = next(iter(result.stderr.strip().splitlines()), "no message")
            raise BookError(f"{compiler} does not compile {SOURCE.name} ({first}); use GCC 12 or newer")
        os.replace(made, path)
    return path


# ---- The library. ----


class CStep:
    """A packed model in the C library, fed one token at a time; it keeps its own cache and refills it.

    ``config`` and ``precision`` are the file's. Not to be used from two Python threads at once.
    Raises BookError for a library that cannot be loaded, or a file that is missing, foreign, of another
    version, truncated or damaged.
    """

    def __init__(self, library: str | os.PathLike[str], path: str | os.PathLike[str], threads: int = 1) -> None:
        self._handle: int | None = None  # so that close() works if the lines below fail
        self._library = _load(library)
        self._handle = self._library.gpt_open(os.fsencode(path), threads)
        if not self._handle:
            raise BookError(self._message())
        shape = (ctypes.c_int32 * 6)()
        self._library.gpt_shape(self._handle, shape)
        *sizes, int8 = shape
        self.config = GPTConfig(*sizes)
        self.precision, self.threads = PRECISIONS[int8], threads

    def feed(self, token: int) -> np.ndarray:
        """Take the next token and return the logits over the one after it, float32 (V,), as ``Stepper.feed``."""
        logits = self._library.gpt_step(self._open(), token)
        if not logits:
            raise BookError(self._message())
        return np.frombuffer(ctypes.string_at(logits, 4 * self.config.vocab), dtype=np.float32)

    def reset(self) -> None:
        """Forget all tokens."""
        self._library.gpt_reset(self._open())

    def greedy(self, prompt: Sequence[int], length: int) -> list[int]:
        """Forget all tokens and return the ``length`` likeliest that continue ``prompt``, refills included."""
        if not 1 <= len(prompt) <= self.config.block:
            raise BookError(
                f"the prompt has {len(prompt)} characters and the model takes 1 to {self.config.block}; change it"
            )
        self.reset()
        for token in prompt[:-1]:
            self.feed(token)
        found = [prompt[-1]]
        for _ in range(length):
            found.append(int(self.feed(found[-1]).argmax()))
        return found[1:]

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """A route for ``lib.evaluate``: windows int64 (B, T), one after another, to float32 (B, T, V)."""
        return np.stack([self._window(row) for row in tokens])

    def _window(self, row: np.ndarray) -> np.ndarray:
        self.reset()
        return np.stack([self.feed(int(token)) for token in row])

    def close(self) -> None:
        """Free the model and end its threads; it cannot be fed any more."""
        if self._handle:
            self._library.gpt_close(self._handle)
            self._handle = None

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> CStep:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> int:
        if not self._handle:
            raise BookError("the C model is closed; open its file again")
        return self._handle

    def _message(self) -> str:
        return self._library.gpt_message().decode(errors="replace")


_SIGNATURES = {
    "gpt_open": (ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int]),
    "gpt_message": (ctypes.c_char_p, []),
    "gpt_shape": (None, [ctypes.c_void_p, ctypes.c_void_p]),
    "gpt_step": (ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int]),
    "gpt_reset": (None, [ctypes.c_void_p]),
    "gpt_close": (None, [ctypes.c_void_p]),
    "gpt_function": (None, [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]),
}


def _load(path: str | os.PathLike[str]) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(os.fspath(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise BookError(f"the library {path} cannot be used ({error}); build it with lib.cpu.build") from None
    return library


def vector_function(library: str | os.PathLike[str], name: str, x: np.ndarray) -> np.ndarray:
    """Apply the C program's own exp, erf or gelu to x, float32 (N,): what its tests measure."""
    result = np.array(x, dtype=np.float32)
    _load(library).gpt_function(FUNCTIONS.index(name), result.ctypes.data, len(result))
    return result


# ---- The program. ----


def run_executable(
    program: str | os.PathLike[str],
    path: str | os.PathLike[str],
    prompt: str,
    length: int,
    threads: int = 1,
    arch: str = "native",
) -> str:
    """Run the compiled program and return its greedy continuation; "aarch64" goes through QEMU elsewhere.

    Under QEMU the text is the processor's and the speed is not. Raises BookError for a prompt outside the
    alphabet, when QEMU is missing, the program does not run or takes over ten minutes, or with the program's
    own sentence when it refuses.
    """
    encode_prompt(prompt)  # a NUL could not even be handed over
    command = [os.fspath(program), os.fspath(path), prompt, str(length), str(threads)]
    if arch == "aarch64" and platform.machine() not in ("aarch64", "arm64"):
        if shutil.which("qemu-aarch64") is None:
            raise BookError("qemu-aarch64 is missing; install it (on Debian and Ubuntu the package qemu-user)")
        command.insert(0, "qemu-aarch64")
    try:
        result = subprocess.run(command, capture_output=True, timeout=RUN_SECONDS)
    except OSError as error:
        raise BookError(f"{program} cannot be run ({error.strerror}); build it with lib.cpu.build") from None
    except subprocess.TimeoutExpired:
        raise BookError(f"{program} took over {RUN_SECONDS} s; ask for fewer characters") from None
    if result.returncode:
        said = result.stderr.decode(errors="replace").strip().removeprefix("error: ")
        raise BookError(said or f"{program} ended with exit code {result.returncode}; build it again")
    return result.stdout.decode()[:-1]  # but for the newline at the end
