"""Sparse files read back exactly, are as small as their layouts say, and are refused when damaged."""

from __future__ import annotations

import copy
import gzip
import lzma
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from lib.affine import per_channel
from lib.checkpoint import load_tensors, save_model, save_tensors
from lib.deploy import DeployedGPT, deploy, fold_norms
from lib.errors import BookError
from lib.gpt import GPT, GPTConfig
from lib.prune import apply, one_shot
from lib.sparse import LAYOUTS, compress, decode, encode, megabytes, read_sparse, write_sparse

SHAPE = GPTConfig(n_layer=2, n_head=2, n_embd=64, block=8)


@pytest.fixture(scope="module")
def model(random_model: Callable[..., GPT]) -> GPT:
    return one_shot(random_model(SHAPE), "unstructured", 0.5)


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    """Any float32 or int8 matrix, a few to hundreds of zeros between its weights."""
    shape = draw(hn.array_shapes(min_dims=2, max_dims=2, max_side=40))
    dtype = draw(st.sampled_from([np.float32, np.int8]))
    matrix = draw(hn.arrays(dtype, shape, elements=st.integers(-127, 127) if dtype == np.int8 else None))
    keep = draw(st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]))
    seed = draw(st.integers(0, 1000))
    return np.where(np.random.default_rng(seed).random(shape) < keep, matrix, 0).astype(dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(matrix=matrices())
def test_a_layout_comes_back_exactly(layout: str, matrix: np.ndarray) -> None:
    back = decode(encode(matrix, layout), matrix.shape, layout)
    assert back.dtype == matrix.dtype
    np.testing.assert_array_equal(back, matrix)


def test_gaps_longer_than_15_cost_fillers() -> None:
    matrix = np.zeros((1, 100), np.int8)
    matrix[0, [0, 16, 33, 99]] = 1  # gaps of 0, 15, 16 and 65
    parts = encode(matrix, "gap")
    assert len(parts["values"]) == 4 + 0 + 0 + 1 + 4
    assert np.count_nonzero(parts["values"]) == 4
    np.testing.assert_array_equal(decode(parts, (1, 100), "gap"), matrix)


def test_an_index_of_16_bits_has_its_limit() -> None:
    row = np.ones((1, 65_535), np.int8)
    np.testing.assert_array_equal(decode(encode(row, "index"), row.shape, "index"), row)
    with pytest.raises(BookError, match="65,536 columns are more than 16 bits index"):
        encode(np.ones((1, 65_536), np.int8), "index")


def test_sizes_are_what_the_layouts_say() -> None:
    matrix = np.ones((64, 128), np.float32)
    matrix[:, ::2] = 0  # half, alternating: no fillers
    for array, bits in ((matrix, 32), (matrix.astype(np.int8), 8)):
        size = {layout: sum(part.nbytes for part in encode(array, layout).values()) for layout in LAYOUTS}
        per_position = {layout: 8 * size[layout] / array.size for layout in LAYOUTS}
        assert per_position["dense"] == bits
        assert per_position["bitmask"] == 1 + bits / 2
        assert per_position["gap"] == (4 + bits) / 2
        assert per_position["index"] == (16 + bits) / 2 + 16 / 128  # and a count a row


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_fp32_file_holds_the_model_exactly(tmp_path: Path, model: GPT, layout: str) -> None:
    back = read_sparse(write_sparse(tmp_path / "a", model, layout, "fp32"))
    assert back.config == model.config and not back.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_int8_file_holds_the_rounded_model_and_its_zeros(tmp_path: Path, model: GPT, layout: str) -> None:
    back = read_sparse(write_sparse(tmp_path / "a", model, layout, "int8")).state_dict()
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        expected = per_channel(array).round(array) if array.ndim == 2 else array
        np.testing.assert_array_equal(back[name].numpy(), expected)
        assert not back[name][tensor == 0].any()


def test_a_deployed_models_head_comes_back_too(tmp_path: Path, model: GPT) -> None:
    folded = fold_norms(deploy(model))
    back = read_sparse(write_sparse(tmp_path / "a", folded, "bitmask", "fp32"))
    assert isinstance(back, DeployedGPT)
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in folded.state_dict().items())


def test_half_the_zeros_in_a_bitmask_halve_the_blocks(tmp_path: Path, model: GPT) -> None:
    dense = megabytes(write_sparse(tmp_path / "dense", model, "dense", "fp32"))
    mask = megabytes(write_sparse(tmp_path / "mask", model, "bitmask", "fp32"))
    blocks = 12 * SHAPE.n_layer * SHAPE.n_embd**2 * 4 / 1e6
    assert dense - mask == pytest.approx(blocks * 15 / 32, abs=0.004)  # 32 bits a position become 17
    for tool, back in (("gzip", gzip.decompress), ("xz", lzma.decompress)):
        packed = compress(tmp_path / "dense", tool)
        assert megabytes(packed) < 0.75 * dense and back(packed.read_bytes()) == (tmp_path / "dense").read_bytes()


def test_bad_files_are_refused_in_a_sentence(tmp_path: Path, model: GPT) -> None:
    path = write_sparse(tmp_path / "a", model, "bitmask", "int8")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BookError, match="truncated"):
        read_sparse(path)
    with pytest.raises(BookError, match="does not exist"):
        read_sparse(tmp_path / "b")
    save_model(path, model)
    with pytest.raises(BookError, match="holds no model in a sparse layout"):
        read_sparse(path)
    path.write_bytes(whole)
    tensors, metadata = load_tensors(path)
    name = "blocks.0.attention.qkv.weight.values"
    for damaged in (tensors | {name: tensors[name][1:]}, {n: t for n, t in tensors.items() if n != name}):
        save_tensors(path, damaged, metadata)
        with pytest.raises(BookError, match="is damaged: the bitmask parts do not make a matrix of 192 x 64"):
            read_sparse(path)
    with pytest.raises(BookError, match="choose one of dense, bitmask, index, gap and one of fp32, int8"):
        write_sparse(path, model, "bitmap", "fp32")
    masked = copy.deepcopy(model)
    apply(masked, "unstructured", 0.5)
    with pytest.raises(BookError, match="still masked; call lib.prune.remove"):
        write_sparse(tmp_path / "masked", masked, "bitmask", "fp32")
    assert not (tmp_path / "masked").exists()
