"""EQ-ViT's mapping: one engine cycle by cycle, known answers of the cost model, the search, schedules, placement."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.acap import aie, budget, cpu, mapping, monolith, paper, placement, platforms, split, steps, validation
from lib.acap.__main__ import main as acap_main
from lib.acap.boards import INT8, U250, VCK190, VEK280, Widths, board
from lib.acap.mapping import Kernel, Layer, Limits, Mapping
from lib.acap.vit import CONFIGS, ViTConfig, products
from lib.errors import BookError

MODELS = tuple(paper.TABLE_5)
Command = Callable[..., tuple[int, str, str]]
SMALL = ViTConfig(64, 2, 2, image=32, patch=8)  # 17 tokens


@pytest.fixture(scope="module")
def solved() -> dict[str, Mapping]:
    return {name: mapping.solve(mapping.MODELS[name], VCK190) for name in MODELS}


# ---- One engine. ----


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 4))
def test_closed_form_is_what_the_pipeline_does(rows: int, depth: int, columns: int) -> None:
    shape = (8 * rows, 8 * depth, 4 * columns)
    events = aie.simulate(*shape)
    macs = [event.cycle for event in events if event.unit == "mac"]
    assert len(macs) == np.prod(shape) // aie.MACS
    assert max(macs) + 1 == aie.cycles(*shape)
    assert max(macs) - min(macs) + 1 == len(macs)  # issued without a gap


def test_the_papers_example_takes_six_cycles() -> None:
    assert aie.cycles(8, 16, 4) == 6 and aie.utilisation(8, 16, 4) == pytest.approx(4 / 6)
    assert aie.cycles(32, 48, 32, aie.REALISTIC) == 32 * 48 * 32 // 128 + 4 * 4 * 8 + 40


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 3))
def test_no_register_is_overwritten_before_its_last_use(rows: int, depth: int, columns: int) -> None:
    events = aie.simulate(8 * rows, 8 * depth, 4 * columns)
    last_use = {event.step: event.cycle for event in events if event.unit == "mac"}
    for event in events:
        if event.unit.startswith("load") and event.step >= 2:  # two registers: step s takes the place of step s - 2
            assert event.cycle >= last_use[event.step - 2]
    for cycle in {event.cycle for event in events}:
        units = [event.unit for event in events if event.cycle == cycle]
        assert len(units) == len(set(units))


# ---- The cost model. ----


PUBLISHED = {  # DeiT-T's public design: unit: rows, inner, columns, copies, blocks; A, B, C, H
    **{name: ((192, 192, 192, 1, 12), (1, 4, 6, 1)) for name in "qkv"},
    "qk": ((192, 64, 192, 3, 0), (2, 2, 2, 3)),
    "av": ((192, 192, 64, 3, 0), (2, 2, 2, 3)),
    "out": ((192, 192, 192, 1, 12), (1, 6, 4, 1)),
    "up": ((192, 192, 768, 1, 12), (1, 4, 24, 1)),
    "down": ((192, 768, 192, 1, 12), (1, 24, 4, 1)),
    "patch": ((192, 768, 192, 1, 1), (1, 12, 4, 1)),
    "head": ((8, 192, 1000, 1, 1), (1, 2, 5, 1)),
}


def test_published_design_takes_394_engines_116_streams_in_and_83_out() -> None:
    total = dict.fromkeys(mapping.RESOURCES, 0)
    for name, (shape, tiling) in PUBLISHED.items():
        found = mapping.cost(Layer(name, *shape), VCK190, *tiling, False)
        for resource in total:
            total[resource] += int(found[resource])
        if name in ("q", "qk", "av", "out", "up", "down"):  # balanced: each engine multiplies 2304 cycles a call
            assert found["time"] - 2 * 192 < 7000 and found["held"] <= VCK190.memory
    assert (total["engines"], total["ports in"], total["ports out"]) == (394, 116, 83)


def test_time_of_a_call_is_load_multiply_store() -> None:
    found = mapping.cost(Layer("down", 192, 768, 192, 1, 12), VCK190, 1, 24, 4, 1, False)
    port = 16 * 0.230
    assert found["time"] == np.ceil(192 * 32 / port + 192 * 32 * 48 / 128 + 2 + 192 * 48 / port)
    assert found["held"] == 12 * 32 * 48 + 16 * (32 + 48) + 2048


@pytest.mark.parametrize("name", MODELS)
def test_layers_hold_the_models_macs(name: str) -> None:
    """Whole tokens give Table III's count; padded ones at most 8 % more."""
    config = CONFIGS[name]
    padded = {
        layer.name: layer.rows
        * layer.inner
        * layer.columns
        * layer.copies
        * (config.depth if layer.name in BLOCK else 1)
        for layer in mapping.layers(config)
    }
    counted = {product.name: product.macs for product in products(config)}
    assert sum(counted.values()) / 1e9 == pytest.approx(paper.TABLE_3[name][0], abs=0.06)
    assert set(counted) - set(padded) <= {"patch"} and 1 < sum(padded.values()) / sum(counted.values()) < 1.08


