"""Pruning: each pattern keeps exactly what it says, and a run ends on its sparsity however it is interrupted."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from pathlib import Path
from typing import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.nn.utils import prune as torch_prune

from lib import prune
from lib.checkpoint import load_model, load_shipped, save_model
from lib.corpus import Corpus
from lib.deploy import check_unmasked, deploy
from lib.errors import BookError
from lib.gpt import CONFIGS, GPT, GPTConfig
from lib.prune import PATTERNS, PruneConfig, Pruner, block_linears, one_shot, rounds, sparsity_of
from lib.ptq.fake import fake_quantise
from lib.train import Place

SHAPE = GPTConfig(n_layer=2, n_head=4, n_embd=32, block=16)
ALONE = Place(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def model(random_model: Callable[..., GPT]) -> GPT:
    return random_model(SHAPE)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: GPT) -> PruneConfig:
    """A run of a second on the CPU, from a shipped model called tiny: two rounds in 8 steps."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("lib.checkpoint.CHECKPOINTS", tmp_path)
    monkeypatch.setitem(CONFIGS, "tiny", SHAPE)
    save_model(tmp_path / "tiny.safetensors", model)
    (tmp_path / "tiny.json").write_text(json.dumps({"training": {"model": "tiny"}}))
    options = {"batch": 4, "lr": 1e-3, "warmup": 2, "eval_every": 2, "eval_chars": 200, "bf16": "off"}
    return PruneConfig("tiny", steps=8, sparsity=0.5, rate=0.3, interval=3, distil=0.5, **options)


def weights(model: GPT) -> dict[str, torch.Tensor]:
    return {name: linear.weight.detach() for name, linear in block_linears(model).items()}


# ---- Patterns. ----


@given(st.integers(0, 63))
def test_global_pruning_takes_the_smallest_of_all_layers(model: GPT, sixty_fourths: int) -> None:
    pruned = one_shot(model, "unstructured", sixty_fourths / 64)
    assert sparsity_of(pruned) == sixty_fourths / 64
    dense = torch.cat([w.flatten() for w in weights(model).values()])
    left = torch.cat([w.flatten() for w in weights(pruned).values()])
    assert torch.equal(left[left != 0], dense[left != 0])
    if sixty_fourths:
        assert dense[left == 0].abs().max() <= left[left != 0].abs().min()
    others = {name: t for name, t in model.state_dict().items() if name.removesuffix(".weight") not in weights(model)}
    assert len(others) == len(model.state_dict()) - 8
    assert all(torch.equal(t, pruned.state_dict()[name]) for name, t in others.items())


@given(st.integers(0, 63), st.sampled_from([1, 2, 8, 16, 32]))
def test_every_lane_keeps_equally_many(model: GPT, sixty_fourths: int, lanes: int) -> None:
    masks = prune.lane_balanced(model, sixty_fourths / 64, lanes)
    for name, mask in masks.items():
        loads, scores = prune.lane_loads(mask, lanes), weights(model)[name].abs()
        assert len(loads) == lanes and loads.min() == loads.max()
        assert loads[0] == mask[::lanes].sum()  # lane 0 has rows 0, lanes, 2 lanes ...
        for lane in range(lanes):
            own, kept = scores[lane::lanes], mask[lane::lanes]
            assert kept.all() or not kept.any() or own[kept].min() >= own[~kept].max()
    kept, total = sum(int(m.sum()) for m in masks.values()), sum(m.numel() for m in masks.values())
    assert abs(kept - total * (1 - sixty_fourths / 64)) <= lanes / 2


def test_one_lane_is_unstructured_within_a_matrix(model: GPT) -> None:
    masks, free = prune.lane_balanced(model, 0.5, 1), prune.unstructured(model, 0.5)
    assert all(torch.equal(masks[name], free[name]) for name in free)


