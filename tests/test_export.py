"""What leaves PyTorch computes the same, and what must not be believed is refused in a sentence."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Callable

import numpy as np
import onnx
import pytest
import torch
from torch.nn.utils import prune

from lib import export
from lib.errors import BookError
from lib.evaluate import torch_logits, torch_step_logits
from lib.gpt import GPT, GPTConfig, generate

SMALL = GPTConfig(n_layer=2, n_head=2, n_embd=32, block=16)
RNG = np.random.default_rng


@pytest.fixture(scope="module")
def model(random_model: Callable[..., GPT]) -> GPT:
    return random_model(SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: GPT) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    export.export_prefill(model, folder / "prefill.onnx", batch=3)
    export.export_step(model, folder / "step.onnx")
    return folder


def test_prefill_in_any_number_of_windows_and_of_any_length(model: GPT, folder: Path) -> None:
    route = export.onnx_logits(folder / "prefill.onnx", config=SMALL)
    for count, length in ((1, 16), (3, 16), (7, 16), (4, 5), (1, 1)):
        tokens = RNG(0).integers(0, SMALL.vocab, (count, length))
        np.testing.assert_allclose(route(tokens), torch_logits(model)(tokens), atol=1e-5)
    with pytest.raises(BookError, match="windows of 16 characters, not 17"):
        route(RNG(0).integers(0, SMALL.vocab, (1, 17)))


def test_the_step_graph_scores_and_writes_as_the_model(model: GPT, folder: Path) -> None:
    tokens = RNG(0).integers(0, SMALL.vocab, (2, 16))
    route = export.onnx_step_logits(folder / "step.onnx")
    np.testing.assert_allclose(route(tokens), torch_step_logits(model)(tokens), atol=1e-5)
    stepper = export.OnnxStep(folder / "step.onnx")
    assert stepper.config == SMALL
    assert list(generate(stepper, [1, 2, 3], 60)) == list(generate(model, [1, 2, 3], 60))  # past four refills


def test_dynamo_writes_one_file_that_computes_the_same(model: GPT, tmp_path: Path) -> None:
    path = export.export_prefill(model, tmp_path / "dynamo.onnx", opset=20, dynamo=True, batch=1)
    assert [file.name for file in tmp_path.iterdir()] == ["dynamo.onnx"]
    saved, signature = export.load_onnx(path)
    assert saved.opset_import[0].version == 20 and (signature.batch, signature.time) == (1, 16)
    tokens = RNG(1).integers(0, SMALL.vocab, (2, 16))
    np.testing.assert_allclose(export.onnx_logits(path)(tokens), torch_logits(model)(tokens), atol=1e-5)


def test_a_model_in_training_is_written_as_it_predicts(tmp_path: Path) -> None:
    model = GPT(dataclasses.replace(SMALL, dropout=0.5)).train()
    export.export_prefill(model, tmp_path / "x.onnx", batch=1)
    assert not model.training


def test_every_shape_is_static(folder: Path) -> None:
    for file in folder.glob("*.onnx"):
        saved, _ = export.load_onnx(file)
        counts = export.node_counts(saved)
        assert counts["MatMul"] == 2 * 6 + 1 and counts["LayerNormalization"] == 5
        assert not counts.keys() & {"Shape", "Constant"}
        for value in saved.graph.value_info:
            assert all(d.HasField("dim_value") for d in value.type.tensor_type.shape.dim), value.name


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(folder: Path, tmp_path: Path, share: float) -> None:
    whole = (folder / "prefill.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BookError, match="truncated"):
        export.load_onnx(tmp_path / "cut.onnx")


def test_missing_external_data_is_refused_and_present_data_read(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "apart.onnx"
    onnx.save(onnx.load(folder / "prefill.onnx"), path, save_as_external_data=True, location="apart.data")
    export.load_onnx(path)
    data = (tmp_path / "apart.data").read_bytes()
    (tmp_path / "apart.data").write_bytes(data[:-8])
    with pytest.raises(BookError, match="cut short"):
        export.load_onnx(path)
    (tmp_path / "apart.data").unlink()
    with pytest.raises(BookError, match="apart.data, which is missing"):
        export.load_onnx(path)


def test_the_wrong_file_is_refused(folder: Path, tmp_path: Path) -> None:
    prefill, step = folder / "prefill.onnx", folder / "step.onnx"
    with pytest.raises(BookError, match="does not exist"):
        export.load_onnx(tmp_path / "none.onnx")
    with pytest.raises(BookError, match="opset 17 and this route takes 18 to 20"):
        export.load_onnx(prefill, opsets=range(18, 21))
    with pytest.raises(BookError, match="another model: 97 symbols"):
        export.load_onnx(prefill, GPTConfig(2, 2, 32, 16, vocab=65))
    with pytest.raises(BookError, match="step graph"):
        export.onnx_logits(step)
    with pytest.raises(BookError, match="prefill graph"):
        export.OnnxStep(prefill)
    renamed = onnx.load(prefill)
    renamed.graph.output[0].name = renamed.graph.node[-1].output[0] = "classes"
    onnx.save(renamed, tmp_path / "other.onnx")
    with pytest.raises(BookError, match="another model: it maps tokens to classes"):
        export.load_onnx(tmp_path / "other.onnx")
    open_batch = onnx.load(prefill)
    open_batch.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    del open_batch.graph.value_info[:]
    onnx.save(open_batch, tmp_path / "open.onnx")
    with pytest.raises(BookError, match="static shapes|rules of ONNX"):
        export.load_onnx(tmp_path / "open.onnx")


def test_what_cannot_be_exported_is_refused(random_model: Callable[..., GPT], tmp_path: Path) -> None:
    model = random_model(SMALL)
    with pytest.raises(BookError, match="dynamo exporter writes opsets 18"):
        export.export_prefill(model, tmp_path / "x.onnx", opset=17, dynamo=True)
    with pytest.raises(BookError, match="window of 17 characters is longer than the model's block; give 16"):
        export.export_prefill(model, tmp_path / "x.onnx", time=17)
    for empty in ({"batch": 0}, {"time": 0}):
        with pytest.raises(BookError, match="give 1 or more of each"):
            export.export_prefill(model, tmp_path / "x.onnx", **empty)
    with pytest.raises(BookError, match="away from the model's"):
        export.export_prefill(model, tmp_path / "x.onnx", tolerance=-1.0)
    prune.l1_unstructured(model.blocks[0].feed_forward.up, "weight", 0.5)
    with pytest.raises(BookError, match="still masked; call lib.prune.remove"):
        export.export_prefill(model, tmp_path / "x.onnx")
    prune.remove(model.blocks[0].feed_forward.up, "weight")
    export.export_prefill(model, tmp_path / "x.onnx", batch=1)
    assert torch.count_nonzero(model.blocks[0].feed_forward.up.weight) == 32 * 128 // 2