BLOCK = ("qkv", "qk", "av", "out", "up", "down")


def test_options_are_those_that_nothing_undercuts() -> None:
    layer = Layer("qkv", 24, 64, 192, 1, 2)
    table = np.array([(o.time, *o.takes) for o in mapping.options(layer, VCK190)])
    assert len(table) > 10
    for row in table:
        assert ((table <= row).all(axis=1)).sum() == 1  # itself
    for tiling in ((1, 1, 1, 1), (1, 2, 3, 1), (1, 4, 6, 1)):  # whatever was left out is no better than what stayed
        found = mapping.cost(layer, VCK190, *tiling, False)
        own = np.array([found[name] for name in ("time", *mapping.RESOURCES)])
        assert (table <= own).all(axis=1).any()


def test_generated_engines_hold_their_scales() -> None:
    layer, tiling = Layer("up", 200, 256, 1024, 1, 12), (1, 4, 24, 1)
    bare, full = (mapping.cost(layer, VCK190, *tiling, False, Kernel(generated=g)) for g in (False, True))
    assert full["held"] - bare["held"] == 12 * 8 * 48 and full["time"] == bare["time"]
    head = Layer("head", 8, 256, 1000, 1, 1)
    eight, wide = (mapping.cost(head, VCK190, 1, 1, 8, 1, False, Kernel(generated=g)) for g in (False, True))
    assert wide["time"] - eight["time"] == pytest.approx(3 * 8 * 128 / VCK190.port, abs=1)


def test_buffers_and_decoded_codes_by_hand() -> None:
    up, av = Layer("up", 200, 256, 1024, 1, 12), Layer("av", 200, 200, 64, 3)
    for streamed, kept in ((True, 12 * 256 * 1024), (False, 0)):
        assert mapping.cost(up, VCK190, 1, 4, 24, 1, streamed)["buffers"] == 2 * 200 * (256 + 1024) + kept
    plain, decoded = (mapping.cost(av, VCK190, 1, 1, 1, 1, False, Kernel(generated=g)) for g in (False, True))
    assert decoded["time"] - plain["time"] == 3 * 200 * 200 * 64 // 128


# ---- The search. ----


@pytest.mark.parametrize("name", MODELS)
def test_each_model_is_solved_to_optimality_in_five_seconds(solved: dict[str, Mapping], name: str) -> None:
    found = solved[name]
    assert found.optimal and found.seconds < 5
    limits = Limits().of(VCK190)
    assert all(found.takes(resource) <= limit for resource, limit in zip(mapping.RESOURCES, limits))
    assert paper.TABLE_5[name].engines - 3 <= found.takes("engines") <= 400


