"""Training: the schedule, the batches, and runs that end the same however they are interrupted."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from lib import train as training
from lib.checkpoint import load_model, load_tensors
from lib.corpus import Corpus
from lib.evaluate import score, torch_logits
from lib.gpt import CONFIGS, GPTConfig
from lib.train import Place, TrainConfig, Trainer, batch_at, learning_rate, read_log, train

ALONE = Place(0, 1, torch.device("cpu"))
TINY = GPTConfig(n_layer=2, n_head=2, n_embd=16, block=8, dropout=0.2)
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """A run of a second, on the CPU, of a model with dropout."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(CONFIGS, "tiny", TINY)
    return TrainConfig("tiny", steps=13, batch=4, lr=1e-2, warmup=4, eval_every=4, eval_chars=200, bf16="off")


def rows(out: Path) -> list[dict[str, float]]:
    """The log without the seconds, which no two runs share."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in read_log(out / "log.csv")]


def assert_same_state(one: Path, other: Path) -> None:
    (tensors, run), (others, other_run) = (load_tensors(out / "state.safetensors") for out in (one, other))
    assert tensors.keys() == others.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], others[name])] == []
    assert run | {"seconds": 0} == other_run | {"seconds": 0}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- Schedule, batches, optimiser. ----


def test_learning_rate_at_its_corners() -> None:
    config = TrainConfig("nano", steps=1101, warmup=100, lr=1.0, min_lr=0.1)
    rates = {step: learning_rate(config, step) for step in (0, 49, 99, 100, 350, 600, 1100, 9999)}
    quarter = 0.1 + 0.9 * (2 + math.sqrt(2)) / 4
    expected = {0: 0.01, 49: 0.5, 99: 1.0, 100: 1.0, 350: quarter, 600: 0.55, 1100: 0.1, 9999: 0.1}
    assert rates == pytest.approx(expected)
    assert learning_rate(dataclasses.replace(config, warmup=0), 0) == 1.0
    assert learning_rate(dataclasses.replace(config, warmup=0, steps=1), 0) == 1.0
    assert learning_rate(dataclasses.replace(config, warmup=2000), 1100) == pytest.approx(1101 / 2000)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(TINY.block + 1, 500), st.integers(0, 99), st.integers(0, 9))
def test_processes_share_the_batch_of_one(share: int, world: int, length: int, step: int, micro: int) -> None:
    """Each sequence is a window of the text, its targets are one further, and the world only deals them out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, "tiny", TINY)
        config, data = TrainConfig("tiny", batch=share * world, seed=3), np.arange(length, dtype=np.uint16)
        whole, targets = batch_at(data, config, step, micro, ALONE)
        dealt = [batch_at(data, config, step, micro, Place(rank, world, ALONE.device))[0] for rank in range(world)]
    assert torch.equal(torch.stack(dealt, dim=1).flatten(0, 1), whole)
    assert torch.equal(whole, whole[:, :1] + torch.arange(TINY.block))  # the text counts its own characters
    assert torch.equal(targets, whole + 1)
    assert targets.max() < length


def test_batches_reach_both_ends_and_change_with_seed_step_and_micro_batch(tiny: TrainConfig) -> None:
    data = np.arange(TINY.block + 3, dtype=np.uint16)
    config = dataclasses.replace(tiny, batch=200)
    assert batch_at(data, config, 0, 0, ALONE)[0][:, 0].unique().tolist() == [0, 1, 2]
    others = [(tiny, 0, 0), (tiny, 1, 0), (tiny, 0, 1), (dataclasses.replace(tiny, seed=2), 0, 0)]
    drawn = [batch_at(np.arange(9999), *other, ALONE)[0][:, 0].tolist() for other in others]
    assert len({tuple(starts) for starts in drawn}) == 4