@given(st.integers(0, 63))
def test_every_matrix_keeps_the_largest_of_its_share(model: GPT, sixty_fourths: int) -> None:
    pruned = one_shot(model, "per_matrix", sixty_fourths / 64)
    for (name, left), dense in zip(weights(pruned).items(), weights(model).values()):
        wanted = copy.deepcopy(block_linears(model)[name])
        torch_prune.l1_unstructured(wanted, "weight", amount=dense.numel() * sixty_fourths // 64)
        assert torch.equal(left, wanted.weight)


@given(st.integers(0, 15), st.sampled_from([16, 32, None]))
def test_every_run_keeps_equally_many(model: GPT, sixteenths: int, m: int | None) -> None:
    for name, mask in prune.n_of_m(model, sixteenths / 16, m).items():
        size = m or mask.shape[1]
        assert (mask.reshape(-1, size).sum(1) == size - size * sixteenths // 16).all()


def test_two_of_four_by_hand(model: GPT) -> None:
    model = copy.deepcopy(model)
    name, linear = next(iter(block_linears(model).items()))
    with torch.no_grad():
        linear.weight[0, :8] = torch.tensor([0.1, -0.4, 0.3, 0.2, -5.0, 6.0, 7.0, -8.0])
    assert PATTERNS["two_four"](model, 0.5)[name][0, :8].tolist() == [
        False,
        True,
        True,
        False,
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(("rows", "columns", "gone"), [(0.01, 0.01, True), (0.01, 100, False), (100, 0.01, False)])
def test_a_head_is_its_rows_and_its_columns(model: GPT, rows: float, columns: float, gone: bool) -> None:
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.blocks[1].attention.qkv.weight.view(3, 4, 8, 32)[:, 2] *= rows
        model.blocks[1].attention.out.weight.view(32, 4, 8)[:, 2] *= columns
    mask = prune.heads(model, 1 / 8)["blocks.1.attention.qkv"].view(3, 4, 8, 32)
    assert mask[:, 2].any() != gone


@pytest.mark.parametrize("pattern", ["heads", "neurons", "heads_and_neurons"])
def test_structured_zeros_are_those_of_a_smaller_model(model: GPT, pattern: str) -> None:
    """Whole heads and neurons go: what they would have computed cannot reach the output any more."""
    pruned, share = one_shot(model, pattern, 0.5), {"heads": 1 / 6, "neurons": 1 / 3, "heads_and_neurons": 1 / 2}
    assert sparsity_of(pruned) == pytest.approx(share[pattern])
    tokens = torch.arange(16)[None]
    before = pruned(tokens)
    with torch.no_grad():
        for block in pruned.blocks:  # noise on the inputs of columns that are zero
            for linear in (block.attention.out, block.feed_forward.down):
                dead = (linear.weight == 0).all(dim=0)
                linear.register_forward_pre_hook(lambda _, x, dead=dead: (x[0] + 100 * dead,))
                feeding = block.attention.qkv if linear is block.attention.out else block.feed_forward.up
                rows = (feeding.weight == 0).all(dim=1).view(-1, len(dead))
                assert torch.equal(rows.all(dim=0), dead) and torch.equal(rows.any(dim=0), dead)
    torch.testing.assert_close(pruned(tokens), before)


def test_the_least_important_head_goes_first(model: GPT) -> None:
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.blocks[1].attention.qkv.weight.view(3, 4, 8, 32)[:, 2] *= 0.01  # head 2 of layer 1
        model.blocks[1].attention.out.weight.view(32, 4, 8)[:, 2] *= 0.01
    masks = prune.heads(model, 1 / 8)
    gone = masks["blocks.1.attention.qkv"].view(3, 4, 8, 32)
    assert not gone[:, 2].any() and gone[:, [0, 1, 3]].all() and masks["blocks.0.attention.qkv"].all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_sparsity_changes_nothing(model: GPT, pattern: str) -> None:
    if pattern == "lane_balanced":
        return  # 64 lanes: this model has 32 rows
    same = one_shot(model, pattern, 0.0)
    assert all(torch.equal(t, same.state_dict()[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
def test_a_sparsity_outside_0_to_1_is_refused(model: GPT, sparsity: float) -> None:
    with pytest.raises(BookError, match=r"outside \[0, 1\); give the share of weights to prune, as in 0.5"):
        one_shot(model, "unstructured", sparsity)
    with pytest.raises(BookError, match=r"outside \[0, 1\)"):
        PruneConfig(sparsity=sparsity)


def test_what_a_pattern_cannot_do_is_refused(model: GPT) -> None:
    with pytest.raises(BookError, match="sparsity 0.3 leaves 2.8 weights in each 4; choose a multiple of 1/4"):
        one_shot(model, "two_four", 0.3)
    with pytest.raises(BookError, match="which do not divide into 64 lanes"):
        one_shot(model, "lane_balanced", 0.5)
    with pytest.raises(BookError, match="the pattern 'random' is unknown; choose one of unstructured, "):
        one_shot(model, "random", 0.5)


# ---- Masks. ----


def test_masks_accumulate_and_come_off_exactly(model: GPT) -> None:
    masked = copy.deepcopy(model)
    prune.apply(masked, "unstructured", 0.25)
    first = {n: m.clone() for n, m in masked.named_buffers() if n.endswith("_mask")}
    prune.apply(masked, "bank_balanced", 0.5)
    assert all((m <= first[n]).all() for n, m in masked.named_buffers() if n in first)
    copied, tokens = prune.finished(masked), torch.arange(16)[None]
    assert torch_prune.is_pruned(masked) and not torch_prune.is_pruned(copied)
    assert torch.equal(copied(tokens), masked(tokens))
    prune.remove(masked)
    assert all(torch.equal(t, copied.state_dict()[name]) for name, t in masked.state_dict().items())
    zeros = torch.cat([w[w == 0] for w in weights(masked).values()])
    assert len(zeros) and not zeros.signbit().any()  # -0.0 would not compress


def test_a_masked_model_is_found_out(model: GPT) -> None:
    masked = copy.deepcopy(model)
    check_unmasked(masked)
    prune.apply(masked, "unstructured", 0.5)
    with pytest.raises(BookError, match="the model is still masked; call lib.prune.remove.* first"):
        check_unmasked(masked)
    check_unmasked(prune.remove(masked))


# ---- Schedule and runs. ----


@given(st.floats(0.01, 0.99), st.floats(0.05, 1.0))
def test_rounds_take_their_share_of_what_remains_and_end_on_the_sparsity(sparsity: float, rate: float) -> None:
    reached = rounds(sparsity, rate)
    assert reached[-1] == sparsity
    for before, after in zip([0.0, *reached], reached):
        assert 0 < after - before <= rate * (1 - before) + 1e-9


def test_ten_per_cent_a_round_reaches_a_half_in_seven() -> None:
    assert rounds(0.5) == pytest.approx([0.1, 0.19, 0.271, 0.3439, 0.40951, 0.468559, 0.5])
    assert rounds(0.5, 1.0) == [0.5] and rounds(0.0) == []


def test_a_run_prunes_in_its_rounds_and_keeps_only_finished_models(tiny: PruneConfig, small_corpus: Corpus) -> None:
    trainer, seen, kept = Pruner(tiny, small_corpus, ALONE), [], []
    for _ in range(tiny.steps):
        trainer.take_step()
        seen.append(round(sparsity_of(trainer.model), 4))
        kept.append(trainer.snapshot() is not None)
    assert seen == [0.3] * 3 + [0.5] * 5
    assert kept == [False] * 3 + [True] * 5
    assert trainer.snapshot().state_dict().keys() == GPT(SHAPE).state_dict().keys()


def test_the_loss_mixes_text_and_the_dense_models_probabilities(tiny: PruneConfig, small_corpus: Corpus) -> None:
    inputs, targets = torch.arange(8)[None], torch.arange(1, 9)[None]
    losses = {}
    for share in (0.0, 0.25, 1.0):
        trainer = Pruner(dataclasses.replace(tiny, distil=share), small_corpus, ALONE)
        losses[share] = trainer.loss(torch.zeros(1, 8, SHAPE.vocab).log_softmax(2) + 1, inputs, targets).item()
        own = trainer.dense(inputs).log_softmax(2)
        entropy = -(own.exp() * own).sum(2).mean().item()
        if share == 1.0:
            assert trainer.loss(trainer.dense(inputs), inputs, targets).item() == pytest.approx(entropy, rel=1e-5)
    uniform = F.cross_entropy(torch.zeros(1, SHAPE.vocab), torch.tensor([0])).item()
    assert list(losses.values()) == pytest.approx([uniform] * 3, rel=1e-5)


def test_a_run_resumed_is_the_same_run(tiny: PruneConfig, small_corpus: Corpus, tmp_path: Path) -> None:
    whole = prune.fine_tune(tiny, small_corpus, tmp_path / "whole", progress=False)
    parts = tmp_path / "parts"
    for stop in range(2, 9, 3):  # before, within and after the last round's step
        trainer = Pruner(tiny, small_corpus, ALONE)
        if (parts / "state").exists():
            trainer.load_state(parts / "state")
        while trainer.step < stop:
            trainer.take_step()
        trainer.save_state(parts / "state")
    resumed = prune.remove(trainer.model)
    assert all(torch.equal(t, resumed.state_dict()[name]) for name, t in whole.state_dict().items())
    assert sparsity_of(whole) == sparsity_of(load_model(tmp_path / "whole" / "best.safetensors")) == 0.5
    card = json.loads((tmp_path / "whole" / "best.json").read_text())
    assert (card["training"]["pattern"], card["training"]["sparsity"], card["step"]) == ("unstructured", 0.5, 8)


def test_fine_tuning_recovers(tiny: PruneConfig, small_corpus: Corpus, tmp_path: Path, model: GPT) -> None:
    config = dataclasses.replace(tiny, steps=60, interval=4, distil=1.0, lr=3e-3, eval_every=60)
    gap = {}
    for name, candidate in {
        "at once": one_shot(model, "unstructured", 0.5),
        "fine-tuned": prune.fine_tune(config, small_corpus, tmp_path / "run", progress=False),
    }.items():
        tokens = torch.from_numpy(small_corpus.val[:160].astype(int)).view(10, 16)
        own, other = model(tokens).log_softmax(2), candidate(tokens).log_softmax(2)
        gap[name] = (own.exp() * (own - other)).sum(2).mean().item()
    assert gap["fine-tuned"] < 0.5 * gap["at once"]


def test_a_quantised_model_is_pruned_through_its_quantisers(
    tiny: PruneConfig, small_corpus: Corpus, tmp_path: Path, model: GPT
) -> None:
    quantised = fake_quantise(deploy(model), {})
    pruned = prune.fine_tune(tiny, small_corpus, tmp_path / "run", quantised, progress=False)
    assert sparsity_of(pruned) == 0.5
    layer = pruned.blocks[0].attention.qkv
    assert (layer.rounded_weight()[layer.weight == 0] == 0).all()
    steps = layer.rounded_weight() / layer.weight_scale[:, None]
    torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)


def test_the_command_prunes_and_speaks_in_sentences(
    command: Callable, tiny: PruneConfig, small_corpus: Corpus, tmp_path: Path
) -> None:
    flags = ["--model", "tiny", "--steps", 4, "--interval", 1, "--rate", 1, "--eval-chars", 100, "--bf16", "off"]
    flags += ["--data", small_corpus.folder, "--out", tmp_path / "out"]
    code, out, _ = command(prune.main, *flags, "--pattern", "bank_balanced")
    assert code == 0 and "pruning tiny to 50% (bank_balanced)" in out and "best validation: " in out
    assert sparsity_of(load_model(tmp_path / "out" / "best.safetensors")) == 0.5
    for wrong, sentence in (
        (["--sparsity", "1"], "outside \\[0, 1\\)"),
        (["--pattern", "none"], "the pattern 'none' is unknown"),
        (["--distil", "2"], "distil is 2.0"),
        (["--rate", "0"], "rate is 0.0"),
        (["--rate", "0.1"], "4 steps end before the last round is reached"),
        (["--pattern", "two_four", "--sparsity", "0.3"], "0.3 leaves 2.8 weights in each 4; choose a multiple of 1/4$"),
        (["--pattern", "two_four", "--rate", "0.3"], "sparsity 0.3 leaves 2.8 .* 1/4, or prune at once with --rate 1$"),
        (["--pattern", "row_balanced", "--rate", "0.3"], "leaves 22.4 weights in each 32; .* with --rate 1$"),
        ([], "already holds a run"),
        (["--resume"], "belongs to a run with other settings"),
    ):
        code, _, err = command(prune.main, *flags, *wrong)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
        assert re.search(sentence, err)


# ---- The shipped checkpoints. ----


@pytest.mark.parametrize("name", ["pocket_pruned50", "pocket_lane64_50"])
def test_the_shipped_checkpoints_are_half_zeros(name: str) -> None:
    model, card = load_shipped(name)
    assert sparsity_of(model) == 0.5 == card["training"]["sparsity"]
    check_unmasked(model)
    if name == "pocket_lane64_50":
        for weight in weights(model).values():
            loads = prune.lane_loads(weight, 64)
            assert loads.min() == loads.max()