def test_search_finds_what_enumeration_finds() -> None:
    """On a small model and few engines: every pace, and at each the shortest path by the engines it may take."""
    batch, engines = 4, 24
    found = mapping.solve(SMALL, VCK190, batch, limits=Limits(engines=engines))
    some = {layer.name: mapping.options(layer, VCK190) for layer in mapping.layers(SMALL)}
    best = np.inf
    for pace in sorted({option.time for name in BLOCK for option in some[name]}):
        path = np.zeros(engines + 1)
        for name in BLOCK:
            fit = [(option.tiling.engines, option.time) for option in some[name] if option.time <= pace]
            path = [min((path[n - m] + time for m, time in fit if m <= n), default=np.inf) for n in range(len(path))]
        for patch in some["patch"]:
            for head in some["head"]:
                left = engines - patch.tiling.engines - head.tiling.engines
                if left >= 0:
                    start = max(batch * patch.time, patch.time + (batch - 1) * pace)
                    block = max(batch * pace, path[left])
                    best = min(best, start + (SMALL.depth - 1) * block + path[left] + head.time)
    assert found.optimal and found.objective == best and found.takes("engines") <= engines


def test_more_of_anything_is_never_slower() -> None:
    config = dataclasses.replace(CONFIGS["deit_t"], depth=4)
    slow = mapping.solve(config, VCK190, limits=Limits(engines=200)).objective
    assert slow > mapping.solve(config, VCK190, limits=Limits(engines=300)).objective
    assert slow <= mapping.solve(config, VCK190, limits=Limits(engines=200, ports_in=60)).objective


def test_joint_search_proves_a_small_problem_and_beats_the_decomposition_s_design() -> None:
    """In that design, too, the second of two images ends one slowest product after the first."""
    joint = monolith.solve_jointly(SMALL, VCK190, blocks=1, batch=2, seconds=10)
    assert joint.calls == 12 and joint.optimal and joint.gap == 0
    assert joint.latency == pytest.approx(1183e-6)
    hint = mapping.solve(dataclasses.replace(SMALL, depth=1), VCK190, batch=2)
    times = [hint.chosen[name].time for name in BLOCK]
    assert joint.latency < (sum(times) + max(times)) / 1e6


# ---- Schedules. ----


def test_schedule_keeps_order_and_accelerators_apart(solved: dict[str, Mapping]) -> None:
    found = solved["deit_t"]
    slots = mapping.schedule(found)
    assert len(slots) == 6 * (12 * 6 + 2)
    for unit in found.chosen:
        own = sorted((slot.start, slot.end) for slot in slots if slot.unit == unit)
        assert all(one[1] <= other[0] for one, other in zip(own, own[1:]))
    for image in range(6):
        own = sorted((s.start, s.end) for s in slots if s.image == image)
        assert all(one[1] <= other[0] for one, other in zip(own, own[1:]))
    assert mapping.latency(slots) == pytest.approx(found.objective / 1e6, rel=0.03)


def test_more_images_than_accelerators_share_them_fairly(solved: dict[str, Mapping]) -> None:
    """Twelve images take about twice as long as six: none is overtaken for good."""
    six, twelve = (mapping.latency(mapping.schedule(solved["deit_t"], batch)) for batch in (6, 12))
    assert 1.8 < twelve / six < 2.1


# ---- Table V. ----


def test_no_constant_and_one_constant_against_table_5(solved: dict[str, Mapping]) -> None:
    estimates = {name: paper.TABLE_5[name].estimate_ms for name in MODELS}
    free = {name: mapping.latency(mapping.schedule(solved[name])) / estimates[name] - 1 for name in MODELS}
    assert max(map(abs, free.values())) < 0.08 and np.mean([abs(x) for x in free.values()]) < 0.04
    found = validation.held_out(solved, estimates)
    assert len(found) == 12
    syncs = {name: validation.fit_sync(solved[name], estimates[name]) for name in MODELS}
    unfitted = {name: mapping.latency(mapping.schedule(solved[name])) for name in MODELS}
    assert any(syncs.values()) and all((found[f, p] > unfitted[p]) == (syncs[f] > 0) for f, p in found)
    errors = [abs(found[pair] / estimates[pair[1]] - 1) for pair in found]
    assert max(errors) < 0.10 and np.mean(errors) < 0.06
    board_errors = [mapping.latency(mapping.schedule(solved[n])) / paper.TABLE_5[n].board_ms - 1 for n in MODELS]
    assert max(map(abs, board_errors)) < 0.05


