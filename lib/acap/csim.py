"""Generated designs on this CPU: compiled by g++ and held, number for number, against the integer model in NumPy.

PL kernels compile against AMD's own ap_int.h and hls_stream.h, which hls4ml ships; engines and their graph against the
stand-in of ``hw/acap/standin``, which computes what they compute and knows no time. ``Simulation`` runs three things:
each PL kernel alone, the engines of each product alone, both on random data and on corners, and the whole design on
images.

Layouts in the comments: a stream is bytes; "rows" are a matrix row after row, each filled up to whole words.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib import ROOT
from lib.acap import constants
from lib.acap.attention import base2_codes_twin
from lib.acap.codegen import MANIFEST
from lib.acap.design import OUT_COLUMNS, Design, Kernel, Port, Unit
from lib.acap.gelu import gelu_twin
from lib.acap.integer import IntegerViT, Rescale, signed8
from lib.acap.mapping import TILE, Mapping
from lib.acap.uniform import exact_product
from lib.errors import BookError
from lib.files import read_json, sha256

CACHE = ROOT / "_build" / "acap"
FLAGS = ("-std=c++17", "-O1", "-pthread", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
HEADERS = ("-Wno-uninitialized", "-Wno-maybe-uninitialized")  # AMD's integers are read before they are written
SECONDS = 600


def ap_types() -> Path:
    """Return the folder of AMD's ap_int.h and hls_stream.h; BookError if hls4ml, which ships them, is missing."""
    found = importlib.util.find_spec("hls4ml")
    folder = Path(found.origin).parent / "templates" / "vivado" / "ap_types" if found and found.origin else None
    if folder is None or not (folder / "ap_int.h").exists():
        raise BookError("AMD's ap_int.h is missing, which hls4ml ships; install it with: pip install hls4ml")
    return folder


def compiler() -> str:
    found = shutil.which("g++")
    if found is None:
        raise BookError("g++ is missing and compiles the design; install it, on Debian and Ubuntu as g++")
    return found


def command(folder: Path) -> list[str]:
    """Return the command that compiles a source of a design, without the source and what to do with it."""
    return [compiler(), *FLAGS, *HEADERS, f"-I{folder / 'standin'}", f"-I{folder / 'aie'}", "-isystem", str(ap_types())]


def build(folder: Path, cache: Path = CACHE) -> Path:
    """Compile a generated design into a program, once for each state of its sources.

    Raises BookError if g++ or AMD's headers are missing, or if g++ refuses or warns.
    """
    start = command(folder)
    sources = sorted(read_json(folder / MANIFEST, "the manifest")["files"])
    digests = [sha256(folder / name) for name in sources]
    state = [sources, digests, FLAGS, HEADERS, Path(start[0]).resolve().name, str(ap_types())]
    program = cache / f"csim-{hashlib.sha256(repr(state).encode()).hexdigest()[:16]}"
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:  # so that a program is whole or absent
            made = Path(scratch) / "csim"
            source = folder / "csim" / "csim.cpp"
            result = subprocess.run([*start, str(source), "-o", str(made)], capture_output=True, text=True)
            if result.returncode:
                lines = result.stderr.splitlines() or ["no message"]
                first = next((line.strip() for line in lines if "error" in line), lines[0])
                raise BookError(f"g++ does not compile the design ({first}); use GCC 12 or newer")
            made.replace(program)
    return program


@dataclass(frozen=True)
class Compared:
    """How many numbers were compared and how many differ."""

    numbers: int = 0
    different: int = 0

    def __add__(self, other: Compared) -> Compared:
        return Compared(self.numbers + other.numbers, self.different + other.different)


def compare(found: np.ndarray, expected: np.ndarray) -> Compared:
    """Compare whole numbers; another shape counts as if all were different."""
    if found.shape != expected.shape:
        return Compared(expected.size, expected.size)
    return Compared(expected.size, int((found != expected).sum()))


