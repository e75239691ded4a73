"""The C baseline against PyTorch: the same logits and texts, and no file that is believed without reason."""

from __future__ import annotations

import copy
import math
import shutil
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import prune

from lib import cpu
from lib.affine import per_channel
from lib.checkpoint import load_shipped
from lib.cpu import CStep
from lib.deploy import deploy, linears
from lib.errors import BookError
from lib.evaluate import torch_step_logits
from lib.gpt import GPT, GPTConfig, Stepper, generate
from lib.text import decode, encode_prompt

PROMPT = "Once upon a time, there was a little"
ODD = GPTConfig(n_layer=2, n_head=3, n_embd=21, block=10, vocab=97)  # nothing here is a multiple of a register


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cpu")


@pytest.fixture(scope="module")
def library(folder: Path) -> Path:
    return cpu.build(folder)


@pytest.fixture(scope="module")
def program(folder: Path) -> Path:
    return cpu.build(folder, library=False)


def fed(model: GPT, path: Path, library: Path, precision: str, threads: int, tokens: np.ndarray) -> np.ndarray:
    with CStep(library, cpu.pack(model, path, precision), threads) as step:
        assert (step.config, step.precision) == (model.config, precision)
        return np.stack([step.feed(token) for token in tokens.tolist()])


# ---- The same numbers. ----


@settings(max_examples=12)
@given(
    layers=st.integers(1, 2),
    heads=st.integers(1, 4),
    head_width=st.integers(1, 37),
    half=st.integers(1, 40),
    vocab=st.integers(2, 131),
    threads=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_any_shape_gives_torchs_logits_past_refills(
    library: Path,
    folder: Path,
    random_model: Callable[..., GPT],
    layers: int,
    heads: int,
    head_width: int,
    half: int,
    vocab: int,
    threads: int,
    seed: int,
) -> None:
    config = GPTConfig(layers, heads, heads * head_width, 2 * half, vocab)
    model = random_model(config, seed)
    tokens = np.random.default_rng(seed).integers(0, vocab, 3 * half + 3)  # two refills
    stepper = Stepper(model)
    expected = np.stack([stepper.feed(token).numpy() for token in tokens.tolist()])
    found = fed(model, folder / "any.bin", library, "fp32", threads, tokens)
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(1, np.abs(expected).max()))
    int8 = [fed(model, folder / "any.bin", library, "int8", n, tokens) for n in (1, 2)]
    assert np.array_equal(int8[0], int8[1])


def test_int8_stays_close_to_fp32(library: Path, folder: Path) -> None:
    model, _ = load_shipped("pocket")
    tokens = np.array([encode_prompt(PROMPT + " girl named Lily. She loved to play in the park.")])
    expected = torch_step_logits(model)(tokens)
    with CStep(library, cpu.pack(model, folder / "pocket8.bin", "int8"), 2) as step:
        error = step.logits(tokens) - expected
    assert np.abs(error).max() < 1.5 and np.sqrt((error**2).mean()) < 0.25  # logits that spread by 6.2


def test_int8_is_what_it_says(library: Path, folder: Path, random_model: Callable[..., GPT]) -> None:
    """A scale a row of a weight; a matrix's input in 256 codes over its own range, 0 among them."""
    model = random_model(GPTConfig(n_layer=2, n_head=4, n_embd=64, block=32))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            if weight.dim() == 2 and name != "position.weight":
                weight.copy_(torch.from_numpy(per_channel(weight.numpy()).round(weight.numpy())))

    def rounded(x: torch.Tensor) -> torch.Tensor:
        low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
        step = (high - low) / 255
        return low + step * ((x - low) / step + 0.5).floor()

    for linear in linears(twin).values():
        linear.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0]),))
    twin.norm.register_forward_hook(lambda _, inputs, output: rounded(output))  # the head's input
    tokens = np.random.default_rng(0).integers(0, 97, (1, 32))
    expected, exact = (torch_step_logits(some)(tokens) for some in (twin, model))
    with CStep(library, cpu.pack(model, folder / "twin8.bin", "int8")) as step:
        found = step.logits(tokens)
    assert np.abs(found - expected).mean() < 0.05 * np.abs(exact - expected).mean()