def test_a_step_follows_the_mean_gradient_of_all_its_sequences(tiny: TrainConfig, small_corpus: Corpus) -> None:
    """After a step the first moment is a tenth of the gradient, even if it came in two parts or was clipped."""
    config = dataclasses.replace(tiny, accumulate=2, clip=1e9)
    trainer, clipped = (Trainer(c, small_corpus, ALONE) for c in (config, dataclasses.replace(config, clip=0.01)))
    for each in (trainer, clipped):
        each.model.config = dataclasses.replace(TINY, dropout=0.0)
        for module in each.model.modules():
            if hasattr(module, "dropout"):
                module.dropout = 0.0
    parts = [batch_at(small_corpus.train, config, 0, micro, ALONE) for micro in (0, 1)]
    inputs, targets = (torch.cat(part) for part in zip(*parts))
    loss = F.cross_entropy(trainer.model(inputs).flatten(0, 1), targets.flatten())
    gradients = torch.autograd.grad(loss, list(trainer.model.parameters()))
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    assert norm > 0.1
    gains = [each.model.norm.weight.data.clone() for each in (trainer, clipped)]

    trainer.take_step()
    assert trainer.mean_loss() == pytest.approx(loss.item(), rel=1e-5)
    clipped.take_step()
    for scale, each in ((1.0, trainer), (0.01 / norm, clipped)):
        for parameter, gradient in zip(each.model.parameters(), gradients):
            moment = each.optimizer.state[parameter]["exp_avg"]
            torch.testing.assert_close(moment, 0.1 * scale * gradient, rtol=1e-3, atol=1e-7)
    for each, before in zip((trainer, clipped), gains):  # Adam's first step is the learning rate itself: lr / warmup
        assert (each.model.norm.weight.data - before).abs().median().item() == pytest.approx(1e-2 / 4, rel=0.01)


def test_only_matrices_decay(tiny: TrainConfig, small_corpus: Corpus) -> None:
    trainer = Trainer(dataclasses.replace(tiny, weight_decay=0.5, lr=0.1), small_corpus, ALONE)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    for parameter in trainer.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trainer.optimizer.step()
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(parameter.data, before[name] * (0.95 if parameter.dim() == 2 else 1.0))


def test_validation_is_the_books_score_of_windows_side_by_side(tiny: TrainConfig, small_corpus: Corpus) -> None:
    trainer = Trainer(tiny, small_corpus, ALONE)
    scores = score(torch_logits(trainer.model.eval()), small_corpus.val[:201], 8, stride=8, by_story=False)
    assert trainer.validate() == pytest.approx(scores.bpc, abs=1e-6)


# ---- A run. ----


def test_a_run_learns_and_keeps_its_best(tiny: TrainConfig, small_corpus: Corpus, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny, steps=60, batch=32, eval_every=20)
    assert Trainer(config, small_corpus, ALONE).validate() > 6.0
    model = train(config, small_corpus, tmp_path, progress=False)
    log, card = read_log(tmp_path / "log.csv"), json.loads((tmp_path / "best.json").read_text())
    assert [row["step"] for row in log] == [20, 40, 60]
    assert log[-1]["val_bpc"] < 4.0
    assert card["validation_bpc"] == min(row["val_bpc"] for row in log)
    assert (card["step"], card["characters_seen"]) == (60, 60 * 32 * 8)
    assert (card["training"], card["model"]) == (dataclasses.asdict(config), dataclasses.asdict(TINY))
    assert card["data"]["train"]["sha256"] == small_corpus.meta["splits"]["train"]["sha256"]
    best = load_model(tmp_path / "best.safetensors").state_dict()
    assert not model.training
    assert all(torch.equal(best[name], tensor) for name, tensor in model.state_dict().items())


def test_the_log_does_not_depend_on_the_progress_bar(tiny: TrainConfig, small_corpus: Corpus, tmp_path: Path) -> None:
    for progress in (True, False):
        train(tiny, small_corpus, tmp_path / str(progress), progress=progress)
    assert rows(tmp_path / "True") == rows(tmp_path / "False")
    assert [row["step"] for row in rows(tmp_path / "True")] == [4, 8, 12, 13]
    assert rows(tmp_path / "True")[0]["train_bpc"] == pytest.approx(math.log2(97), rel=0.1)  # bits, of a new model


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_run_asked_to_stop_goes_on_bit_by_bit(
    tiny: TrainConfig,
    make_corpus: Callable[..., Corpus],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: signal.Signals,
) -> None:
    """The step under way is finished and saved; after the pause dropout draws the same masks, and the best is known.

    The validation text is one that training makes ever less likely, so the best is the first.
    """
    data = make_corpus(300, "0123456789" * 30)
    train(tiny, data, tmp_path / "whole")
    take_step, handler = Trainer.take_step, signal.getsignal(stop)

    def interrupted_step(trainer: Trainer) -> torch.Tensor:
        if trainer.step == 5:
            signal.raise_signal(stop)
        return take_step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "take_step", interrupted_step)
        with pytest.raises(KeyboardInterrupt, match="the state after step 6 is saved; add --resume to go on"):
            train(tiny, data, tmp_path / "stopped")
    assert load_tensors(tmp_path / "stopped" / "state.safetensors")[1]["step"] == 6
    assert signal.getsignal(stop) is handler
    train(tiny, data, tmp_path / "stopped", resume=True)
    assert_same_state(tmp_path / "whole", tmp_path / "stopped")
    assert rows(tmp_path / "whole") == rows(tmp_path / "stopped")
    for out in (tmp_path / "whole", tmp_path / "stopped"):
        assert json.loads((out / "best.json").read_text())["step"] == 4
        assert (out / "best.safetensors").read_bytes() == (tmp_path / "whole" / "best.safetensors").read_bytes()