def check(mapping: Mapping, model: IntegerViT, folder: Path, images: np.ndarray, seed: int = 0) -> dict[str, int]:
    """Run the design in ``folder`` and return how many numbers differ: of "hls", "aie" and "block".

    ``images`` are uint8 (N, channels, side, side), whole batches of them. Raises BookError as ``Simulation`` does.
    """
    simulation = Simulation(mapping, model, folder)
    found = {"hls": simulation.hls(seed), "aie": simulation.aie(seed), "block": simulation.whole(images)}
    return {name: sum(some.values(), Compared()).different for name, some in found.items()}


# ---- Layouts. ----


def _padded(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
    out = np.zeros((len(x), rows, columns), np.int64)
    out[:, : x.shape[1], : x.shape[2]] = x
    return out


def _of_copy(x: np.ndarray, unit: Unit, h: int) -> np.ndarray:
    """Return those of (passes x copies, ...) that copy h of the engines makes."""
    return x[h :: unit.tiling.H]


def left_stream(x: np.ndarray, unit: Unit, port: Port) -> bytes:
    """Lay out left factors (passes x copies, rows, inner) as one port carries them."""
    t, k = unit.tiling, unit.k
    x = _of_copy(_padded(x, t.A * unit.part_rows, t.B * k), unit, port.h)
    part = x[:, port.a * unit.part_rows :, port.b * k :][:, : unit.part_rows, :k]
    tiled = part.reshape(len(x), unit.stripes, TILE, k // unit.tile_k, unit.tile_k).transpose(0, 1, 3, 2, 4)
    return tiled.astype(np.int8).tobytes()


def right_stream(x: np.ndarray, unit: Unit, port: Port) -> bytes:
    """Lay out right factors (passes x copies, inner, columns) as one port carries them."""
    t, k, n = unit.tiling, unit.k, unit.n
    x = _of_copy(_padded(x, t.B * k, t.C * n), unit, port.h)
    part = x[:, port.b * k :, port.c * n :][:, :k, :n]
    tiled = part.reshape(len(x), k // unit.tile_k, unit.tile_k, n // OUT_COLUMNS, OUT_COLUMNS).transpose(0, 3, 1, 2, 4)
    return tiled.astype(np.int8).tobytes()


def result_stream(x: np.ndarray, unit: Unit, port: Port) -> bytes:
    """Lay out results (passes x copies, rows, columns) as one port carries them."""
    t, n = unit.tiling, unit.n
    x = _of_copy(_padded(x, t.A * unit.part_rows, t.C * n), unit, port.h)
    part = x[:, port.a * unit.part_rows :, port.c * n :][:, : unit.part_rows, :n]
    tiled = part.reshape(len(x), unit.stripes, TILE, n // OUT_COLUMNS, OUT_COLUMNS).transpose(0, 1, 3, 2, 4)
    return tiled.astype(np.int32 if unit.wide else np.int8).tobytes()


def results(streams: list[bytes], unit: Unit, passes: int) -> np.ndarray:
    """Put the ports' results together: (passes x copies, rows, columns), int64."""
    t, n, dtype = unit.tiling, unit.n, np.int32 if unit.wide else np.int8
    whole = np.zeros((passes * unit.copies, t.A * unit.part_rows, t.C * n), np.int64)
    for port, data in zip(unit.out, streams):
        tiled = np.frombuffer(data, dtype).reshape(-1, unit.stripes, n // OUT_COLUMNS, TILE, OUT_COLUMNS)
        part = tiled.transpose(0, 1, 3, 2, 4).reshape(-1, unit.part_rows, n)
        place = whole[port.h :: t.H, port.a * unit.part_rows :, port.c * n :]
        place[:, : unit.part_rows, :n] = part
    return whole[:, : unit.rows, : unit.columns]


# ---- Running. ----


class Simulation:
    """A generated design, compiled. BookError if it cannot be compiled, or if it ends with a complaint."""

    def __init__(self, mapping: Mapping, model: IntegerViT, folder: Path) -> None:
        self.design, self.model, self.folder = Design(mapping), model, Path(folder)
        self.program = build(self.folder)
        self.passes = self.design.batch * self.design.config.depth

    def _run(self, arguments: list[str], blocks: list[bytes]) -> list[bytes]:
        sent = b"".join(len(block).to_bytes(8, "little") + block for block in blocks)
        try:
            done = subprocess.run([self.program, *arguments], input=sent, capture_output=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise BookError(f"csim {' '.join(arguments)} has not ended after {SECONDS} s; generate it anew") from None
        said = (done.stderr + (done.stdout if done.returncode else b"")).decode(errors="replace").strip()
        if done.returncode or said or b"WARNING: Hls::stream" in done.stdout:
            raise BookError(f"csim {' '.join(arguments)} failed ({said or 'a stream is misused'}); generate it anew")
        found, at = [], 0
        while at < len(done.stdout):
            size = int.from_bytes(done.stdout[at : at + 8], "little")
            found.append(done.stdout[at + 8 : at + 8 + size])
            at += 8 + size
        return found

    def kernel(self, name: str, inputs: list[bytes], passes: int, written: int = 0, first: int = 0) -> list[bytes]:
        """Run one PL kernel on its streams (and memory, ``written`` words of it) and return what it puts out."""
        return self._run(["pl", name, str(first), str(passes), str(written)], inputs)

    def unit(self, name: str, left: np.ndarray, right: np.ndarray | None) -> np.ndarray:
        """Run a product's engines for a batch: left (passes x copies, rows, inner), right, if it streams, alike."""
        unit = self.design.units[name]
        blocks = [left_stream(left, unit, port) for port in unit.lhs]
        blocks += [right_stream(right, unit, port) for port in unit.rhs] if right is not None else []
        return results(self._run(["aie", name], blocks), unit, len(left) // unit.copies)

    def to_rows(self, x: np.ndarray) -> bytes:
        """Lay out (..., rows, columns) of one or four bytes a number as rows."""
        padded = np.zeros((*x.shape[:-1], self._wide(x.shape[-1], x.dtype)), x.dtype)
        padded[..., : x.shape[-1]] = x
        return padded.tobytes()

    def from_rows(self, data: bytes, rows: int, columns: int, dtype: type = np.int8) -> np.ndarray:
        """Return (n, rows, columns) from rows, as int64."""
        return np.frombuffer(data, dtype).reshape(-1, rows, self._wide(columns, dtype))[..., :columns].astype(np.int64)

    def _wide(self, columns: int, dtype: np.typing.DTypeLike) -> int:
        """Return the numbers of a row with what fills it up."""
        size = np.dtype(dtype).itemsize
        return self.design.row_words(columns, size) * self.design.lanes // size

    # ---- Engines. ----

    def aie(self, seed: int = 0) -> dict[str, Compared]:
        """Run each product's engines on random factors and on their extremes."""
        rng = np.random.default_rng(seed)
        return {name: self._unit(unit, rng) for name, unit in self.design.units.items()}

    def _unit(self, unit: Unit, rng: np.random.Generator) -> Compared:
        passes = self.design.batch if unit.wide else self.passes
        total = Compared()
        for extreme in (False, True):
            shape = (passes * unit.copies, unit.rows, unit.inner)
            if unit.codes:
                left = rng.choice([0, 15], shape) if extreme else rng.integers(0, 16, shape)
            else:
                left = rng.choice([-128, 127], shape) if extreme else rng.integers(-128, 128, shape)
            right, expected = self.golden(unit, left, rng, extreme)
            found = self.unit(unit.name, left, right if unit.rhs_streams else None)
            total += compare(found, expected)
        return total

    def golden(
        self, unit: Unit, left: np.ndarray, rng: np.random.Generator, extreme: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return right factors (passes x copies, inner, columns), a model's or random ones, and what is to come out."""
        model, batch = self.model, self.design.batch
        if unit.wide:
            weight = constants.matrices(model, unit)[0].T
            right = np.broadcast_to(weight, (len(left), *weight.shape))
            return right, exact_product(left, right)
        if unit.sets:
            per_block = constants.linears(model, unit.name)
            right = np.repeat(np.stack([weight.T for weight, _, _ in per_block]), batch, axis=0)
            sums = exact_product(left, right)
            parts = sums.reshape(len(per_block), batch, *sums.shape[1:])
            rescaled = [signed8(to(some + bias)) for some, (_, bias, to) in zip(parts, per_block)]
            return right, np.concatenate(rescaled)
        shape = (len(left), unit.inner, unit.columns)
        right = rng.choice([-127, 127], shape) if extreme else rng.integers(-127, 128, shape)
        last = 2 ** model.blocks[0].attention_bits - 1
        powers = np.where(left < last, 1 << np.maximum(last - 1 - left, 0), 0) if unit.codes else left
        sums = exact_product(powers, right).reshape(len(model.blocks), -1, unit.rows, unit.columns)
        scales: list[Rescale] = [block.to_context if unit.codes else block.to_scores for block in model.blocks]
        return right, np.concatenate([signed8(to(some)) for some, to in zip(sums, scales)])

    # ---- PL kernels. ----

    def hls(self, seed: int = 0) -> dict[str, Compared]:
        """Run each PL kernel alone, through all encoder blocks, on random data and on corners."""
        rng = np.random.default_rng(seed)
        return {kernel.name: getattr(self, f"_{kernel.template}")(kernel, rng) for kernel in self.design.kernels}

    def _bytes(self, rng: np.random.Generator, *shape: int) -> np.ndarray:
        """Return int8 (...) of whose rows every other is random and the rest at either end."""
        x = rng.integers(-128, 128, shape)
        ends = rng.choice([-128, -127, 127], shape)
        return np.where(np.arange(shape[-2])[:, None] % 2, ends, x).astype(np.int8)

    def _codes(self, rng: np.random.Generator, *shape: int) -> np.ndarray:
        """Return codes uint8 (..., rows, C): random rows, rows of one code (no variance), of either end."""
        x = rng.integers(0, 256, shape)
        kind = np.arange(shape[-2]) % 4
        x[..., kind == 1, :] = rng.integers(0, 256, (*shape[:-2], (kind == 1).sum(), 1))
        x[..., kind == 2, :] = rng.choice([0, 255], (*shape[:-2], (kind == 2).sum(), shape[-1]))
        return x.astype(np.uint8)

    def _spread(self, kernel: Kernel, rng: np.random.Generator) -> Compared:
        unit = self.design.units[kernel.unit]
        x = self._bytes(rng, 2 * unit.copies, unit.rows, unit.inner)
        found = self.kernel(kernel.name, [self.to_rows(x)], 2)
        return _compare_bytes(found, [left_stream(x, unit, port) for port in unit.lhs])

    def _gather(self, kernel: Kernel, rng: np.random.Generator) -> Compared:
        unit = self.design.units[kernel.unit]
        shape = (2 * unit.copies, unit.rows, unit.columns)
        x = rng.integers(-(2**31), 2**31, shape).astype(np.int32) if unit.wide else self._bytes(rng, *shape)
        found = self.kernel(kernel.name, [result_stream(x, unit, port) for port in unit.out], 2)
        return _compare_bytes(found, [self.to_rows(x)])

    def _feed(self, kernel: Kernel, rng: np.random.Generator) -> Compared:
        unit = self.design.units[kernel.unit]
        weights = np.stack([weight.T for weight in constants.matrices(self.model, unit)])
        expected = np.repeat(weights, self.design.batch, axis=0)
        memory = (self.folder / "host" / f"{unit.name}_weights.bin").read_bytes()
        found = self.kernel(kernel.name, [memory], len(expected))
        return _compare_bytes(found, [right_stream(expected, unit, port) for port in unit.rhs])

    def _reader(self, kernel: Kernel, rng: np.random.Generator) -> Compared:
        unit, patches = self.design.units["patch"], self.design.config.patches
        x = self._bytes(rng, 2, patches, unit.inner)
        (found,) = self.kernel(kernel.name, [self.to_rows(x)], 2)
        return compare(self.from_rows(found, unit.rows, unit.inner), _padded(x, unit.rows, unit.inner))

    def _embed(self, kernel: Kernel, rng: np.random.Generator) -> Compared:
        unit, config = self.design.units["patch"], self.design.config
        most = 2**31 - 1 - np.abs(self.model.stem.bias).max()
        scale = np.exp(rng.uniform(0, np.log(most), (2, unit.rows, unit.columns)))  # all sizes: most saturate or not
        sums = (scale * rng.choice([-1, 1], scale.shape)).astype(np.int32)
        (found,) = self.kernel(kernel.name, [self.to_rows(sums)], 2)
        codes = self.from_rows(found, self.design.tokens, config.dim, np.uint8)[:, : config.tokens]
        return compare(codes, self._embedded(sums[:, : config.patches]))

    def _embedded(self, sums: np.ndarray) -> np.ndarray:
        model = self.model
        codes = model.embedded.saturate(model.to_embedded(sums.astype(np.int64) + model.stem.bias))
        first = np.broadcast_to(model.class_codes, (len(codes), 1, codes.shape[2]))
        return np.concatenate((first, codes), axis=1)

    def _turn(self, kernel: Kernel, rng: np.random.Generator) -> Compared:
        batch, config = self.design.batch, self.design.config
        embedded = self._codes(rng, batch, self.design.tokens, config.dim)
        back = self._codes(rng, self.passes, self.design.tokens, config.dim)
        found = self.kernel(kernel.name, [self.to_rows(embedded), self.to_rows(back)], self.passes + batch)
        around = self.to_rows(np.concatenate((embedded, back[:-batch])))
        return _compare_bytes(found, [around, around, self.to_rows(back[-batch:, :TILE])])

    def _norm(self, kernel: Kernel, rng: np.random.Generator) -> Compared:
        rows, width = kernel.settings["rows"], self.design.config.dim
        last = kernel.name == "norm"
        norms = [self.model.norm] if last else [getattr(block, kernel.name) for block in self.model.blocks]
        x = self._codes(rng, len(norms), self.design.batch, rows, width)
        (found,) = self.kernel(kernel.name, [self.to_rows(x)], len(norms) * self.design.batch)
        expected = np.stack([norm(some.astype(np.int64)) for norm, some in zip(norms, x)])
        return compare(self.from_rows(found, rows, width), expected.reshape(-1, rows, width))

    def _heads(self, kernel: Kernel, rng: np.random.Generator) -> Compared:
        config, tokens = self.design.config, self.design.tokens
        x = self._bytes(rng, 2, tokens, 3 * config.dim)
        parts = x.reshape(2, tokens, 3, config.heads, config.head_width).transpose(2, 0, 3, 1, 4)
        q, k, v = parts.reshape(3, 2 * config.heads, tokens, config.head_width)
        qk, av = self.design.units["qk"], self.design.units["av"]
        expected = [self.to_rows(q)] + [right_stream(k.swapaxes(1, 2), qk, port) for port in qk.rhs]
        expected += [right_stream(v, av, port) for port in av.rhs]
        return _compare_bytes(self.kernel(kernel.name, [self.to_rows(x)], 2), expected)

    def _softmax(self, kernel: Kernel, rng: np.random.Generator) -> Compared:
        config, tokens, block = self.design.config, self.design.tokens, self.model.blocks[0]
        spread = rng.choice([1, 8, 40, 128], (2 * config.heads, tokens, 1))  # flat rows, and rows of one large score
        x = np.clip(rng.integers(-128, 128, (2 * config.heads, tokens, tokens)) * spread // 128, -127, 127)
        (found,) = self.kernel(kernel.name, [self.to_rows(x.astype(np.int8))], 2)
        expected = np.full(x.shape, 2**block.attention_bits - 1)
        real = slice(0, config.tokens)
        expected[..., real] = base2_codes_twin(x[..., real], block.attention_bits, block.fraction)
        return compare(self.from_rows(found, tokens, tokens), expected)

    def _merge(self, kernel: Kernel, rng: np.random.Generator) -> Compared:
        config, tokens = self.design.config, self.design.tokens
        x = self._bytes(rng, 2, config.heads, tokens, config.head_width)
        expected = x.transpose(0, 2, 1, 3).reshape(2, tokens, config.dim)
        return _compare_bytes(self.kernel(kernel.name, [self.to_rows(x)], 2), [self.to_rows(expected)])

    def _add(self, kernel: Kernel, rng: np.random.Generator) -> Compared:
        config, blocks, batch = self.design.config, self.model.blocks, self.design.batch
        shape = (len(blocks), batch, self.design.tokens, config.dim)
        branch, codes = self._bytes(rng, *shape), self._codes(rng, *shape)
        found = self.kernel(kernel.name, [self.to_rows(branch), self.to_rows(codes)], self.passes)
        adds = [getattr(block, kernel.name) for block in blocks]
        sums = [add(b.astype(np.int64), c.astype(np.int64)) for add, b, c in zip(adds, branch, codes)]
        return _compare_bytes(found, [self.to_rows(np.stack(sums).astype(np.uint8))] * len(kernel.outputs))

    def _gelu(self, kernel: Kernel, rng: np.random.Generator) -> Compared:
        unit, blocks = self.design.units["up"], self.model.blocks
        x = np.clip(self._bytes(rng, len(blocks), self.design.batch, unit.rows, unit.columns), -127, 127)
        expected = np.stack([gelu_twin(some.astype(np.int64), block.table) for some, block in zip(x, blocks)])
        found = self.kernel(kernel.name, [self.to_rows(x)], self.passes)
        return _compare_bytes(found, [self.to_rows((expected - constants.OFFSET).astype(np.int8))])

    def _logits(self, kernel: Kernel, rng: np.random.Generator) -> Compared:
        unit, head = self.design.units["head"], self.model.head
        most = 2**31 - 1 - np.abs(head.bias).max()
        sums = rng.integers(-most, most, (2, unit.rows, unit.columns)).astype(np.int32)
        (found,) = self.kernel(
            kernel.name, [self.to_rows(sums)], 2, written=2 * self._wide(unit.columns, np.int32) // 4
        )
        return compare(self.from_rows(found, 2, unit.columns, np.int32)[0], self._logit(sums[:, 0]))

    def _logit(self, sums: np.ndarray) -> np.ndarray:
        return self.model.to_logits(sums.astype(np.int64) + self.model.head.bias)

    # ---- All of it. ----

    def whole(self, images: np.ndarray) -> dict[str, Compared]:
        """Run images uint8 (N, channels, side, side) through everything; compare each connection with the trace.

        Raises BookError unless they are whole batches.
        """
        self.design.check_batches(images)
        batch, model = self.design.batch, self.model
        feeds = [kernel.unit for kernel in self.design.kernels if kernel.template == "feed"]
        blocks = [constants.image_words(images, self.design).tobytes()]
        blocks += [(self.folder / "host" / f"{name}_weights.bin").read_bytes() for name in feeds]
        *nets, logits = self._run(["all", str(len(images) // batch)], blocks)
        found = {net.name: data for net, data in zip(self.design.nets, nets)}
        trace: dict[str, np.ndarray] = {}
        expected_logits = model(images, trace)
        expected = self._expected(images, trace)
        compared = {name: compare(self._real(found[name], x, dtype), x) for name, (x, dtype) in expected.items()}
        found_logits = self.from_rows(logits, len(images), self.design.config.classes, np.int32)[0]
        compared["logits"] = compare(found_logits, expected_logits)
        return compared

    def _real(self, data: bytes, like: np.ndarray, dtype: type) -> np.ndarray:
        """Return what a connection carried, (n, rows, columns), without the rows that only fill up."""
        n, rows, columns = like.shape
        whole = np.frombuffer(data, dtype).reshape(n, -1, self._wide(columns, dtype))
        return whole[:, :rows, :columns].astype(np.int64)

    def _expected(self, images: np.ndarray, trace: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, type]]:
        """Return what each connection carries, in its order: (n, real rows, columns) and the type of a number."""
        config, batch = self.design.config, self.design.batch
        depth = config.depth

        def steps(name: str) -> np.ndarray:
            """Return a step of all blocks in the order of passes: a batch block after block; heads as passes, too."""
            x = np.stack([trace[f"blocks.{block}.{name}"] for block in range(depth)])
            x = x.reshape(depth, -1, batch, *x.shape[2:]).swapaxes(0, 1)
            return x.reshape(-1, *x.shape[-2:])

        def entering() -> np.ndarray:
            x = np.stack([trace["embedded"], *(trace[f"blocks.{block}.residual2"] for block in range(depth - 1))])
            return x.reshape(depth, -1, batch, *x.shape[2:]).swapaxes(0, 1).reshape(-1, *x.shape[2:])

        def merged(name: str) -> np.ndarray:
            x = steps(name)
            x = x.reshape(-1, config.heads, *x.shape[1:]).swapaxes(1, 2)
            return x.reshape(len(x), config.tokens, config.dim)

        context = steps("context")
        by_heads = context.reshape(*context.shape[:2], config.heads, -1).swapaxes(1, 2)
        patches = constants.image_words(images, self.design)[..., : self.design.units["patch"].inner].astype(np.int64)
        final = trace[f"blocks.{depth - 1}.residual2"]
        normed = trace["normed"][:, None]
        return {
            "patches": (patches, np.int8),
            "patch_sums": (exact_product(patches, self.model.stem.weight.T), np.int32),
            "embedded": (trace["embedded"], np.uint8),
            "residual0": (entering(), np.uint8),
            "bypass0": (entering(), np.uint8),
            "normed1": (steps("normed1"), np.int8),
            "qkv": (np.concatenate([merged(name) for name in "qkv"], axis=2), np.int8),
            "queries": (steps("q"), np.int8),
            "scores": (steps("scores"), np.int8),
            "shifts": (steps("shifts"), np.int8),
            "contexts": (by_heads.reshape(-1, *by_heads.shape[2:]), np.int8),
            "context": (context, np.int8),
            "branch1": (steps("branch1"), np.int8),
            "residual1": (steps("residual1"), np.uint8),
            "bypass1": (steps("residual1"), np.uint8),
            "normed2": (steps("normed2"), np.int8),
            "hidden": (steps("hidden"), np.int8),
            "activated": (steps("activated") - constants.OFFSET, np.int8),
            "branch2": (steps("branch2"), np.int8),
            "residual2": (steps("residual2"), np.uint8),
            "last": (final[:, :TILE], np.uint8),
            "normed": (normed, np.int8),
            "head_sums": (exact_product(normed, self.model.head.weight.T), np.int32),
        }


def _compare_bytes(found: list[bytes], expected: list[bytes]) -> Compared:
    if len(found) != len(expected):
        return Compared(len(expected), len(expected))
    pairs = zip(found, expected)
    return sum((compare(np.frombuffer(a, np.uint8), np.frombuffer(b, np.uint8)) for a, b in pairs), Compared())
