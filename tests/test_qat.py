"""Quantisation-aware training: cut off and resumed, it ends with the same model; and it helps."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import torch

from lib import lowbit, qat, train
from lib.corpus import Corpus
from lib.deploy import deploy, rotate
from lib.evaluate import divergence, torch_logits
from lib.gpt import GPT, GPTConfig
from lib.ptq import calibration_windows

SMALL = GPTConfig(n_layer=1, n_head=2, n_embd=32, block=16)
Command = Callable[..., tuple[int, str, str]]


def test_training_that_was_cut_off_resumes_to_the_same_model(
    random_model: Callable[..., GPT],
    small_corpus: Corpus,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(train.CONFIGS, "pocket", SMALL)
    monkeypatch.setattr(qat, "load_shipped", lambda name: (random_model(SMALL), {}))
    flags = ["--data", small_corpus.folder, "--bits", "ternary", "--batch", 4, "--lr", 3e-3, "--warmup", 2]
    flags += ["--calibration", 4, "--steps", 8, "--eval-every", 4, "--eval-chars", 400, "--characters", 400]

    def training(name: str) -> int:
        return command(qat.main, *flags, "--bf16", "off", "--resume", "--out", tmp_path / name)[0]

    assert training("whole") == 0
    with monkeypatch.context() as patch:
        take_step = qat.QatTrainer.take_step
        patch.setattr(qat.QatTrainer, "take_step", lambda t: _cut_off() if t.step == 6 else take_step(t))
        assert training("cut") == 130
    assert training("cut") == 0
    whole, cut = (lowbit.load_quantised(tmp_path / n / "pocket_qat_ternary.safetensors")[0] for n in ("whole", "cut"))
    tokens = torch.randint(0, 97, (2, 16), generator=torch.Generator().manual_seed(0))
    assert torch.equal(whole(tokens), cut(tokens))


def test_training_starts_from_gptq_of_the_turned_model_and_pays(
    random_model: Callable[..., GPT], small_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(train.CONFIGS, "tiny", SMALL)
    teacher, steps = random_model(SMALL), {"steps": 30, "batch": 8, "warmup": 2, "eval_every": 30, "eval_chars": 200}
    config = qat.QatConfig("tiny", **steps, lr=3e-3, bf16="off", bits="ternary", calibration=4)
    trainer = qat.QatTrainer(config, small_corpus, train.Place(0, 1, torch.device("cpu")), teacher)
    tokens = small_corpus.val[:160].astype(np.int64).reshape(10, 16)
    windows = calibration_windows(small_corpus, 4, 16, config.seed)
    start = lowbit.gptq(rotate(deploy(teacher)), lowbit.BITS["ternary"], windows)

    def distance(model: GPT) -> float:
        return divergence(torch_logits(teacher)(tokens), torch_logits(model.eval())(tokens))

    assert distance(trainer.model) == pytest.approx(distance(start), rel=1e-6)
    train.run(trainer, tmp_path, progress=False)
    assert distance(trainer.model) < 0.7 * distance(start)  # 0.27


def test_processes_share_the_parameters_that_a_resumed_run_has(
    random_model: Callable[..., GPT], small_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brevitas puts new ones in place of its scales; of two processes this is the first, in a group of its own."""
    monkeypatch.setitem(train.CONFIGS, "pocket", SMALL)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        config = qat.QatConfig(bits="ternary", steps=8, batch=4, calibration=4)
        here = train.Place(0, 2, torch.device("cpu"))
        first, second = (qat.QatTrainer(config, small_corpus, here, random_model(SMALL)) for _ in range(2))
        first.take_step()
        first.save_state(tmp_path / "state.safetensors")
        second.load_state(tmp_path / "state.safetensors")
        for trainer in (first, second):
            trainer.take_step()
            trainer.take_step()  # fails if a parameter's gradient was not exchanged in the last one
        pairs = zip(first.model.state_dict().values(), second.model.state_dict().values())
        assert all(torch.equal(one, other) for one, other in pairs)
    finally:
        first = second = None  # before the group is gone
        torch.distributed.destroy_process_group()


def _cut_off() -> None:
    raise KeyboardInterrupt


def test_the_shipped_four_bit_model_meets_its_aim_and_is_what_its_card_says() -> None:
    model, card = lowbit.load_shipped_quantised("w4a8")
    assert card["scores"]["ppl_increase_pct"] <= 1.0 and card["training"]["bits"] == "w4a8"
    used = np.unique(lowbit.codes(model.blocks[3].feed_forward.up))
    assert used.min() >= -7 and used.max() <= 7 and len(used) == 15


def test_unknown_bits_end_in_a_sentence(tmp_path: Path, command: Command) -> None:
    code, _, err = command(qat.main, "--bits", "w3a3", "--out", tmp_path)
    assert code == 2 and "choose one of w8a8" in err