def test_a_finished_run_resumed_is_the_same_run(tiny: TrainConfig, small_corpus: Corpus, tmp_path: Path) -> None:
    train(tiny, small_corpus, tmp_path)
    before = contents(tmp_path)
    model = train(tiny, small_corpus, tmp_path, resume=True)
    assert contents(tmp_path) == before
    tensors, _ = load_tensors(tmp_path / "state.safetensors")
    assert all(torch.equal(tensors[f"model.{name}"], tensor) for name, tensor in model.state_dict().items())


def test_a_log_line_cut_off_anywhere_is_left_out(tiny: TrainConfig, small_corpus: Corpus, tmp_path: Path) -> None:
    train(tiny, small_corpus, tmp_path)
    path = tmp_path / "log.csv"
    whole, log = path.read_bytes(), read_log(path)
    last = whole.rstrip().rfind(b"\n") + 1
    for end in range(last, len(whole)):
        path.write_bytes(whole[:end])
        assert read_log(path) in (log[:-1], log)


# ---- The command, in processes of its own. ----

NANO = ["--config", "nano", "--batch", "4", "--eval-every", "5", "--eval-chars", "128", "--bf16", "off"]
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def start(data: Corpus, out: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lib.train", *NANO, "--data", str(data.folder), "--out", str(out), *flags]
    return subprocess.Popen(command, env=ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for_rows(run: subprocess.Popen[str], out: Path, count: int) -> None:
    """Wait until a run's log has so many rows; fail if it ends before."""
    while not (out / "log.csv").exists() or len(read_log(out / "log.csv")) < count:
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.002)


def test_a_run_killed_at_random_moments_goes_on_bit_by_bit(small_corpus: Corpus, tmp_path: Path) -> None:
    whole, killed, delays = tmp_path / "whole", tmp_path / "killed", random.Random()
    reference = start(small_corpus, whole, "--steps", "60")
    for count in (1, 4, 7):  # of twelve
        with start(small_corpus, killed, "--steps", "60", "--resume") as run:
            wait_for_rows(run, killed, count)
            time.sleep(delays.uniform(0, 0.06))
            run.kill()
        assert run.returncode == -signal.SIGKILL
    for run in (reference, start(small_corpus, killed, "--steps", "60", "--resume")):
        _, complaint = run.communicate()
        assert run.returncode == 0, complaint
    assert_same_state(whole, killed)
    assert rows(whole) == rows(killed)
    assert (whole / "best.safetensors").read_bytes() == (killed / "best.safetensors").read_bytes()


def test_ctrl_c_ends_a_run_with_one_sentence_and_its_state(small_corpus: Corpus, tmp_path: Path) -> None:
    with start(small_corpus, tmp_path, "--steps", "100000") as run:
        wait_for_rows(run, tmp_path, 1)
        run.send_signal(signal.SIGINT)
        _, told = run.communicate()
    assert run.returncode == 130
    last = told.splitlines()[-1]
    sentence = re.fullmatch(r"interrupted: the state after step (\d+) is saved; add --resume to go on", last)
    assert "Traceback" not in told
    assert load_tensors(tmp_path / "state.safetensors")[1]["step"] == int(sentence[1]) >= 5


def test_two_processes_train_as_one(small_corpus: Corpus, tmp_path: Path) -> None:
    """Three steps of two micro-batches each, shared by two processes, move the weights as one process does.

    Adam's steps do not show the scale of a gradient; its moments do, as long as nothing is clipped.
    """
    flags = ["--steps", "3", "--accumulate", "2", "--clip", "1000", "--warmup", "50"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    files = ["--data", str(small_corpus.folder), "--out", str(tmp_path / "two")]
    command = [*torchrun, "-m", "lib.train", *NANO, *flags, *files]
    done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best validation") == 1
    config, _ = training.parse([*NANO, *flags, "--out", "unused"])
    train(config, small_corpus, tmp_path / "one")
    one, two = (load_tensors(tmp_path / name / "state.safetensors")[0] for name in ("one", "two"))
    start_at = Trainer(config, small_corpus, ALONE).model.state_dict()
    for name, tensor in one.items():
        if name.startswith("model."):
            assert (tensor - start_at[name.removeprefix("model.")]).abs().max() > 1e-4  # ten times the tolerance
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5)
        if name.startswith("exp_avg."):
            assert (two[name] - tensor).norm() <= 1e-4 * tensor.norm() + 1e-7


# ---- Refusals: exit code 2 and one sentence. ----


@pytest.fixture
def refused(command: Command, tiny: TrainConfig, small_corpus: Corpus, tmp_path: Path) -> Callable[..., str]:
    """Run the command with flags that it must refuse; return its sentence."""

    def run(*flags: object) -> str:
        given = ["--model", "tiny", "--data", small_corpus.folder, "--out", tmp_path / "run", *flags]
        code, _, told = command(training.main, *given)
        assert code == 2, told
        return told.splitlines()[-1]

    return run


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (["--steps", "-1"], "steps is -1; it must be above 0"),
        (["--batch", "0"], "batch is 0; it must be above 0"),
        (["--accumulate", "0"], "accumulate is 0"),
        (["--eval-every", "0"], "eval_every is 0"),
        (["--lr", "nan"], "lr is nan"),
        (["--warmup", "-1"], "warmup is -1; it must not be negative"),
        (["--seed", "-1"], "seed is -1"),
        (["--seed", "9" * 30], "seed is 9+"),
        (["--bf16", "maybe"], "bf16 is 'maybe'; choose auto, on or off"),
        (["--model", "huge"], "the model 'huge' is unknown; choose one of report, pocket, nano"),
        (["--data", "nowhere"], "the data folder nowhere does not exist"),
        (["--lr", "1e30", "--warmup", "0", "--steps", "20"], "not finite"),
    ],
)
def test_impossible_flags_are_told(refused: Callable[..., str], flags: list[str], complaint: str) -> None:
    assert re.search(f"^error: .*{complaint}", refused(*flags))