def test_fitted_constant_brings_a_design_to_its_target(solved: dict[str, Mapping]) -> None:
    sync = validation.fit_sync(solved["deit_t"], 0.6)
    reached = mapping.latency(mapping.schedule(validation.with_sync(solved["deit_t"], sync)))
    assert sync > 0 and reached == pytest.approx(0.6, abs=2e-4)
    assert validation.fit_sync(solved["lv_vit_t"], 0.1) == 0


# ---- Placement. ----


@pytest.mark.parametrize("name", MODELS)
def test_cascades_lie_where_partial_sums_can_pass(solved: dict[str, Mapping], name: str) -> None:
    chains = placement.place(solved[name])
    places = [place for chain in chains for place in chain.places]
    assert len(places) == len(set(places)) == solved[name].takes("engines")
    assert all(0 <= x < 50 and 0 <= y < 8 for x, y in places)
    assert all(placement.legal(VCK190, chain) for chain in chains)
    turned = dataclasses.replace(chains[0], places=chains[0].places[::-1])
    assert not placement.legal(VCK190, turned)


# ---- Why: the roofline and PyTorch's own time. ----


def test_roofline_of_table_1() -> None:
    vck190 = platforms.PLATFORMS[-1]
    assert vck190.ridge == pytest.approx(4080) and vck190.attainable(1e6) == 102 and vck190.attainable(40) == 1.0
    found = {operator.name: operator for operator in platforms.operators(CONFIGS["deit_t"])}
    assert found["up"].operations == 6 * 12 * 2 * 200 * 192 * 768
    assert found["softmax"].intensity == 2.5 and found["add1"].intensity == pytest.approx(1 / 3)
    assert all(found[name].intensity < vck190.ridge for name in found)  # off chip, nothing reaches its peak


def test_shares_of_pytorchs_time() -> None:
    shares = cpu.kernel_shares("pico_digits", rounds=1)
    assert sum(shares.values()) == pytest.approx(1) and {"linear", "attention products", "softmax", "GELU"} <= set(
        shares
    )


# ---- Bad input: one sentence that names it. ----


def test_unknown_boards_and_widths() -> None:
    with pytest.raises(BookError, match="unknown; choose one of vck190"):
        board("vck191")
    with pytest.raises(BookError, match="vck190 does not multiply A8W4; choose one of A8W8, A16W16, A32W32"):
        VCK190.macs_at(Widths(8, 4))


def test_shapes_that_no_tile_divides() -> None:
    with pytest.raises(BookError, match="pad them to 16"):
        aie.cycles(9, 8, 4)


def test_a_model_that_does_not_fit_says_what_is_short() -> None:
    for memory, short in (
        (2048, "takes 2752 bytes of an engine's memory at best, and there are 2048"),
        (4096, r"takes \d+ ports in"),
    ):
        with pytest.raises(BookError, match=short):
            mapping.solve(CONFIGS["deit_t"], dataclasses.replace(VCK190, memory=memory))
    with pytest.raises(BookError, match=r"take \d+ engines at least, and there are 10"):
        mapping.solve(CONFIGS["deit_t"], VCK190, limits=Limits(engines=10))


def test_a_search_cut_short_says_so() -> None:
    with pytest.raises(BookError, match="more time"):
        mapping.solve(CONFIGS["deit_256"], VCK190, seconds=1e-4)


# ---- Widths, steps, several boards. ----


def test_cheapest_widths_that_reach_the_accuracy() -> None:
    for name, widths in (("vck190", "A8W8"), ("vek280", "A8W4")):
        chosen = budget.choose("deit_t", board(name), budget_ms=1.0, least=74.0)
        assert str(chosen.widths) == widths and chosen.latency_ms <= 1
    others = budget.front(CONFIGS["deit_t"], VEK280, Kernel(chosen.widths), batches=budget.CHOICES)
    assert chosen.images_per_s == max(d.images_per_s for d in others if d.latency_ms <= 1)
    with pytest.raises(BookError, match=r"done in 0.1 ms; the nearest takes 0.4\d+ ms for 1 image\(s\) in A8W8"):
        budget.choose("deit_t", VCK190, budget_ms=0.1, least=74.0)
    with pytest.raises(BookError, match="reaches 74.50 % at best"):
        budget.choose("deit_t", VCK190, budget_ms=1.0, least=75.0)
    with pytest.raises(BookError, match="unknown; choose one of deit_t"):
        budget.model("deit-x")
    assert budget.model("lv-vit-t")[0] == "lv_vit_t"


