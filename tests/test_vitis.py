"""The AMD route: recorded partitions, exact rewrites, eight bits in powers of two, a host that keeps VART's rules."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib import ROOT, export, train
from lib.checkpoint import CHECKPOINTS, load_shipped
from lib.corpus import Corpus
from lib.errors import BookError
from lib.evaluate import divergence
from lib.gpt import GPT, GPTConfig, generate
from lib.partition import partition
from lib.pieces import read
from lib.ptq import calibration_windows
from lib.train import Place
from lib.vitis import activation, arch, eightbit, rewrite, vart
from lib.vitis.build import Built, build, load_either
from lib.vitis.host import DPUStep, runtime
from lib.vitis.operators import DPU, Answer, ask_pyxir, has_pyxir, recorded
from lib.vitis.quantise import write_calibration

Command = Callable[..., tuple[int, str, str]]
SMALL = GPTConfig(n_layer=2, n_head=2, n_embd=32, block=16, activation="relu")
HW = ROOT / "hw" / "vitis_ai"


# ---- What the DPU takes. ----


@pytest.mark.parametrize("name", recorded())
def test_the_table_reproduces_what_pyxir_answered(name: str, tmp_path: Path) -> None:
    graph = recorded()[name]
    path = export.export_part(graph.module, torch.randn(graph.shape), tmp_path / "part.onnx", opset=13)
    cut = partition(onnx.load(path), DPU, largest_only=True)
    assert Answer(cut.layers_on_device, cut.layers, len(cut.subgraphs)) == graph.answer
    if not has_pyxir():
        with pytest.raises(BookError, match="pyxir is not installed"):
            ask_pyxir(path)


# ---- Rewrites. ----


def test_each_rewrite_changes_nothing_but_the_last_bits(random_model: Callable[..., GPT], tmp_path: Path) -> None:
    for name, places in rewrite.rewrites(random_model(SMALL)).items():
        assert len(places) >= SMALL.n_layer
        assert max(rewrite.difference(place, tmp_path) for place in places) <= 1e-5, name


@pytest.mark.parametrize("turned", [False, True])
def test_the_rewritten_model_steps_as_the_model_does(random_model: Callable[..., GPT], turned: bool) -> None:
    model = random_model(SMALL)
    image = rewrite.rewritten(rewrite.folded(model, turned))
    cache, expected_cache = image.empty_cache(), model.empty_cache()
    for place, token in enumerate([5, 96, 0, 41, 7]):
        arguments = torch.tensor([token]), torch.tensor(place)
        logits, cache = image.step(*arguments, cache)
        expected, expected_cache = model.step(*arguments, expected_cache)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_the_activation_is_learned_from_the_model_itself(
    small_corpus: Corpus, random_model: Callable[..., GPT], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """ReLU in the place of GELU costs something; a few steps towards the model's own probabilities win some back."""
    shape = GPTConfig(n_layer=1, n_head=2, n_embd=32, block=16)
    monkeypatch.setitem(train.CONFIGS, "tiny", shape)
    teacher = random_model(shape)
    config = activation.ActivationConfig("tiny", 30, 8, lr=3e-3, warmup=1, eval_every=30, eval_chars=200, bf16="off")
    tokens = torch.from_numpy(small_corpus.val[:160].astype(np.int64)).view(10, 16)

    def distance(model: GPT) -> float:
        with torch.no_grad():
            return float(
                torch.nn.functional.kl_div(
                    model(tokens).log_softmax(2), teacher(tokens).log_softmax(2), log_target=True, reduction="batchmean"
                )
            )

    swapped = activation.with_activation(teacher, "relu")
    trained = activation.fine_tune(config, small_corpus, tmp_path / "out", teacher, progress=False)
    assert trained.config.activation == "relu" and 0 < distance(trained) < 0.7 * distance(swapped)
    with pytest.raises(BookError, match="choose one of gelu, relu"):
        activation.ActivationConfig("tiny", activation="tanh")


def test_the_shipped_models_have_relu() -> None:
    model, card = load_shipped("pocket_relu")
    assert model.config.activation == "relu" and card["model"]["activation"] == "relu"
    eight, card = eightbit.load_shipped_eightbit()
    assert eight.config == model.config and card["training"]["student"] == "pocket_relu"
    with pytest.raises(BookError, match="no model trained for the DPU"):
        eightbit.load_eightbit(CHECKPOINTS / "pocket_relu.safetensors")


# ---- Training under the DPU's integers. ----