@pytest.mark.parametrize("name", ["nano", "pocket"])
def test_the_shipped_models_write_torchs_text(library: Path, folder: Path, program: Path, name: str) -> None:
    model, _ = load_shipped(name)
    prompt = encode_prompt(PROMPT)
    expected = list(generate(model, prompt, 400))
    path = cpu.pack(model, folder / f"{name}.bin")
    for threads in (1, 2):
        with CStep(library, path, threads) as step:
            assert step.greedy(prompt, 400) == expected
            assert step.greedy(prompt, 20) == expected[:20]  # nothing is left of the first text
    assert cpu.run_executable(program, path, PROMPT, 400, threads=2) == decode(expected)


def test_a_cortex_a53_writes_the_same_text(folder: Path, program: Path) -> None:
    for tool in ("aarch64-linux-gnu-gcc", "qemu-aarch64"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    board = cpu.build(folder, "aarch64", library=False)
    model, _ = load_shipped("nano")
    for precision in cpu.PRECISIONS:
        path = cpu.pack(model, folder / f"nano-{precision}.bin", precision)
        here, there = (
            cpu.run_executable(binary, path, PROMPT, 120, threads=2, arch=arch)
            for binary, arch in ((program, "native"), (board, "aarch64"))
        )
        assert here == there and len(here) >= 120


def test_the_polynomials(library: Path) -> None:
    x = np.concatenate([np.linspace(-12, 12, 20001), [0, 1e-30, -1e-30]]).astype(np.float32)

    def of(name: str, values: np.ndarray) -> np.ndarray:
        return cpu.vector_function(library, name, values)

    wide = np.linspace(-87, 88, 50001).astype(np.float32)
    assert np.abs(of("exp", wide) / np.exp(wide.astype(np.float64)) - 1).max() < 1.5e-7
    exact = torch.from_numpy(x.astype(np.float64))
    assert np.abs(of("erf", x) - torch.erf(exact).numpy()).max() < 2e-7
    error = np.abs(of("gelu", x) - torch.nn.functional.gelu(exact).numpy())
    assert (error < 2e-7 * np.maximum(1, np.abs(x))).all()
    ends = np.array([-math.inf, math.inf, math.nan])
    assert of("exp", ends)[0] < 1e-37 and of("exp", ends)[1] > 1e38
    assert of("erf", ends)[:2].tolist() == [-1, 1]
    assert all(np.isnan(of(name, ends)[2]) for name in cpu.FUNCTIONS)


# ---- What is refused. ----


def refused(path: Path, program: Path, *, prompt: str = "a", length: object = 4) -> str:
    """Run the program, which must say one sentence and exit with 2; return it."""
    result = subprocess.run([program, path, prompt, str(length)], capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture(scope="module")
def packed(folder: Path, random_model: Callable[..., GPT]) -> bytes:
    return cpu.pack(random_model(ODD), folder / "odd.bin", "int8").read_bytes()


@settings(max_examples=30)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_or_a_cut_is_noticed(
    library: Path, folder: Path, packed: bytes, share: float, bit: int
) -> None:
    path, place = folder / "damaged.bin", int(share * len(packed))
    for data in (packed[:place], packed[:place] + bytes([packed[place] ^ 1 << bit]) + packed[place + 1 :]):
        path.write_bytes(data)
        with pytest.raises(BookError, match="write it (again )?with lib.cpu.pack"):
            CStep(library, path)


def test_each_kind_of_bad_file_gets_its_sentence(library: Path, program: Path, folder: Path, packed: bytes) -> None:
    body = packed[16:]
    impossible = struct.pack("<6I", 0, 1, 3, 20, 10, 97) + body[24:]  # 20 does not divide into 3 heads
    for data, problem in (
        (b"", "not one of this book's C models"),
        (b"\x89PNG" + packed[4:], "not one of this book's C models"),
        (packed[:8] + struct.pack("<I", 2) + packed[12:], "of version 2"),
        (packed[:12] + struct.pack("<I", zlib.crc32(impossible)) + impossible, "damaged header"),
        (packed[:-1], "truncated"),
        (packed + b"\0", "too long"),
        (packed[:-1] + bytes([packed[-1] ^ 1]), "checksum"),
    ):
        (folder / "bad.bin").write_bytes(data)
        assert problem in refused(folder / "bad.bin", program)
        with pytest.raises(BookError, match=problem):
            CStep(library, folder / "bad.bin")
    with pytest.raises(BookError, match="cannot be opened"):
        CStep(library, folder / "none.bin")
    with pytest.raises(BookError, match="cannot be read whole"):
        CStep(library, folder)


def test_bad_requests_are_refused(library: Path, program: Path, folder: Path, packed: bytes) -> None:
    path = folder / "odd.bin"
    assert "byte 0xC3" in refused(path, program, prompt="café")
    assert "11 characters and the model takes 1 to 10" in refused(path, program, prompt="a" * 11)
    assert "0 characters" in refused(path, program, prompt="")
    assert "usage" in refused(path, program, length="many")
    with pytest.raises(BookError, match="outside the alphabet"):
        cpu.run_executable(program, path, "\t", 4)
    with pytest.raises(BookError, match="65 threads"):
        CStep(library, path, threads=65)
    with CStep(library, path) as step:
        for token in (-1, 97):
            with pytest.raises(BookError, match=f"token {token} is outside"):
                step.feed(token)
        with pytest.raises(BookError, match="prompt has 0"):
            step.greedy([], 3)
    with pytest.raises(BookError, match="is closed"):
        step.feed(0)
    with pytest.raises(BookError, match="cannot be used"):
        CStep(path, path)
    with pytest.raises(BookError, match="cannot be run"):
        cpu.run_executable(folder / "none", path, "a", 1)


def test_what_the_program_cannot_compute_is_not_packed(random_model: Callable[..., GPT], tmp_path: Path) -> None:
    model = random_model(ODD)
    with pytest.raises(BookError, match="fp32 or int8, not 'int4'"):
        cpu.pack(model, tmp_path / "x.bin", "int4")
    with pytest.raises(BookError, match="not those of a plain"):
        cpu.pack(deploy(model), tmp_path / "x.bin")
    prune.l1_unstructured(model.blocks[0].feed_forward.up, "weight", 0.5)
    with pytest.raises(BookError, match="not those of a plain"):
        cpu.pack(model, tmp_path / "x.bin")
    prune.remove(model.blocks[0].feed_forward.up, "weight")
    model.norm.bias.data[0] = math.nan
    with pytest.raises(BookError, match="norm.bias that are not finite"):
        cpu.pack(model, tmp_path / "x.bin")
    model.config = type("Relu", (), {"activation": "relu"})()
    with pytest.raises(BookError, match="has relu"):
        cpu.pack(model, tmp_path / "x.bin")
    assert not list(tmp_path.iterdir())


def test_a_missing_compiler_or_emulator_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(BookError, match="no build for 'riscv'"):
        cpu.build(tmp_path, "riscv")
    with pytest.raises(BookError, match="library=False"):
        cpu.build(tmp_path, "aarch64")
    monkeypatch.setenv("PATH", str(tmp_path))
    for arch, package in (("native", "gcc"), ("aarch64", "gcc-aarch64-linux-gnu")):
        with pytest.raises(BookError, match=f"package {package}\\)"):
            cpu.build(tmp_path, arch, library=False)
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    with pytest.raises(BookError, match="package qemu-user"):
        cpu.run_executable(tmp_path / "gpt", tmp_path / "x.bin", "a", 1, arch="aarch64")