def test_four_bits_halve_what_weights_take() -> None:
    layer, tiling = Layer("up", 200, 192, 768, 1, 12), (1, 4, 24, 1)
    eight, four = (mapping.cost(layer, VEK280, *tiling, False, Kernel(widths)) for widths in (INT8, Widths(8, 4)))
    assert eight["held"] - four["held"] == 12 * 48 * 32 / 2 and four["time"] < eight["time"]


def test_steps_of_table_8() -> None:
    """Each idea helps, the first two by the ratio of widths; in all about the paper's 89-fold."""
    found = steps.ablation(CONFIGS["deit_t"], VCK190)
    times = [found[step] for step in steps.STEPS]
    assert all(one > other for one, other in zip(times, times[1:]))
    assert times[0] / times[1] == pytest.approx(4, abs=0.01) and 70 < times[0] / times[-1] < 100
    slower = steps.off_chip(CONFIGS["deit_t"], VCK190, 6, INT8, efficiency=0.3)
    assert slower == pytest.approx(2 * times[1], rel=0.01)


def test_plain_fpga_is_what_the_paper_expects_of_one() -> None:
    found = mapping.latency(mapping.schedule(mapping.solve(CONFIGS["deit_t"], U250)))
    assert found == pytest.approx(paper.FPGA_MS, rel=0.05)


def test_a_model_too_large_is_split_over_boards() -> None:
    base = ViTConfig(768, 12, 12)  # DeiT-B
    with pytest.raises(BookError):
        mapping.solve(base, VCK190)
    found = split.split(base, VCK190)
    times = [found.mapping.chosen[name].time for name in BLOCK]
    rest = (12 - found.share) * max(6 * max(times), sum(times)) + (found.boards - 1) * (1000 + 200 * 768 / 12.5)
    assert found.share < 12 and found.latency_ms == pytest.approx((found.mapping.objective + rest) / 1e6, rel=1e-9)
    assert found.boards * found.share >= 12 and found.boards > 1 and found.mapping.optimal
    alone = split.split(CONFIGS["deit_t"], VCK190)
    assert alone.boards == 1 and alone.latency_ms == pytest.approx(alone.mapping.objective / 1e6)
    with pytest.raises(BookError, match="fits no 2 boards"):
        split.split(base, VCK190, most=2)


@pytest.mark.parametrize(
    ("model", "least", "files", "said"),
    [
        ("deit-t", 70, ["notes.txt"], "holds something else than a generated design"),
        ("lv-vit-t", 70, [], "begins with convolutions, which have no sources"),
        # Sixteen bits are what the last half point of accuracy takes; kernels and models here have eight.
        ("pico-cifar10", 75.5, [], "sources are written in A8W8 only, and this design is in A16W16"),
    ],
)
def test_the_command_refuses_before_it_searches(
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    least: float,
    files: list[str],
    said: str,
) -> None:
    for name in files:
        (tmp_path / name).write_text("mine")
    monkeypatch.setattr(budget, "choose", lambda *_: pytest.fail("it searches"))
    flags = ("--model", model, "--latency-ms", 1, "--min-accuracy", least, "--out", tmp_path)
    code, _, told = command(acap_main, "design", *flags)
    assert code == 2 and said in told
    assert [file.name for file in tmp_path.iterdir()] == files


def test_the_command_writes_a_design_with_images_and_what_they_give(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "CHOICES", (2,))  # sixteen searches are for a reader
    flags = ("--model", "pico-cifar10", "--latency-ms", 1, "--min-accuracy", 70, "--out", tmp_path / "design")
    code, told, _ = command(acap_main, "design", *flags)
    assert code == 0 and "with the weights of pico_cifar10_eqvit.safetensors, and 2 random images" in told
    golden, taken = ((tmp_path / "design" / "host" / f"{name}.bin").read_bytes() for name in ("golden", "images"))
    assert len(golden) // 4 >= 2 * 10 and any(golden) and len(taken) >= 2 * 3 * 32 * 32