@given(st.floats(1e-3, 1e3), st.integers(0, 2**31))
def test_the_point_is_the_one_of_least_error(scale: float, seed: int) -> None:
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal(200).astype(np.float32) * np.float32(scale))
    point = eightbit.best_point(x)

    def error(point: int) -> float:
        step = 2.0**-point
        return float(((np.clip(np.rint(x.numpy() / step), -128, 127) * step - x.numpy()) ** 2).mean())

    assert error(point) <= min(error(other) for other in range(point - 4, point + 3)) * (1 + 1e-5)


def test_training_under_the_integers_resumes_and_pays(
    small_corpus: Corpus, random_model: Callable[..., GPT], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A few steps bring the rounded model nearer to its teacher; the released model computes as the student."""
    shape = GPTConfig(n_layer=1, n_head=2, n_embd=32, block=16)
    monkeypatch.setitem(train.CONFIGS, "tiny", shape)
    teacher = random_model(shape)
    student = activation.with_activation(teacher, "relu")
    config = eightbit.EightbitConfig("tiny", 20, 8, lr=1e-3, warmup=1, weight_decay=0.0, eval_every=20, eval_chars=200)
    windows = calibration_windows(small_corpus, config.calibration, 16, config.seed)
    start = rewrite.folded(student, turned=True)
    rounded = eightbit.fixed(start, windows)
    points = [module.point for module in rounded.modules() if isinstance(module, eightbit.Fix)]
    assert len(points) == 1 + 2 + (4 + 4 + 3 + 4) + 4 and None not in points  # each was used
    tokens = torch.from_numpy(small_corpus.val[:160].astype(np.int64)).view(10, 16)
    with torch.no_grad():
        torch.testing.assert_close(eightbit.released(rounded)(tokens), start(tokens))
        assert 0.005 < (rounded(tokens) - start(tokens)).abs().max() < 1.0
    trained, trainer = eightbit.train(config, small_corpus, tmp_path / "out", teacher, student, progress=False)

    def distance(model: GPT) -> float:
        with torch.no_grad():
            return divergence(teacher(tokens).numpy(), model(tokens).numpy())

    assert distance(trainer.model.eval()) < 0.7 * distance(rounded) and distance(trained) < 0.7 * distance(start)
    again = eightbit.EightbitTrainer(config, small_corpus, Place(0, 1, torch.device("cpu")), teacher, student)
    with torch.no_grad():
        assert torch.equal(again.model.eval()(tokens), rounded(tokens))
    again.load_state(tmp_path / "out" / "state.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(again.model.eval()(tokens), trainer.model(tokens))


# ---- Eight bits, pieces, and the host. ----


@pytest.fixture(scope="module")
def built(random_model: Callable[..., GPT], small_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Built:
    windows = calibration_windows(small_corpus, 2, SMALL.block)
    return build(rewrite.folded(random_model(SMALL), turned=True), windows, tmp_path_factory.mktemp("dpu"), every=4)


def test_a_block_has_three_subgraphs_and_six_crossings(built: Built) -> None:
    """Everything of the feed-forward and the projections is on the DPU: 2 + 3 + 6 layers a block, and the head."""
    assert len(built.partition.subgraphs) == 3 * SMALL.n_layer + 1
    assert built.partition.crossings == 6 * SMALL.n_layer + 2
    kinds = [[layer.kind for layer in segment.layers] for segment in built.partition.subgraphs]
    qkv, out = ["Convolution", "BiasAdd"], ["Convolution", "BiasAdd", "Eltwise"]
    feed_forward = ["Convolution", "BiasAdd", "ReLU", *out]
    assert kinds == [qkv, out, feed_forward] * SMALL.n_layer + [qkv]


def test_every_scale_is_a_power_of_two_and_every_integer_signed(built: Built) -> None:
    values = export.constants(onnx.load(built.quantised))
    nodes = [n for n in onnx.load(built.quantised).graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    scales = np.array([values[node.input[1]] for node in nodes])
    assert len(nodes) > 30 and (np.exp2(np.rint(np.log2(scales))) == scales).all()
    assert all(values[node.input[2]].dtype == np.int8 and not values[node.input[2]].any() for node in nodes)


def test_the_host_writes_what_the_whole_graph_writes(built: Built) -> None:
    host = DPUStep(built.folder, "cpu")
    whole = export.OnnxStep(built.quantised)
    tokens = np.random.default_rng(0).integers(0, SMALL.vocab, (2, SMALL.block))
    np.testing.assert_array_equal(export.step_logits(host)(tokens), export.step_logits(whole)(tokens))
    assert list(generate(host, [1, 2, 3], 60)) == list(generate(whole, [1, 2, 3], 60))  # past refills
    assert host.runtime == "CPU stand-in for VART"


def test_another_model_in_the_folder_leaves_nothing_of_the_first(
    random_model: Callable[..., GPT], small_corpus: Corpus, tmp_path: Path
) -> None:
    """Least of all what was compiled from it, which no manifest holds against its piece."""
    tiny = GPTConfig(n_layer=1, n_head=2, n_embd=32, block=16, activation="relu")
    for config, windows in ((SMALL, 2), (tiny, 1)):
        model = rewrite.folded(random_model(config), turned=True)
        found = build(model, calibration_windows(small_corpus, windows, 16), tmp_path, every=8)
        for piece in tmp_path.glob("*_dpu.onnx"):
            for kind in (".xir", ".xmodel"):  # stands for the compiler
                if config is SMALL:
                    piece.with_suffix(kind).touch()
    assert not list(tmp_path.glob("*.xir")) + list(tmp_path.glob("*.xmodel"))
    assert sorted(p.stem for p in tmp_path.glob("[0-9]*.onnx")) == sorted(piece.name for piece in read(tmp_path)[0])
    assert sorted((tmp_path / "calibration").iterdir()) == sorted(found.files)


def test_build_reads_either_kind_of_checkpoint() -> None:
    for name in ("pocket_relu", "pocket_dpu"):
        assert load_either(CHECKPOINTS / f"{name}.safetensors").config.activation == "relu"


def test_eightbit_refuses_a_student_that_is_not_the_teacher_with_relu(command: Command, tmp_path: Path) -> None:
    code, _, told = command(eightbit.main, "--student", "pocket", "--source", "builtin", "--out", tmp_path)
    assert code == 2 and "the student pocket is not pocket with ReLU; name one that is by --student" in told


def test_the_calibration_set_is_files(random_model: Callable[..., GPT], tmp_path: Path) -> None:
    """Every window is sampled at other positions, and none at position 0 more often than at any other."""
    image = rewrite.rewritten(random_model(SMALL))
    files = write_calibration(image, np.arange(32).reshape(2, 16), 8, tmp_path)
    assert [file.name for file in files] == ["000_000.npz", "000_008.npz", "001_007.npz", "001_015.npz"]
    with np.load(files[1]) as feed:
        assert feed["token"] == [8] and feed["position"] == 8
        assert np.any(feed["cache"][..., :8, :] != 0) and not feed["cache"][..., 8:, :].any()
    with pytest.raises(BookError, match="calibration set is empty"):
        write_calibration(image, np.empty((0, 16), np.int64), 8, tmp_path)


def test_the_stand_in_keeps_the_rules_of_vart(built: Built) -> None:
    piece = next(piece for piece in read(built.folder)[0] if piece.device == "DPU")
    graph = vart.Graph.deserialize(str(built.folder / f"{piece.name}.xmodel"))
    root = graph.get_root_subgraph()
    with pytest.raises(BookError, match="not the graph's root"):
        vart.Runner.create_runner(root, "run")
    runner = vart.Runner.create_runner(root.toposort_child_subgraph()[0], "run")
    (taken,), (given,) = runner.get_input_tensors(), runner.get_output_tensors()
    assert taken.dims == [1, 1, 1, 32] and given.dims == [1, 1, 1, 96] and isinstance(taken.get_attr("fix_point"), int)
    buffers = [np.ones(taken.dims, np.int8)], [np.zeros(given.dims, np.int8)]
    for wrong in (
        (buffers[0] * 2, buffers[1]),
        ([buffers[0][0].astype(np.float32)], buffers[1]),
        ([buffers[0][0].reshape(1, 32, 1, 1)], buffers[1]),
        ([np.ones((1, 1, 1, 64), np.int8)[..., ::2]], buffers[1]),
    ):
        with pytest.raises(BookError):
            runner.execute_async(*wrong)
    job = runner.execute_async(*buffers)
    assert not buffers[1][0].any()  # nothing is there before it is waited for
    with pytest.raises(BookError, match="still running"):
        runner.execute_async(*buffers)
    assert runner.wait(job) == 0 and buffers[1][0].any()
    with pytest.raises(BookError, match="not running"):
        runner.wait(job)


def test_folders_and_runners_that_cannot_be_believed(built: Built, tmp_path: Path) -> None:
    with pytest.raises(BookError, match="another configuration"):
        DPUStep(built.folder, "cpu", config=GPTConfig(n_layer=1, n_head=2, n_embd=32, block=16))
    with pytest.raises(BookError, match="choose one of auto, vart, cpu"):
        runtime("dpu")
    if importlib.util.find_spec("vart") is None:
        with pytest.raises(BookError, match="xir and vart cannot be imported"):
            runtime("vart")
    with pytest.raises(BookError, match="does not exist"):
        DPUStep(tmp_path, "cpu")
    for foreign in ("[]", '{"made by": "lib.acap.codegen", "files": {}}'):
        (tmp_path / "manifest.json").write_text(foreign)
        with pytest.raises(BookError, match="is no manifest of a model's pieces; build"):
            DPUStep(tmp_path, "cpu")
    for file in built.folder.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    points = manifest["pieces"][1]["points"]
    points[next(iter(points))] += 1
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BookError, match="01_dpu.onnx scales .* another model's file"):
        DPUStep(tmp_path, "cpu")
    (tmp_path / "01_dpu.onnx").write_bytes((tmp_path / "07_dpu.onnx").read_bytes())
    with pytest.raises(BookError, match="01_dpu.onnx is missing, or is not the file"):
        DPUStep(tmp_path, "cpu")


# ---- Programs. ----


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"fingerprint": "0x101000056010407"}, None),
        ({"fingerprint": "0X0101000056010407"}, None),
        ({"target": "DPUCZDX8G_ISA1_B4096"}, None),
        ({"fingerprint": "0x101000016010407"}, "of the DPU 0x101000016010407"),
        ({"target": "DPUCVDX8G_ISA3_C32B3"}, "of the DPU DPUCVDX8G"),
        ({"name": "DPU"}, "neither a target nor a fingerprint"),
    ],
)
def test_the_arch_json_is_this_dpu_s(content: dict[str, str], says: str | None, tmp_path: Path) -> None:
    path = tmp_path / "arch.json"
    path.write_text(json.dumps(content))
    if says is None:
        assert arch.check_arch(path)
    else:
        with pytest.raises(BookError, match=says):
            arch.check_arch(path)


def run(*command: Any, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, **variables}
    return subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment)


def refused(done: subprocess.CompletedProcess[str], says: str) -> None:
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_run_vart_writes_text_and_refuses_in_a_sentence(built: Built) -> None:
    program = [sys.executable, HW / "run_vart.py", "--model"]
    done = run(*program, built.folder, "--prompt", "Once", "--length", "20")
    assert done.returncode == 0 and done.stdout.startswith("Once") and len(done.stdout) >= 25
    assert "CPU stand-in for VART: 31 steps" in done.stderr and "14 crossings" in done.stderr
    refused(run(*program, built.folder, "--prompt", "Zoë"), "'ë'")
    refused(run(*program, built.folder, "--runner", "gpu"), "choose one of auto, vart, cpu")
    refused(run(*program, "/nowhere"), "does not exist")


def test_the_scripts_say_what_they_lack(built: Built, tmp_path: Path) -> None:
    good, bad = tmp_path / "arch.json", tmp_path / "other.json"
    good.write_text('{"target": "DPUCZDX8G_ISA1_B4096"}')
    bad.write_text('{"target": "DPUCAHX8H"}')
    refused(run(HW / "compile.sh", tmp_path), "holds no pieces")
    refused(run(HW / "compile.sh", built.folder, bad), "DPUCAHX8H")
    done = run(HW / "compile.sh", built.folder, good)
    assert done.returncode == 2 and "vai_c_xir is not installed" in done.stderr
    refused(run(HW / "deploy.sh", "root@127.0.0.1", built.folder), "is not compiled")
    compiled = [piece.with_suffix(".xmodel") for piece in sorted(built.folder.glob("*_dpu.onnx"))]
    for xmodel in compiled[1:]:
        xmodel.touch()
    refused(run(HW / "deploy.sh", "root@127.0.0.1", built.folder), "is not compiled")  # stopped midway
    compiled[0].touch()
    answer = run(HW / "deploy.sh", "root@127.0.0.1", built.folder)
    for xmodel in compiled:
        xmodel.unlink()
    refused(answer, "does not answer" if "ssh is not installed" not in answer.stderr else "ssh is not installed")


class Recorder:
    """Takes the calls that ``to_xmodel.py`` makes to ``xir.Graph``, and says what was made of what."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str, dict[str, Any], dict[str, list[str]]]] = []

    def create_op(self, name: str, kind: str, attributes: dict[str, Any], inputs: dict[str, list[str]]) -> str:
        known = {made[0] for made in self.made}
        assert name not in known and all(op in known for ops in inputs.values() for op in ops)
        self.made.append((name, kind, attributes, inputs))
        return name

    def create_const_op(self, name: str, value: np.ndarray) -> str:
        return self.create_op(name, "const", {"shape": value.shape, "value": value}, {})


def lowered(path: Path) -> tuple[Any, Recorder]:
    """Take a piece through ``to_xmodel.py``: the program, and what it recorded."""
    spec = importlib.util.spec_from_file_location("to_xmodel", HW / "to_xmodel.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    recorder = Recorder()
    program.Lowering(onnx.load(path), recorder).lower()
    return program, recorder


def computed(made: list, x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run recorded XIR operators in NumPy, NHWC, on what ``data`` gives."""
    results: dict[str, np.ndarray] = {}
    for name, kind, attributes, inputs in made:
        taken = {role: [results[op] for op in ops] for role, ops in inputs.items()}
        if kind == "data":
            assert tuple(attributes["shape"]) == x[name].shape
            results[name] = x[name]
        elif kind == "const":
            results[name] = attributes["value"].astype(np.float64)
        elif kind == "fix":
            step = 2.0 ** -attributes["fix_point"]
            results[name] = np.clip(np.rint(taken["input"][0] / step), -128, 127) * step
        elif kind == "conv2d":
            weights, bias = taken["weights"][0], taken["bias"][0]  # OHWI, O
            results[name] = np.einsum("nhwi,oi->nhwo", taken["input"][0], weights[:, 0, 0]) + bias
        elif kind == "relu":
            results[name] = np.maximum(taken["input"][0], 0)
        else:
            results[name] = sum(taken["input"])
    return results


def test_the_lowering_to_xir_makes_the_piece(built: Built) -> None:
    """A feed-forward piece: two convolutions in NHWC, a ReLU, an add, and a fix behind all that has a scale."""
    model = onnx.load(built.folder / "05_dpu.onnx")
    program, recorder = lowered(built.folder / "05_dpu.onnx")
    kinds = [kind for _, kind, _, _ in recorder.made]
    assert {k: kinds.count(k) for k in ("data", "conv2d", "relu", "add", "const")} == {
        "data": 2, "conv2d": 2, "relu": 1, "add": 1, "const": 4,
    }  # fmt: skip
    quantised = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert kinds.count("fix") == 2 + 4 + len(quantised)
    weights = [a["shape"] for _, kind, a, _ in recorder.made if kind == "const" and len(a["shape"]) == 4]
    assert sorted(weights) == [(32, 1, 1, 128), (128, 1, 1, 32)]  # OHWI
    assert recorder.made[-1][0] == program.xir_name(model.graph.output[0].name) + "_fix"
    assert all(re.fullmatch("[0-9A-Za-z_]+", name) for name, _, _, _ in recorder.made)
    assert all(a["bit_width"] == 8 and a["if_signed"] for _, kind, a, _ in recorder.made if kind == "fix")


@pytest.mark.parametrize("name", ["01_dpu", "05_dpu"])
def test_the_lowered_piece_computes_what_its_onnx_file_does(built: Built, name: str) -> None:
    path = built.folder / f"{name}.onnx"
    program, recorder = lowered(path)
    points = next(piece for piece in read(built.folder)[0] if piece.name == name).points
    rng, runner = np.random.default_rng(0), vart.Runner.create_runner(vart.Subgraph(path, []), "run")
    taken = [rng.integers(-128, 128, t.dims, dtype=np.int8) for t in runner.get_input_tensors()]
    given = [np.zeros(t.dims, np.int8) for t in runner.get_output_tensors()]
    runner.wait(runner.execute_async(taken, given))
    x = {program.xir_name(t.name): a * 2.0 ** -points[t.name] for t, a in zip(runner.get_input_tensors(), taken)}
    found = computed(recorder.made, x)
    for tensor, codes in zip(runner.get_output_tensors(), given):
        mine = found[program.xir_name(tensor.name) + "_fix"] * 2.0 ** points[tensor.name]
        assert len(np.unique(codes)) > 20 and np.array_equal(mine, codes)