def test_an_unknown_configuration_is_told(refused: Callable[..., str]) -> None:
    assert "invalid choice: 'huge'" in refused("--config", "huge")


def test_a_text_no_longer_than_the_block_is_told(
    refused: Callable[..., str], make_corpus: Callable[..., Corpus]
) -> None:
    short = make_corpus(100, 2)
    told = refused("--model", "pocket", "--data", short.folder)
    assert told.startswith(f"error: the validation text has {len(short.val)} characters and the block is 256")


def test_wandb_without_its_package_is_told(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it raises, as where it is not installed
    assert refused("--wandb", "book").startswith("error: --wandb needs the package wandb; install it")


def test_a_batch_that_does_not_divide_is_told(tiny: TrainConfig, small_corpus: Corpus) -> None:
    with pytest.raises(training.BookError, match="batch 4 does not divide among 3 processes"):
        Trainer(tiny, small_corpus, Place(0, 3, torch.device("cpu")))


def test_a_run_is_neither_overwritten_nor_resumed_as_another(
    command: Command,
    refused: Callable[..., str],
    make_corpus: Callable[..., Corpus],
    small_corpus: Corpus,
    tmp_path: Path,
) -> None:
    flags = ["--model", "tiny", "--steps", "3", "--bf16", "off"]
    first = command(training.main, *flags, "--data", small_corpus.folder, "--out", tmp_path / "run")
    assert first[0] == 0
    assert re.search(r"best validation: \d\.\d{4} bits per character at step 3; see ", first[1])
    before = contents(tmp_path / "run")
    assert "already holds a run; add --resume" in refused(*flags)
    assert "belongs to a run with other settings" in refused(*flags, "--lr", "1e-3", "--resume")
    other = make_corpus(301, 40)
    assert "belongs to a run on another text" in refused(*flags, "--data", other.folder, "--resume")
    assert contents(tmp_path / "run") == before
