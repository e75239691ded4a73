"""The Intel route on the CPU: an IR computes the model, in one pass and step by step, and what is wrong is refused."""

from __future__ import annotations

import dataclasses
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable

import numpy as np
import onnx
import openvino as ov
import pytest
import torch

from lib import ROOT, ptq
from lib.corpus import load_builtin
from lib.errors import BookError
from lib.evaluate import agreement, torch_logits
from lib.export import OnnxStep, constants, export_prefill, export_step, load_onnx, onnx_step_logits, step_logits
from lib.gpt import CONFIGS, GPT, GPTConfig, generate
from lib.intel import convert, devices, measure, suite
from lib.intel.convert import from_onnx, from_torch, load_ir, save_ir
from lib.intel.quantise import quantise
from lib.intel.run import Feeder, OpenVINOStep, StatefulStep, kernels, openvino_logits
from lib.intel.stateful import make_stateful
from lib.offload import roofline_seconds
from lib.partition import partition
from lib.ptq.best import quantise_step
from lib.text import decode, encode_prompt

NANO = CONFIGS["nano"]
PROMPT, LENGTH = [40, 1, 2], 3 * NANO.block  # past four refills
PROGRAM = ROOT / "hw" / "openvino" / "run_openvino.py"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(random_model: Callable[..., GPT]) -> GPT:
    return random_model(NANO)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: GPT) -> Path:
    """Hold the model's ONNX files and IRs: ``prefill``, ``step`` and ``stateful``."""
    folder = tmp_path_factory.mktemp("intel")
    export_prefill(model, folder / "prefill.onnx", batch=2)
    export_step(model, folder / "step.onnx")
    for name in ("prefill", "step"):
        save_ir(from_onnx(folder / f"{name}.onnx", NANO), folder / f"{name}.xml", NANO, f"{name}.onnx")
    save_ir(make_stateful(from_onnx(folder / "step.onnx", NANO)), folder / "stateful.xml", NANO, "step.onnx")
    return folder


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    return ptq.calibration_windows(load_builtin(), 8, NANO.block)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy of the step IR, to damage."""
    for file in folder.glob("step.*"):
        shutil.copy(file, tmp_path)
    return tmp_path / "step.xml"


# ---- It computes the model. ----


def error(route: Callable[[np.ndarray], np.ndarray], model: GPT, tokens: np.ndarray) -> float:
    return float(np.abs(route(tokens) - torch_logits(model)(tokens)).max())


def test_the_full_pass_is_the_model_in_f32_and_further_off_in_bf16(
    model: GPT, folder: Path, windows: np.ndarray
) -> None:
    path = folder / "prefill.xml"
    assert error(openvino_logits(path, config=NANO), model, windows[:3]) < 1e-4
    assert error(openvino_logits(path), model, windows[:1, :5]) < 1e-4  # a shorter window
    save_ir(from_torch(model), folder / "torch.xml", NANO, "torch")
    assert error(openvino_logits(folder / "torch.xml"), model, windows[:2]) < 1e-4
    if "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert error(openvino_logits(path, precision="bf16"), model, windows[:3]) > 1e-3


def test_steps_equal_the_full_pass_with_the_cache_outside_and_inside(
    model: GPT, folder: Path, windows: np.ndarray
) -> None:
    for name, kind in (("step", OpenVINOStep), ("stateful", StatefulStep)):
        route = step_logits(kind(folder / f"{name}.xml"))
        assert error(route, model, windows[:2]) < 1e-4, name  # two windows: the cache is emptied in between


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("kind", [OpenVINOStep, StatefulStep])
def test_it_writes_as_the_model_past_refills(kind: type, asynchronous: bool, model: GPT, folder: Path) -> None:
    stepper = kind(folder / f"{kind.kind}.xml", asynchronous=asynchronous)
    assert stepper.config == NANO
    for _ in range(2):  # the second text starts from an empty cache
        assert list(generate(stepper, PROMPT, LENGTH)) == list(generate(model, PROMPT, LENGTH))


def test_a_signal_after_models_are_gone_is_only_a_signal(folder: Path) -> None:
    """In a process of its own, since the fault ends it: open two models, delete them, and raise SIGINT."""
    program = (
        "import signal, sys\n"
        "from lib.intel.run import OpenVINOStep\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job inherits SIGINT ignored
        "first, second = OpenVINOStep(sys.argv[1]), OpenVINOStep(sys.argv[1])\n"
        "del first\n"
        "del second\n"
        "try:\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    command = [sys.executable, "-c", program, folder / "step.xml"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100)
    assert (finished.returncode, finished.stdout) == (0, "interrupted\n"), finished.stderr


def test_what_a_feeder_returned_stays_and_a_cache_of_another_run_is_refused(folder: Path) -> None:
    stepper = OpenVINOStep(folder / "step.xml")
    feeder = Feeder(stepper)
    first = feeder.feed(1)
    kept = first.copy()
    feeder.feed(2)
    feeder.reset()
    assert np.array_equal(first, kept) and np.array_equal(feeder.feed(1), kept)
    with pytest.raises(BookError, match="cache is of another run"):
        stepper.step(torch.tensor([1]), torch.tensor(0), torch.zeros(convert.cache_shape(NANO, 1)))


def test_the_step_graph_of_the_best_recipe_has_the_integers_of_its_full_pass(
    model: GPT, windows: np.ndarray, tmp_path: Path
) -> None:
    full = ptq.quantise("best", model, windows, tmp_path)
    step = quantise_step(model, windows, tmp_path / "step.onnx")
    by_window, by_token = full.logits(windows[:2]), onnx_step_logits(step)(windows[:2])
    assert np.abs(by_window - by_token).mean() < 1e-3 and agreement(by_window, by_token) > 0.99
    weights = [
        {t.raw_data for t in load_onnx(file)[0].graph.initializer if t.data_type == onnx.TensorProto.INT8}
        for file in (full.file, step)
    ]
    assert weights[0] == weights[1]
    assert len(list(generate(OnnxStep(step), PROMPT, LENGTH))) == LENGTH
    assert sorted(tmp_path.iterdir()) == [full.file, step]  # no scratch left behind
    save_ir(from_onnx(step, NANO), tmp_path / "step.xml", NANO, "step.onnx")
    assert load_ir(tmp_path / "step.xml")[1].precision == "int8"
    linears = {kind for kernel, kind in kernels(tmp_path / "step.xml") if kernel == "FullyConnected"}
    assert linears and linears <= {"u8", "i8"}  # each on integers
    assert agreement(by_window, step_logits(OpenVINOStep(tmp_path / "step.xml"))(windows[:2])) > 0.95


def test_the_card_says_what_the_weights_are_stored_in(model: GPT, folder: Path, windows: np.ndarray) -> None:
    prefill = from_onnx(folder / "prefill.onnx", NANO)
    save_ir(prefill, folder / "fp16.xml", NANO, "prefill.onnx", compress_to_fp16=True)
    save_ir(quantise(prefill, windows), folder / "nncf.xml", NANO, "nncf")
    found = {name: load_ir(folder / f"{name}.xml", NANO)[1].precision for name in ("prefill", "fp16", "nncf")}
    assert found == {"prefill": "fp32", "fp16": "fp16", "nncf": "int8"}
    errors = {name: error(openvino_logits(folder / f"{name}.xml"), model, windows[:2]) for name in found}
    assert errors["prefill"] < errors["fp16"] < errors["nncf"]


# ---- Targets. ----


def test_the_cpu_takes_every_operation(folder: Path) -> None:
    for name in ("prefill", "step", "stateful"):
        step = load_ir(folder / f"{name}.xml")[0]
        for device in ("CPU", "HETERO:CPU"):
            counts = devices.placed_types(step, device)
            assert {where for _, where in counts} == {"CPU"} and sum(counts.values()) == len(step.get_ops())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("TPU", "'TPU' is unknown; choose one of CPU, GPU, NPU, FPGA"),
        ("HETERO:CPU,ABACUS", "'ABACUS' is unknown"),
        ("HETERO", "combines devices and names none"),
        ("CPU:GPU", "'CPU:GPU' is unknown"),
        ("FPGA", "FPGA is not on this machine, where OpenVINO finds .*CPU.*; .*FPGA AI Suite .*coreDLARuntimePlugin"),
        ("HETERO:FPGA,CPU", "FPGA is not on this machine"),
    ],
)
def test_an_unknown_or_absent_device_is_refused(name: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(devices.PLUGINS, raising=False)
    with pytest.raises(BookError, match=sentence):
        devices.check_device(name)


def test_a_plugins_file_reaches_openvino(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.PLUGINS, str(tmp_path / "plugins.xml"))
    with pytest.raises(BookError, match="plugins.xml, which does not exist"):
        devices.open_core()
    (tmp_path / "plugins.xml").write_text("no plugins")
    with pytest.raises(BookError, match="which is no plugins file"):
        devices.open_core()
    library = next(Path(ov.__file__).parent.glob("libs/*openvino_intel_cpu_plugin*"), None)
    if library is None:
        pytest.skip("this openvino keeps its CPU plugin elsewhere")

    def register(name: str, location: object) -> None:
        plugin = f'<plugin name="{name}" location="{location}"></plugin>'
        (tmp_path / "plugins.xml").write_text(f"<ie><plugins>{plugin}</plugins></ie>")

    register("FPGA", tmp_path / "absent.so")
    with pytest.raises(BookError, match="plugins.xml should name for FPGA does not load .*absent.so"):
        devices.check_device("HETERO:FPGA,CPU")
    # OpenVINO takes a library for its own kind of device only, so the CPU's stands in for the suite's as a second CPU.
    register("SECONDCPU", library)
    monkeypatch.setitem(devices.DEVICES, "SECONDCPU", "a stand-in")
    step, _ = load_ir(folder / "step.xml")
    assert set(devices.placement(step, "HETERO:SECONDCPU,CPU").values()) == {"SECONDCPU"}


def test_a_precision_or_threads_that_the_cpu_lacks_are_refused(folder: Path) -> None:
    with pytest.raises(BookError, match="does not compute in 'i4'"):
        OpenVINOStep(folder / "step.xml", precision="i4")
    with pytest.raises(BookError, match="0 threads"):
        OpenVINOStep(folder / "step.xml", threads=0)


def test_openvino_measures_a_step(folder: Path, tmp_path: Path) -> None:
    found = measure.benchmark(folder / "step.xml", seconds=1)
    assert 0 < found.least_ms <= found.median_ms <= found.most_ms and found.iterations > 10
    assert found.per_second == pytest.approx(1000 / found.mean_ms, rel=0.5)
    (tmp_path / "report.json").write_text('{"execution_results": {"latency (ms)": "1"}}')
    with pytest.raises(BookError, match="holds no 'avg latency'"):
        measure.parse_report(tmp_path / "report.json")
    report = {
        "latency (ms)": "2", "avg latency": "3", "min latency": "1", "max latency": "9",
        "throughput": "400", "total number of iterations": "50",
    }  # fmt: skip
    (tmp_path / "report.json").write_text(json.dumps({"execution_results": report}))
    assert measure.parse_report(tmp_path / "report.json") == measure.Benchmark(2, 3, 1, 9, 400, 50)


def test_the_suites_tables_take_linears_and_softmax_and_not_attention(folder: Path) -> None:
    taken = {v.operator: v.layer for v in suite.assess(load_onnx(folder / "step.onnx")[0])}
    assert taken["MatMul by a constant"].name == "Fully connected" and "4096" in taken["Softmax"].limits
    assert taken["Add of a constant"].name == "Scale-shift"
    assert taken["MatMul of two activations"] is taken["LayerNormalization"] is taken["Gather"] is None
    assert taken["Add of two activations"] is None


def test_a_partition_agrees_with_the_tables_and_assumed_adds_move_over(folder: Path) -> None:
    step = load_onnx(folder / "step.onnx")[0]
    cuts = [partition(step, suite.operators(with_add)) for with_add in (False, True)]
    taken = sum(v.nodes for v in suite.assess(step) if v.layer)
    residual = 1 + 2 * NANO.n_layer  # token and position, and two in each block
    assert [cut.layers_on_device for cut in cuts] == [taken, taken + residual]
    linears = {
        n for n, node in enumerate(step.graph.node) if suite.operator(node, constants(step)) == "MatMul by a constant"
    }
    assert len(linears) == 4 * NANO.n_layer + 1
    assert all(cuts[0].devices()[number] == "FPGA" for number in linears)
    sources = [suite.operators(with_add).source for with_add in (False, True)]
    assert "assumed" not in sources[0] and sources[1].endswith("assumed: Add of two activations")


def test_the_arria_10_reads_two_bytes_a_weight_and_says_where_its_figures_are_from() -> None:
    overlay = suite.arria10(cpu_macs_per_s=1e9)
    assert set(overlay.sources) == {field.name for field in dataclasses.fields(overlay)} - {"name", "sources"}
    assert roofline_seconds(overlay, NANO, weights=17_100_000) == pytest.approx(2e-3)  # 34.2 MB at 17.1 GB/s
    assert roofline_seconds(overlay, NANO, 0) == pytest.approx(2 * 2 * 128 * 64 / (2 * 1162 * 280e6))


# ---- What is refused, in one sentence. ----


def test_a_damaged_or_foreign_ir_is_refused(
    copied: Path, folder: Path, random_model: Callable[..., GPT], tmp_path: Path
) -> None:
    weights = copied.with_suffix(".bin").read_bytes()
    with pytest.raises(BookError, match="holds another model"):
        load_ir(copied, CONFIGS["pocket"])
    copied.with_suffix(".bin").write_bytes(weights[:-1] + b"?")
    with pytest.raises(BookError, match="step.bin is not the .bin that step.json was written for"):
        load_ir(copied)
    copied.with_suffix(".bin").unlink()
    with pytest.raises(BookError, match="the IR's constants .*step.bin does not exist"):
        load_ir(copied)
    copied.with_suffix(".bin").write_bytes(weights)
    copied.write_text(copied.read_text()[:1000])
    with pytest.raises(BookError, match="step.xml is not the .xml"):
        load_ir(copied)
    with pytest.raises(BookError, match="truncated or no IR"):
        convert.write_card(copied, NANO, "step.onnx")
    copied.with_suffix(".json").write_text(json.dumps({"kind": "step"}))
    with pytest.raises(BookError, match="no card of an IR"):
        load_ir(copied)
    with pytest.raises(BookError, match="step.json is no card of an IR and would be lost"):
        save_ir(load_ir(folder / "step.xml")[0], copied, NANO, "step.onnx")
    assert json.loads(copied.with_suffix(".json").read_text()) == {"kind": "step"}
    copied.with_suffix(".json").write_text("5")
    with pytest.raises(BookError, match="step.json is no card of an IR and would be lost"):
        save_ir(load_ir(folder / "step.xml")[0], copied, NANO, "step.onnx")
    copied.with_suffix(".json").unlink()
    with pytest.raises(BookError, match="card .*step.json does not exist"):
        load_ir(copied)
    with pytest.raises(BookError, match="does not end in .xml"):
        load_ir(folder / "step.onnx")


def test_a_model_of_another_shape_or_kind_is_refused(folder: Path, tmp_path: Path) -> None:
    step = load_ir(folder / "step.xml")[0]
    with pytest.raises(BookError, match="another model than GPTConfig"):
        save_ir(step, tmp_path / "x.xml", GPTConfig(n_layer=3, n_head=4, n_embd=128, block=64), "step.onnx")
    assert not list(tmp_path.iterdir())
    step.outputs[0].get_tensor().set_names({"classes"})
    with pytest.raises(BookError, match="another model: it maps .* to classes"):
        save_ir(step, tmp_path / "x.xml", NANO, "step.onnx")
    with pytest.raises(BookError, match="a prefill IR; this route takes step"):
        OpenVINOStep(folder / "prefill.xml")
    with pytest.raises(BookError, match="no cache to keep inside"):
        make_stateful(load_ir(folder / "prefill.xml")[0])


# ---- The commands. ----


def run_program(command: Command, *arguments: object) -> tuple[int, str, str]:
    return command(runpy.run_path(str(PROGRAM))["main"], *arguments)


def test_the_program_writes_from_any_folder(model: GPT, folder: Path, tmp_path: Path) -> None:
    arguments = ["--model", folder / "stateful.xml", "--config", "nano", "--prompt", "Once", "--length", 100, "--async"]
    finished = subprocess.run(
        [sys.executable, PROGRAM, *map(str, arguments)], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    expected = "Once" + decode(generate(model, encode_prompt("Once"), 100))
    assert (finished.returncode, finished.stdout) == (0, expected + "\n")
    assert "tokens/s" in finished.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--device", "TPU"], "'TPU' is unknown"),
        (["--device", "FPGA"], "the device FPGA is not on this machine"),
        (["--config", "pocket"], "holds another model"),
        (["--prompt", "naïve"], "outside the alphabet"),
        (["--length", "-1"], "length and temperature must be 0 or more"),
        (["--precision", "i4"], "does not compute in 'i4'"),
        (["--model", "none.xml"], "none.xml does not exist"),
    ],
)
def test_the_program_refuses_in_one_sentence(options: list[str], sentence: str, folder: Path, command: Command) -> None:
    code, out, err = run_program(command, "--model", folder / "step.xml", "--config", "nano", *options)
    assert (code, out) == (2, "") and sentence in err and err.startswith("error: ") and err.count("\n") == 1


def test_the_program_refuses_a_mismatched_bin(copied: Path, command: Command) -> None:
    copied.with_suffix(".bin").write_bytes(b"?" * copied.with_suffix(".bin").stat().st_size)
    code, out, err = run_program(command, "--model", copied, "--config", "nano")
    assert (code, out) == (2, "") and "step.bin is not the .bin" in err


def test_the_script_converts_to_both_precisions(folder: Path, tmp_path: Path) -> None:
    script = ROOT / "hw" / "openvino" / "convert.sh"
    subprocess.run([script, folder / "step.onnx", tmp_path, "nano"], check=True, capture_output=True, timeout=100)
    found = {name: load_ir(tmp_path / f"step.{name}.xml", NANO)[1] for name in ("fp32", "fp16")}
    assert all(card.precision == name and card.kind == "step" for name, card in found.items())
    missing = subprocess.run([script, tmp_path / "none.onnx", tmp_path], capture_output=True, text=True)
    assert missing.returncode == 2 and "none.onnx does not exist" in missing.stderr
    assert subprocess.run([script], capture_output=True).returncode == 2
