"""The chapters: their sources are clean, and their executions reproduce what is expected of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest

from lib import ROOT, book
from lib.acap.budget import BATCHES
from lib.acap.quantise import ABLATIONS, RECIPES
from lib.acap.steps import STEPS
from lib.results import compare
from lib.silicon.approximations import APPROXIMATIONS
from lib.silicon.study import LANES

pytestmark = pytest.mark.made

CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
EXECUTED = [path for path in CHAPTERS if path.stem != book.START]
ALT_TEXT_LIMIT = 250


HOSTS = (
    "torch torch_kv ort_fp32 ort_int8 openvino_fp32 openvino_int8 openvino_stateful openvino_stateful_int8 "
    "c_fp32 c_int8"
).split()
PROMISED = {
    *(f"compare.claims.{verdict}" for verdict in ("reproduced", "corrected", "cited")),
    *(
        f"compare.{route}.{figure}"
        for route in (*HOSTS, "dpu", "a10", *(f"core_lanes{lanes}" for lanes in LANES["pocket"]))
        for figure in ("tokens_per_s", "ms_per_token", "ppl_increase_pct", "size_mb")
    ),
    "compare.ladder.rungs",
    "compare.break_even.core_lanes",
    *(
        f"vitis.{graph}.{count}"
        for graph in ("mlp", "cnn", "ffn_conv", "rewritten_block")
        for count in ("layers_on_dpu", "layers", "subgraphs")
    ),
    *(
        f"vitis.{config}.{figure}"
        for config in ("pocket", "report")
        for figure in ("crossings_per_token", "modelled_ms_per_token", "roofline_ms_per_token")
    ),
    *(
        f"ladder.{rung}.{figure}"
        for rung in ("openvino_fp32", "openvino_int8", "openvino_stateful", "vart_host")
        for figure in ("max_abs_err", "agreement")
    ),
    *(
        f"host.{route}.{figure}"
        for route in HOSTS
        for figure in ("tokens_per_s", "p50_us", "p99_us", "max_us", "first_token_ms")
    ),
    *(
        f"acap.table3.{model}.{figure}"
        for model in ("deit_t", "deit_160", "deit_256", "lv_vit_t")
        for figure in ("gmac", "params_m")
    ),
    *(
        f"acap.cpu.{model}.{route}.latency_ms"
        for model in ("deit_t", "deit_160", "deit_256", "lv_vit_t")
        for route in ("torch", "openvino_int8")
    ),
    *(
        f"acap.qat.{dataset}.{figure}"
        for dataset in ("digits", "cifar10")
        for figure in (
            *(f"{method}.accuracy_pct" for method in RECIPES),
            "eqvit_minus_fp32_pct",
            "w4a8_minus_fp32_pct",
        )
    ),
    *(f"acap.qat.ablation.{ingredient}.accuracy_pct" for ingredient in ABLATIONS),
    "acap.quantisers.integer_mismatches",
    *(
        f"acap.{figure}"
        for model in ("deit_t", "deit_160", "deit_256", "lv_vit_t")
        for figure in (
            f"table5.{model}.latency_ms",
            f"table5.{model}.aie",
            f"table5.{model}.heldout_vs_estimate_pct",
            f"table5.{model}.heldout_vs_board_pct",
            f"table5.{model}.nofit_vs_estimate_pct",
            f"dse.{model}.seconds",
        )
    ),
    *(f"acap.pareto.{batch}.{figure}" for batch in BATCHES for figure in ("latency_ms", "images_per_s")),
    *(f"acap.ablation.{step}.latency_ms" for step in STEPS),
    *(f"acap.ablation.{step}.factor" for step in STEPS[1:]),
    *(f"acap.codegen.{part}.mismatches" for part in ("hls", "aie", "block")),
    "acap.table5.mean_abs_error_pct",
    "acap.ablation.total_factor",
    "acap.design.vck190.bits",
    "acap.design.vek280.bits",
    "acap.softmax.lut_ratio",
    "acap.gelu_printed.lut_ratio",
    "acap.gelu.lut_ratio",
    "acap.codegen.files",
    *(f"silicon.golden.cost.{name}.ppl_increase_pct" for name in APPROXIMATIONS),
    *(
        f"silicon.pocket.lanes{lanes}.{figure}"
        for lanes in LANES["pocket"]
        for figure in ("cycles_per_token", "mac_utilisation", "jitter_cycles", "tokens_per_s")
    ),
    *(f"silicon.nano.lanes{lanes}.cycles_per_token" for lanes in LANES["nano"]),
    *(f"silicon.pocket.xcup.lanes64.{kind}" for kind in ("lut", "ff", "dsp", "bram", "uram")),
    *(f"silicon.nano.ecp5_synth.lanes64.{kind}" for kind in ("lut4", "ff", "mult", "ebr")),
    *(f"ladder.{rung}.{figure}" for rung in ("integer", "rtl") for figure in ("agreement", "ppl_increase_pct")),
    *(
        f"silicon.nano.ecp5.lanes64.{figure}"
        for figure in ("fmax_mhz", "tokens_per_s", "ebr", "mult", "comb", "ff")
    ),
    "silicon.nano.board.stories.ppl_increase_pct",
    *(
        f"silicon.sparse.{kind}.{figure}"
        for kind in ("unstructured", "lane_balanced")
        for figure in (
            "matrix_speedup", "token_speedup", "tokens_per_s", "area_ratio", "ppl_increase_pct", "mismatches",
        )  # fmt: skip
    ),
    *(f"silicon.uart.{figure}" for figure in ("frames", "corrupted", "recovered", "wrong")),
    "silicon.swap.seconds",
    "silicon.bit_exact.tokens",
    "silicon.bit_exact.mismatches",
    "silicon.coverage",
    "silicon.sim.cycles_per_s",
    "vitis.gelu_replacement.ppl_increase_pct",
    "vitis.host_text_equal",
    "host.best_over_torch",
    "host.c_over_ort_fp32",
    "host.c_text_equal",
}


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def executed(chapter: Path) -> dict[str, Any]:
    path = ROOT / "_build" / "executed" / "chapters" / chapter.name
    assert path.exists(), f"{path.name} is not executed; make test executes it"
    return load(path)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_source_is_stripped_and_begins_as_every_chapter_does(chapter: Path) -> None:
    cells = code_cells(load(chapter))
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)
    parameters, setup = cells[0], "".join(cells[1]["source"])
    assert parameters["metadata"]["tags"][0] == "parameters"
    assert f'REPOSITORY = "{book.repository()}"' in setup
    assert "".join(code_cells(load(CHAPTERS[0]))[1]["source"]) == setup  # one set-up cell, everywhere the same


def test_every_page_is_in_the_table_of_contents() -> None:
    contents = (ROOT / "_toc.yml").read_text()
    pages = [path.stem for path in (ROOT / "chapters").iterdir() if path.suffix in (".ipynb", ".md")]
    assert [page for page in pages if f"chapters/{page}\n" not in contents] == []


@pytest.mark.parametrize("chapter", EXECUTED, ids=lambda path: path.stem)
def test_results_are_as_expected(chapter: Path) -> None:
    path = ROOT / "_build" / "executed" / "chapters" / chapter.name
    results = book.chapter_results(path)
    assert compare(results, book.expectations(chapter.stem)) == []


def outputs(notebook: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for cell in code_cells(notebook):
        yield from ((cell, output) for output in cell["outputs"])


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_figures_have_alt_text_and_cells_print_no_warnings(chapter: Path) -> None:
    for cell, output in outputs(executed(chapter)):
        if "image/png" in output.get("data", {}):
            alt = cell["metadata"]["mystnb"]["image"]["alt"]
            assert 20 <= len(alt) <= ALT_TEXT_LIMIT, alt
        if output.get("name") == "stderr":
            assert "remove-stderr" in cell["metadata"]["tags"], output["text"]


def test_the_page_says_which_corpus_it_used() -> None:
    results = json.loads((ROOT / "_build" / "results.json").read_text())
    assert results["data.corpus"]["value"] == book.settings()["corpus"]
    printed = json.dumps(executed(ROOT / "chapters" / "01_model.ipynb"))
    assert f"Text used on this page: {book.settings()['corpus']} from" in printed


def test_collected_results_hold_the_records_the_book_promises() -> None:
    results = json.loads((ROOT / "_build" / "results.json").read_text())
    promised = {
        "model.report.parameters": 10_783_104,
        "model.pocket.parameters": 1_631_616,
        "model.nano.block_weights": 393_216,
    }
    assert {name: results[name]["value"] for name in promised} == promised
    assert results["model.pocket.kv_cache_max_abs_err"]["value"] < 1e-5
    assert {"data.prepare.mb_per_s", "baseline.pocket.stories.bpc", "book.seconds.02_data"} <= set(results)
    assert PROMISED <= set(results)
    assert all(set(entry) == {"value", "unit", "provenance", "chapter"} for entry in results.values())


@pytest.mark.parametrize(("profile", "status"), [("quick", 0), ("quik", 1)])
def test_a_chapter_runs_alone_from_any_folder(tmp_path: Path, profile: str, status: int) -> None:
    """papermill runs a chapter in an empty folder; an unknown profile is refused with the known ones."""
    command = [
        sys.executable,
        "-m",
        "papermill",
        ROOT / "chapters" / "errata.ipynb",
        "out.ipynb",
        "-p",
        "profile",
        profile,
    ]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == status, run.stderr
    assert ("choose one of quick, full" in run.stderr) == (status != 0)
    assert [path.name for path in tmp_path.iterdir()] == ["out.ipynb"]
