"""Generated designs: bit for bit the integer model, wired as they say, and refused where they should be."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lib.acap import codegen, csim, images, qat
from lib.acap.boards import VCK190
from lib.acap.csim import Compared, Simulation
from lib.acap.design import Design
from lib.acap.integer import IntegerViT, LayerNorm, Rescale, random_integers
from lib.acap.mapping import Kernel, Lanes, Limits, Mapping, Option, Tiling, layers, solve
from lib.acap.quantise import EQVIT, quantise
from lib.acap.train import load_vit
from lib.acap.vit import CONFIGS, ViTConfig
from lib.errors import BookError

STRICT = ("g++", "-std=c++17", "-Wall", "-Wextra", "-Werror")
TINY = ViTConfig(16, 2, 2, image=8, patch=4, channels=1, classes=10)
PICO = CONFIGS["pico_digits"]


def mapping_of(config: ViTConfig, batch: int, **tilings: Tiling) -> Mapping:
    chosen = {name: Option(tiling, 0, (0,) * 5) for name, tiling in tilings.items()}
    return Mapping(config, VCK190, batch, Kernel(), layers(config), chosen, {}, 0, 0, 0.0)


def cascades() -> Mapping:
    """Every product of weights in two columns of two engines, heads one after the other."""
    names = ("patch", "qkv", "out", "up", "down", "head")
    tilings = dict.fromkeys(names, Tiling(1, 2, 2)) | dict.fromkeys(("qk", "av"), Tiling(1, 1, 1))
    return mapping_of(TINY, 1, **tilings)


def streams() -> Mapping:
    """Rows in parts that do not divide them, a cascade of three, both heads at once, weights that stream."""
    return mapping_of(
        PICO,
        2,
        patch=Tiling(1, 1, 2, streamed=True),
        qkv=Tiling(1, 2, 2, streamed=True),
        qk=Tiling(2, 2, 3),
        av=Tiling(2, 3, 2, 2),
        out=Tiling(1, 2, 1),
        up=Tiling(1, 1, 16, streamed=True),
        down=Tiling(1, 3, 2),
        head=Tiling(1, 2, 1, streamed=True),
    )


@pytest.fixture(scope="module")
def pico() -> IntegerViT:
    digits = images.load_images("digits")
    model = load_vit(qat.shipped("pico_digits"), PICO)
    return IntegerViT.of(quantise(model, EQVIT, digits.train.images[:64]))


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return images.load_images("digits").test.images[:4].numpy()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    model, folder = random_integers(TINY), tmp_path_factory.mktemp("tiny")
    first, second = model.blocks
    first.to_qkv.multiplier[:8] = second.to_hidden.multiplier[:2] = 2**22
    first.qkv.bias[:8], second.up.bias[:2] = (1, -1, 3, -3, 253, -253, 2**30, -(2**30)), (2**30, -(2**30))
    unit = dataclasses.replace(second.norm2.residual, r=np.zeros(TINY.dim, np.int64))
    model.blocks[:] = (
        dataclasses.replace(first, to_qkv=dataclasses.replace(first.to_qkv, shift=23)),  # halves its first columns
        dataclasses.replace(
            second,
            to_hidden=dataclasses.replace(second.to_hidden, shift=20),  # makes 2^32 of its first column
            norm2=LayerNorm(np.full(TINY.dim, 20 << 16), np.full(TINY.dim, int(0.4 * 2**32)), 10, unit),
        ),
    )
    codegen.generate(cascades(), model, folder)
    return Simulation(cascades(), model, folder)


# ---- Bit for bit. ----


def assert_exact(simulation: Simulation, pictures: np.ndarray) -> None:
    design = simulation.design
    found = [simulation.hls(), simulation.aie(), simulation.whole(pictures)]
    expected = [[k.name for k in design.kernels], [*design.units], [*(net.name for net in design.nets), "logits"]]
    for some, names in zip(found, expected):
        assert sorted(some) == sorted(names)  # nothing is left out
        assert {name: c.different for name, c in some.items() if c.different} == {}
        assert all(c.numbers > 0 for c in some.values())


def test_cascades_are_exact(tiny: Simulation) -> None:
    assert_exact(tiny, np.random.default_rng(1).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8))


def test_streamed_weights_and_parts_of_rows_are_exact(tmp_path: Path, pico: IntegerViT, pictures: np.ndarray) -> None:
    codegen.generate(streams(), pico, tmp_path)
    assert_exact(Simulation(streams(), pico, tmp_path), pictures)


def test_a_solved_design_is_exact(tmp_path: Path, pico: IntegerViT, pictures: np.ndarray) -> None:
    mapping = solve(PICO, VCK190, batch=2, limits=Limits(engines=48))
    assert Design(mapping).lanes == 16  # bytes a cycle between PL kernels: what the engines' pace needs
    mapping = dataclasses.replace(mapping, lanes={name: Lanes(32, 0, 0) for name in mapping.lanes})
    codegen.generate(mapping, pico, tmp_path, images=pictures)
    golden = np.frombuffer((tmp_path / "host" / "golden.bin").read_bytes(), np.int32).reshape(4, -1)
    assert np.array_equal(golden[:, :10], pico(pictures))  # what the host's program compares with
    assert Design(mapping).lanes == 32  # all of a row at once
    assert csim.check(mapping, pico, tmp_path, pictures) == {"hls": 0, "aie": 0, "block": 0}


def test_differences_are_found(tiny: Simulation) -> None:
    """The same design against models that differ in one number each."""
    model = tiny.model
    first, *rest = model.blocks
    qkv = dataclasses.replace(first.qkv, bias=first.qkv.bias + 2**9 * (np.arange(48) == 20))
    gain = first.norm1.gain + 2**18 * (np.arange(16) == 3)
    table = first.table ^ (np.arange(256) == 130)
    changed = {"qkv": qkv, "norm1": dataclasses.replace(first.norm1, gain=gain), "table": table}
    other = dataclasses.replace(model, blocks=[dataclasses.replace(first, **changed), *rest])
    simulation = Simulation.__new__(Simulation)
    simulation.__dict__ |= tiny.__dict__ | {"model": other}
    hls = {name for name, c in simulation.hls().items() if c.different}
    aie = {name for name, c in simulation.aie().items() if c.different}
    whole = simulation.whole(np.zeros((1, 1, 8, 8), np.uint8))
    assert hls == {"norm1", "gelu"} and aie == {"qkv"}
    assert whole["normed1"].different > 0 and whole["embedded"].different == 0


def test_misused_streams_are_errors(tiny: Simulation) -> None:
    with pytest.raises(BookError, match="csim pl gelu 0 2 0 failed .a stream is misused"):
        tiny.kernel("gelu", [bytes(16)], 2)  # too few words
    with pytest.raises(BookError, match="norm leaves words unread"):
        tiny.kernel("norm", [bytes(16 * 9)], 1)
    with pytest.raises(BookError, match="there is no PL kernel abs"):
        tiny.kernel("abs", [], 1)


def test_halves_go_up_and_large_values_saturate(tiny: Simulation) -> None:
    unit = tiny.design.units["qkv"]
    found = tiny.unit("qkv", np.zeros((tiny.passes, unit.rows, unit.inner), np.int64), None)
    assert found[0, 0, :8].tolist() == [1, 0, 2, -1, 127, -126, 127, -127]  # 0.5, -0.5, 1.5, -1.5, 126.5, -126.5
    unit = tiny.design.units["up"]
    found = tiny.unit("up", np.zeros((tiny.passes, unit.rows, unit.inner), np.int64), None)
    assert found[1, 0, :2].tolist() == [127, -127]  # past 32 bits before it is clamped


def test_shift_counts_mean_powers_of_two(tiny: Simulation) -> None:
    """One value under each count in turn: 2^(14 - c), and nothing for 15."""
    unit, to = tiny.design.units["av"], tiny.model.blocks[0].to_context
    n = tiny.passes * unit.copies
    left, right = np.full((n, unit.rows, unit.inner), 15), np.zeros((n, unit.inner, unit.columns), np.int64)
    left[0, :, 0], right[0, 0] = np.arange(0, 16, 2), 127
    powers = np.array([127 * 2 ** (14 - c) for c in range(0, 15, 2)])
    found = tiny.unit("av", left, right)
    assert np.array_equal(found[0, :, 0], np.clip((powers * int(to.multiplier) + 2**38) >> 39, -127, 127))
    left[0, :, 0] = 15
    assert not tiny.unit("av", left, right).any()


def test_rows_without_variance_give_the_bias(tiny: Simulation) -> None:
    norm, width = tiny.model.blocks[0].norm1, TINY.dim
    same_u = np.full((tiny.passes, 8, width), norm.residual.zero, np.uint8)  # u = 0 in every channel
    (found,) = tiny.kernel("norm1", [tiny.to_rows(same_u)], tiny.passes)
    expected = np.clip((norm.bias + 2**31) >> 32, -127, 127)
    assert np.array_equal(tiny.from_rows(found, 8, width)[0], np.tile(expected, (8, 1)))


def test_the_root_of_a_square_is_exact(tiny: Simulation) -> None:
    """One channel a unit above 15 others: spread 16 - 1 + 10 is 25, so 15 / 5 and -1 / 5 times the gain 20, and 0.4."""
    codes = np.full((tiny.passes, 8, TINY.dim), tiny.model.blocks[1].norm2.residual.zero, np.uint8)
    codes[:, :, 3] += 1
    (found,) = tiny.kernel("norm2", [tiny.to_rows(codes)], tiny.passes)
    expected = np.where(np.arange(TINY.dim) == 3, 60, -4)  # 60.4 and -3.6; a root of one less would make it 60.6
    assert np.array_equal(tiny.from_rows(found, 8, TINY.dim)[1], np.tile(expected, (8, 1)))


def test_padding_does_not_reach_real_tokens(tiny: Simulation) -> None:
    """Softmax of equal scores over the five real columns: log2 5 is 2 octaves and a bit, whatever the padding holds."""
    for padding in (-127, 127):
        scores = np.zeros((2 * 2, 8, 8), np.int8)
        scores[:, :, 5:] = padding
        (found,) = tiny.kernel("softmax", [tiny.to_rows(scores)], 2)
        codes = tiny.from_rows(found, 8, 16)
        assert (codes[..., :5] == 2).all() and (codes[..., 5:] == 15).all()


# ---- What is generated. ----


def test_every_stream_is_connected_once(tmp_path: Path, pico: IntegerViT) -> None:
    codegen.generate(streams(), pico, tmp_path)
    graphs = "".join(path.read_text() for path in (tmp_path / "aie").glob("*_graph.h"))
    created = re.findall(r'(input|output)_plio::create\("(\w+)", plio_128_bits', graphs)
    lines = (tmp_path / "system.cfg").read_text().splitlines()
    wires = [line.split("=")[1].split(":")[:2] for line in lines if line.startswith("stream_connect=")]
    into = [target.partition(".")[2] for _, target in wires if target.startswith("ai_engine_0.")]
    out = [source.partition(".")[2] for source, _ in wires if source.startswith("ai_engine_0.")]
    assert sorted(into) == sorted(name for way, name in created if way == "input")
    assert sorted(out) == sorted(name for way, name in created if way == "output")
    assert max(Counter(into + out).values()) == 1
    ports = {end for wire in wires for end in wire if not end.startswith("ai_engine_0.")}
    assert len(ports) == sum(not end.startswith("ai_engine_0.") for wire in wires for end in wire)
    instances = [line.split("=")[1].split(":")[0] for line in lines if line.startswith("nk=")]
    declared = set()
    for name in instances:
        source = (tmp_path / "pl" / f"{name}.cpp").read_text()
        head = re.search(rf'extern "C" void {name}\(([^)]*)\) {{', source).group(1)
        declared |= {f"{name}.{port}" for port in re.findall(r"hls::stream<\w+>& (\w+)", head)}
    assert declared == ports


def test_counts_are_the_mappings() -> None:
    mapping = solve(CONFIGS["deit_t"], VCK190, kernel=Kernel(generated=True))
    for name, unit in Design(mapping).units.items():
        option = mapping.chosen[name]
        assert (len(unit.engines), len(unit.lhs) + len(unit.rhs), len(unit.out)) == option.takes[:3]
        fed = Counter(engine for port in unit.lhs for engine in port.engines)
        assert fed == Counter(engine.name for engine in unit.engines)
        assert all(len(port.engines) <= 8 for port in (*unit.lhs, *unit.rhs))


def test_deit_t_is_generated_whole_and_its_kernels_compile(tmp_path: Path) -> None:
    mapping = solve(CONFIGS["deit_t"], VCK190, kernel=Kernel(generated=True))
    files = codegen.generate(mapping, random_integers(CONFIGS["deit_t"]), tmp_path)
    engines = [path for path in files if path.suffix == ".cc"]
    assert len(engines) == mapping.takes("engines") == 400 and Design(mapping).lanes == 32
    graphs = "".join(path.read_text() for path in (tmp_path / "aie").glob("*_graph.h"))
    assert len(set(re.findall(r"kernel::create\((\w+)\)", graphs))) == graphs.count("kernel::create(") == 400
    resident = [option.tiling for name, option in mapping.chosen.items() if name not in ("qk", "av")]
    assert len(list((tmp_path / "aie" / "weights").glob("*_b*.h"))) == sum(t.B * t.C for t in resident)
    roles = {"patch_a0_b0_c0_h0", "qkv_a0_b1_c0_h0", "av_a0_b0_c1_h2", "down_a0_b15_c3_h0", "head_a0_b0_c7_h0"}
    sample = [path for path in engines if path.stem in roles] + [tmp_path / "pl" / "heads.cpp"]
    assert len(sample) == 6
    for path in sample:
        subprocess.run([*csim.command(tmp_path), "-fsyntax-only", path], check=True)


def test_each_source_compiles_alone(tiny: Simulation) -> None:
    some = ["aie/graph.cpp", "aie/up_a0_b0_c1_h0.cc", "aie/up_a0_b1_c1_h0.cc", "pl/norm1.cpp", "pl/spread_qkv.cpp"]
    for name in some:
        subprocess.run([*csim.command(tiny.folder), "-fsyntax-only", tiny.folder / name], check=True)


def test_placement_becomes_constraints(tmp_path: Path, tiny: Simulation) -> None:
    codegen.generate(cascades(), tiny.model, tmp_path, {"up_a0_b1_c0_h0": (7, 3)})
    text = (tmp_path / "aie" / "up_graph.h").read_text()
    index = [engine.name for engine in tiny.design.units["up"].engines].index("up_a0_b1_c0_h0")
    assert re.findall(r"location<kernel>.*", text) == [f"location<kernel>(engines[{index}]) = tile(7, 3);"]
    with pytest.raises(BookError, match="up_nowhere"):
        codegen.generate(cascades(), tiny.model, tmp_path, {"up_nowhere": (0, 0)})


def test_output_folder_is_ours_or_empty(tmp_path: Path, tiny: Simulation) -> None:
    first = codegen.generate(cascades(), tiny.model, tmp_path)
    stamp = first[0].stat().st_mtime_ns
    mapping = cascades()
    mapping.chosen["up"] = Option(Tiling(1, 1, 2), 0, (0,) * 5)
    second = codegen.generate(mapping, tiny.model, tmp_path)
    assert first[0].stat().st_mtime_ns == stamp  # unchanged
    assert set(tmp_path.rglob("*_a0_*.cc")) == {path for path in second if path.suffix == ".cc"}  # nothing is left over
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(BookError, match="holds something else"):
        codegen.generate(mapping, tiny.model, tmp_path)


def test_what_does_not_fit_is_refused(tmp_path: Path, tiny: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model
    with pytest.raises(BookError, match="whose blocks is 4, not 2"):
        codegen.generate(streams(), model, tmp_path)
    with pytest.raises(BookError, match="A.B.C.H = 1.3.1.1"):  # inner 16 is two parts of eight
        Design(mapping_of(TINY, 1, **{n: o.tiling for n, o in cascades().chosen.items()} | {"up": Tiling(1, 3, 1)}))
    big = dataclasses.replace(TINY, dim=1024)
    with pytest.raises(BookError, match=r"an engine of qkv takes \d+ bytes and has 32768"):
        Design(mapping_of(big, 1, **dict.fromkeys(cascades().chosen, Tiling(1, 2, 4))))
    with pytest.raises(BookError, match="patch stem"):
        Design(mapping_of(dataclasses.replace(TINY, stem="conv"), 1))
    with pytest.raises(BookError, match="no whole batches of 1"):
        tiny.whole(np.zeros((0, 1, 8, 8), np.uint8))
    to = dataclasses.replace(model.blocks[0], to_hidden=Rescale(model.blocks[0].to_hidden.multiplier, 63))
    with pytest.raises(BookError, match="shifts by 63 bits"):
        codegen.generate(cascades(), dataclasses.replace(model, blocks=[to, model.blocks[1]]), tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(csim.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BookError, match="pip install hls4ml"):
        csim.build(tiny.folder, tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BookError, match=r"g\+\+ is missing"):
        csim.build(tiny.folder, tmp_path)


# ---- The stand-in. ----

GRAPH = r"""
#include <cstdlib>
#include <adf.h>
#include <aie_api/aie.hpp>
#include <aie_api/aie_adf.hpp>
using namespace adf;
static int mode;
void copy(input_async_buffer<int8>& in, output_async_buffer<int8>& out) {
    if (mode != 5) in.acquire();
    out.acquire();
    for (int i = 0; i < 16; ++i) out.data()[i] = in.data()[i];
    if (mode == 6) in.acquire();
    in.release();
    if (mode != 7) out.release();
    if (mode == 8) aie::mmul<8, 8, 4, int8, int8>().mac({}, {});
}
struct Copy : graph {
    kernel k[2];
    input_plio in;
    output_plio out[2];
    Copy() {
        in = input_plio::create("in", plio_128_bits, "in.txt");
        for (int i = 0; i < 2; ++i) {
            k[i] = kernel::create(copy);
            source(k[i]) = "copy.cc";
            runtime<ratio>(k[i]) = 0.5;
            heap_size(k[i]) = mode == 16 ? 31745 : 31744;
            dimensions(k[i].in[0]) = {16};
            dimensions(k[i].out[0]) = {mode == 9 ? 0u : 16u};
            location<kernel>(k[i]) = tile(mode == 10 ? 1 : i, 0);
            out[i] = output_plio::create(i ? "right" : "left", plio_128_bits, "out.txt");
            connect<>(in.out[0], k[i].in[0]);
            if (mode != 11) connect<>(k[i].out[0], out[i].in[0]);
            if (mode == 12) connect<>(in.out[0], k[i].in[0]);
            if (mode == 13) connect<cascade>(k[i].out[0], k[i].in[0]);
            if (mode == 15) connect<>(in.out[0], k[1].in[0]);
        }
    }
};
int main(int, char** arguments) {
    mode = std::atoi(arguments[1]);
    Copy g;
    const char data[] = "sixteen bytes ..";
    if (mode != 1) g.init();
    if (mode == 2) g.init();
    if (mode != 4) standin::write("in", data, 16);
    if (mode != 3) g.run(1);
    g.end();
    if (mode == 14) g.run(1);
    char found[17] = {};
    standin::read("right", found, 16);
    std::puts(found);
}
"""

REFUSED = {
    1: "a graph runs before init",
    2: "a graph is initialised twice",
    3: "a graph is waited for that does not run",
    4: "copy waits for data that do not come",
    5: "copy uses a buffer that it has not acquired",
    6: "copy acquires a buffer twice",
    7: "copy returns without releasing a buffer",
    8: "mmul accumulates onto nothing",
    9: "copy has a buffer without dimensions",
    10: "copy is placed on a tile that another kernel has",
    11: "copy has a port that is not connected",
    12: "a port of copy is connected twice",
    13: "a cascade is connected to copy as a stream",
    14: "a graph runs after its end",
    15: "a kernel is used before it is created",
    16: "copy has a heap that leaves its stack no room",
}


def test_stand_in_refuses_what_no_graph_may_do(tmp_path: Path) -> None:
    source, program = tmp_path / "graph.cpp", tmp_path / "graph"
    source.write_text(GRAPH)
    include = f"-I{codegen.TEMPLATES / 'standin'}"
    subprocess.run([*STRICT, "-pthread", include, source, "-o", program], check=True)
    environment = os.environ | {"STANDIN_PATIENCE_MS": "200"}

    def run(mode: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, str(mode)], capture_output=True, text=True, env=environment)

    sound = run(0)
    assert (sound.returncode, sound.stdout) == (0, "sixteen bytes ..\n")
    for mode, sentence in REFUSED.items():
        refused = run(mode)
        assert refused.returncode == 3 and sentence in refused.stderr, (mode, refused)


def test_stand_in_has_only_the_first_generations_shapes(tmp_path: Path) -> None:
    source = tmp_path / "shape.cpp"
    command = ["g++", "-std=c++17", "-fsyntax-only", f"-I{codegen.TEMPLATES / 'standin'}", source]
    for shape, known in (("8, 8, 4", True), ("4, 16, 8", False), ("8, 8, 8", False)):
        source.write_text(f"#include <aie_api/aie.hpp>\naie::mmul<{shape}, int8, int8> tile;\n")
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode == 0) == known and known != ("no mmul of this shape" in done.stderr)


# ---- Handing over to AMD's tools. ----


def test_an_engine_s_heap_holds_its_numbers_and_as_much_again_as_amd_gives_any(tiny: Simulation) -> None:
    array = re.compile(r"static const int(8|32) \w+((?:\[\d+\])+) =")
    for unit in tiny.design.units.values():
        graph = (tiny.folder / "aie" / f"{unit.name}_graph.h").read_text()
        largest = 0
        for engine in unit.engines:
            included = re.findall(r'"(weights/\w+\.h)"', (tiny.folder / "aie" / f"{engine.name}.cc").read_text())
            texts = [(tiny.folder / "aie" / name).read_text() for name in included]
            arrays = [found for text in texts for found in array.findall(text)]
            sizes = [int(bits) // 8 * math.prod(map(int, re.findall(r"\d+", sides))) for bits, sides in arrays]
            largest = max(largest, sum(sizes))
        decoded = 2 * 8 * unit.k if unit.codes else 0
        assert f"heap_size(engine) = {largest + decoded + 1024};" in graph and largest + decoded > 0
    assert all(depth == 0 or depth.bit_count() == 1 and depth >= 16 for _, _, depth in tiny.design.connections)


def run_make(folder: Path, path: str, *targets: str, sdk: str = "/sdk") -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path, "SDKTARGETSYSROOT": sdk}
    return subprocess.run(["make", "-C", folder, *targets], capture_output=True, text=True, env=environment)


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A folder with what a Makefile needs of the system, and none of AMD's tools."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("make", "sh", "bash", "mkdir", "rm", "touch", "cat"):
        (folder / tool).symlink_to(shutil.which(tool))
    return folder


def test_makefile_names_the_tool_that_is_missing(bare_path: Path, tiny: Simulation) -> None:
    done = run_make(tiny.folder, str(bare_path))
    assert done.returncode == 2 and "aiecompiler is not on the PATH; source settings64.sh" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    no_compiler = run_make(tiny.folder, str(bare_path), "csim")
    assert no_compiler.returncode == 2 and "g++ is not on the PATH" in no_compiler.stderr
    no_headers = run_make(tiny.folder, os.environ["PATH"], "csim", "AP_TYPES=/nowhere")
    assert no_headers.returncode == 2 and "set AP_TYPES" in no_headers.stderr


def test_makefile_calls_the_tools_as_documented(tmp_path: Path, bare_path: Path, tiny: Simulation) -> None:
    folder, log = tmp_path / "design", tmp_path / "log"
    images = np.zeros((2, 1, 8, 8), np.uint8)
    codegen.generate(cascades(), tiny.model, folder, images=images)
    for tool in ("aiecompiler", "v++", "aarch64-linux-gnu-g++"):
        script = f'#!/bin/sh\necho "{tool} $*" >> {log}\nfor x; do case $last in -o) touch "$x";; esac; last=$x\n'
        script += 'case $x in --output-archive=*) touch "${x#*=}";; esac; done\n'
        (bare_path / tool).write_text(script)
        (bare_path / tool).chmod(0o755)
    without = run_make(folder, str(bare_path), sdk="")
    assert without.returncode == 2 and "SDKTARGETSYSROOT is not set" in without.stderr and not log.exists()
    done = run_make(folder, str(bare_path))
    assert done.returncode == 0, done.stderr
    said = log.read_text().splitlines()
    platform = f"--platform {codegen.PLATFORM}"
    kernels = [k.name for k in tiny.design.kernels]
    objects = " ".join(f"build/{name}.xo" for name in kernels)
    assert said[0] == (
        f"aiecompiler --target=hw --platform={codegen.PLATFORM} --include=aie --workdir=build/Work "
        "--output-archive=build/libadf.a aie/graph.cpp"
    )
    compiled = [f"v++ -t hw {platform} -c --freqhz=230000000 -I pl -k {k} -o build/{k}.xo pl/{k}.cpp" for k in kernels]
    assert said[2:-2] == compiled
    host, link, package = said[1], *said[-2:]
    rest = f"--config system.cfg -o build/design.xsa {objects} build/libadf.a"
    assert link == f"v++ -t hw {platform} -l --freqhz=230000000 {rest}"
    assert host.startswith("aarch64-linux-gnu-g++ -std=c++17 -O2 --sysroot=/sdk") and "-lxrt_coreutil" in host
    assert package.startswith(f"v++ -t hw {platform} -p -o build/design.xclbin build/design.xsa build/libadf.a ")
    assert "--package.boot_mode sd" in package
    on_card = set(re.findall(r"--package.sd_file (\S+)", package))
    assert on_card == {"build/host.exe", "host/images.bin", "host/golden.bin"}
    log.unlink()
    (folder / "pl" / "constants" / "norm1.h").touch()
    assert run_make(folder, str(bare_path)).returncode == 0
    again = [line for line in log.read_text().splitlines() if " -c " in line]
    assert again == [line for line in compiled if " -k norm1 " in line]
    emulated = run_make(folder, str(bare_path), "-B", "-n", "TARGET=hw_emu").stdout
    assert "aiecompiler --target=hw " in emulated and "v++ -t hw_emu" in emulated


XRT = r"""
#pragma once
#include <cstddef>
#include <string>
enum { XCL_BO_SYNC_BO_TO_DEVICE, XCL_BO_SYNC_BO_FROM_DEVICE };
namespace xrt {
struct uuid {};
struct device { explicit device(int) {} uuid load_xclbin(const std::string&) { return {}; } };
struct kernel { kernel(const device&, const uuid&, const std::string&) {} int group_id(int) const { return 0; } };
struct bo {
    bo(const device&, std::size_t, int) {}
    void write(const void*) {}
    void read(void*) {}
    void sync(int) {}
};
struct run {
    explicit run(const kernel&) {}
    template <class T> void set_arg(int, const T&) {}
    void start() {}
    void wait() {}
};
struct graph { graph(const device&, const uuid&, const std::string&) {} void run(int) {} void wait() {} };
}
"""


def test_host_program_is_sound_and_numbers_its_arguments(tmp_path: Path, pico: IntegerViT) -> None:
    """Against XRT's names and types; an argument's number counts streams, too."""
    codegen.generate(streams(), pico, tmp_path / "design")
    for folder, names in (("xrt", ("xrt_bo.h", "xrt_device.h", "xrt_kernel.h")), ("experimental", ("xrt_graph.h",))):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text('#include "../xrt.h"\n')
    (tmp_path / "xrt.h").write_text(XRT)
    host = tmp_path / "design" / "host" / "host.cpp"
    subprocess.run([*STRICT, "-fsyntax-only", f"-I{tmp_path}", host], check=True)
    text = host.read_text()
    norm1 = text[text.index("xrt::run run(norm1);") :][:120]
    assert re.findall(r"set_arg\((\d+), (.*)\);", norm1)[:2] == [("2", "0"), ("3", "BATCH * DEPTH")]
    assert "xrt::bo feed_up_memory = on_board(device, feed_up, 16, contents(paths[5]));" in text


def test_compared_counts_another_shape_as_all_different() -> None:
    assert csim.compare(np.zeros(3), np.zeros(4)) == Compared(4, 4)
    assert csim.compare(np.array([1, 2, 3]), np.array([1, 0, 3])) == Compared(3, 1)
