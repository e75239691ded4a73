"""Training: ``python -m lib.train --config pocket --out out/pocket``.

The same command runs on a CPU, on a GPU, or on many under ``torchrun``. Every random choice is a
function of (seed, step), so the position in the run is the step number alone: a run that is killed
and resumed takes the same batches, drops the same activations and ends with the same weights.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import os
import signal
import threading
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Callable, Iterator, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from lib.checkpoint import load_tensors, save_model, save_tensors
from lib.corpus import SOURCES, Corpus, load_stories, open_corpus
from lib.errors import BookError, run_command
from lib.evaluate import scores_beside, torch_logits
from lib.files import atomic_write, read_json, write_json
from lib.gpt import CONFIGS, GPT, check_seed
from lib.processor import processor_name

BETAS = (0.9, 0.95)  # Table 1.2's AdamW

Config = TypeVar("Config")  # a dataclass of options


def option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


def check_above_zero(config: Any, *names: str) -> None:
    """Raise BookError unless the named fields of a configuration are above zero."""
    for name in names:
        if not getattr(config, name) > 0:
            raise BookError(f"{name} is {getattr(config, name)}; it must be above 0")


def check_not_negative(config: Any, *names: str) -> None:
    """Raise BookError if a named field of a configuration is negative."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise BookError(f"{name} is {getattr(config, name)}; it must not be negative")


@dataclass(frozen=True)
class TrainConfig:
    """A training run: the model, the schedule and the seed. Every field is a command-line flag."""

    model: str = option("pocket", "model configuration")
    steps: int = option(1000, "optimiser steps")
    batch: int = option(32, "sequences in a micro-batch, over all processes")
    accumulate: int = option(1, "micro-batches in a step")
    lr: float = option(3e-3, "peak learning rate")
    min_lr: float = option(3e-4, "learning rate at the end")
    warmup: int = option(100, "steps of linear warm-up")
    weight_decay: float = option(0.1, "AdamW's weight decay, on matrices only")
    clip: float = option(1.0, "largest gradient norm")
    eval_every: int = option(250, "steps between validations, each of which also saves the state")
    eval_chars: int = option(100_000, "validation characters scored each time")
    seed: int = option(1, "seed of the initial weights and of every batch")
    bf16: str = option("auto", "bfloat16 autocast: on, off, or auto (on for CUDA)")

    def __post_init__(self) -> None:
        if self.model not in CONFIGS:
            raise BookError(f"the model {self.model!r} is unknown; choose one of {', '.join(CONFIGS)}")
        if self.bf16 not in ("auto", "on", "off"):
            raise BookError(f"bf16 is {self.bf16!r}; choose auto, on or off")
        check_above_zero(self, "steps", "batch", "accumulate", "lr", "clip", "eval_every", "eval_chars")
        check_not_negative(self, "min_lr", "warmup", "weight_decay")
        check_seed(self.seed)

    @property
    def characters_per_step(self) -> int:
        return self.batch * self.accumulate * CONFIGS[self.model].block


TRAININGS = {
    # Table 1.2 of the report: 600,000 steps of 131,072 characters, 78.6 G in all.
    "report": TrainConfig("report", 600_000, 64, 8, 6e-4, 6e-5, 2000, eval_every=2000),
    # What the shipped checkpoints were trained with, on two CPU cores; short trials chose batch and rate.
    "pocket": TrainConfig("pocket", 20_000, 16, 1, 3e-3, 6e-5, 300, eval_every=250, bf16="on"),
    "nano": TrainConfig("nano", 14_000, 64, 1, 5e-3, 1e-4, 300, eval_every=250, bf16="on"),
    # Small enough to watch in chapter 02: under a minute on two cores.
    "live": TrainConfig("nano", 400, 64, 1, 6e-3, 6e-4, 50, eval_every=50, eval_chars=50_000),
}


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up to ``lr``, then a cosine down to ``min_lr`` at the last step."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - 1 - config.warmup)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


# ---- Where the run takes place. ----


@dataclass(frozen=True)
class Place:
    """This process among all that train together, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is true in any of the processes: they stop at the same step, or not at all."""
        if self.world == 1:
            return flag
        flags = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags)


@contextmanager
def place() -> Iterator[Place]:
    """Join the processes that ``torchrun`` started, or stand alone; use CUDA where there is some."""
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if world == 1:
        yield Place(0, 1, device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Place(dist.get_rank(), world, device)
    finally:
        dist.destroy_process_group()


def leads() -> bool:
    """Whether this process is the one, of those that ``torchrun`` started, that speaks and writes at the end."""
    return int(os.environ.get("RANK", "0")) == 0


def hardware(device: torch.device) -> str:
    """Name the processor a run used, for its card."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    count = torch.get_num_threads()
    return f"{processor_name()}, {count} thread{'s' * (count > 1)}"


# ---- One step. ----


def batch_at(data: np.ndarray, config: TrainConfig, step: int, micro: int, here: Place) -> tuple[Tensor, Tensor]:
    """Return this process's share of a micro-batch: inputs and targets, int64 (batch / world, block).

    The whole micro-batch is drawn the same way by every process, which then keeps every world-th
    sequence: one process or eight, a step sees the same characters.
    """
    block = CONFIGS[config.model].block
    rng = np.random.default_rng([config.seed, step, micro])
    starts = rng.integers(0, len(data) - block, size=config.batch)[here.rank :: here.world]
    windows = torch.from_numpy(np.stack([data[s : s + block + 1] for s in starts]).astype(np.int64))
    windows = windows.to(here.device)
    return windows[:, :-1], windows[:, 1:]


def make_optimizer(model: GPT, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices and embeddings, but neither biases nor LayerNorm gains."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=BETAS, fused=True)


def autocast(config: TrainConfig, device: torch.device) -> Any:
    enabled = config.bf16 == "on" or (config.bf16 == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16) if enabled else nullcontext()


class Trainer:
    """A model, its optimiser and the number of steps done."""

    def __init__(self, config: TrainConfig, data: Corpus, here: Place, model: GPT | None = None) -> None:
        """Start from ``model``, which is then trained in place, or from random weights."""
        block = CONFIGS[config.model].block
        for name, split in (("training", data.train), ("validation", data.val)):
            if len(split) <= block:
                raise BookError(
                    f"the {name} text has {len(split)} characters and the block is {block}; use a longer text"
                )
        if config.batch % here.world:
            raise BookError(f"batch {config.batch} does not divide among {here.world} processes; change it")
        torch.manual_seed(config.seed)
        self.config, self.data, self.here = config, data, here
        self.model = (model or GPT(CONFIGS[config.model])).to(here.device)
        self.parallel = self.shared()
        self.optimizer = make_optimizer(self.model, config)
        self.step, self.seconds, self.best = 0, 0.0, math.inf
        self.losses, self.counted = torch.zeros((), device=here.device), 0

    def shared(self) -> torch.nn.Module:
        """Return the model as all processes train it, who exchange the gradients of the parameters it has now."""
        return DistributedDataParallel(self.model) if self.here.world > 1 else self.model

    def take_step(self) -> None:
        """Make one optimiser step, and add its loss to the sum that ``mean_loss`` reads."""
        self.parallel.train()
        torch.manual_seed(hash((self.config.seed, self.step, self.here.rank)))  # for dropout
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        for micro in range(self.config.accumulate):
            self.losses += self._backward(micro).detach()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.counted += 1

    def mean_loss(self) -> float:
        """Return this process's mean loss since the last call, in nats a character; BookError if not finite."""
        mean = self.losses.item() / self.counted
        if not math.isfinite(mean):
            raise BookError(f"the loss at step {self.step} is not finite; choose a lower --lr")
        self.losses, self.counted = torch.zeros_like(self.losses), 0
        return mean

    def _backward(self, micro: int) -> Tensor:
        inputs, targets = batch_at(self.data.train, self.config, self.step, micro, self.here)
        more = micro + 1 < self.config.accumulate
        quiet = self.parallel.no_sync() if more and self.here.world > 1 else nullcontext()
        with quiet:  # the processes exchange gradients once a step
            with autocast(self.config, self.here.device):
                logits = self.parallel(inputs)
            loss = self.loss(logits.float(), inputs, targets) / self.config.accumulate
            loss.backward()
        return loss

    def loss(self, logits: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return what a step lowers: the mean cross-entropy of logits (B, T, V), in nats."""
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def distillation(self, teacher: GPT, logits: Tensor, inputs: Tensor) -> Tensor:
        """Return the cross-entropy against a teacher's probabilities (Hinton et al. 2015, temperature 1), in nats."""
        with torch.no_grad(), autocast(self.config, self.here.device):
            taught = teacher(inputs).float().softmax(dim=2)
        return F.cross_entropy(logits.flatten(0, 1), taught.flatten(0, 1))

    def snapshot(self) -> GPT | None:
        """Return the model as it would be kept now, or None if it is not one to keep yet."""
        return self.model

    @torch.no_grad()
    def validate(self) -> float:
        """Return bits per character on the first ``eval_chars`` of validation, windows side by side."""
        self.model.eval()
        device = self.model.token.weight.device  # after a run perhaps another than the one it trained on
        block = self.model.config.block
        count = max(1, min(self.config.eval_chars, len(self.data.val) - 1) // block)
        windows = torch.from_numpy(self.data.val[: count * block + 1].astype(np.int64)).to(device)
        inputs, targets = windows[:-1].view(count, block), windows[1:].view(count, block)
        total = 0.0
        for some, goal in zip(inputs.split(64), targets.split(64)):
            with autocast(self.config, device):
                logits = self.model(some)
            total += F.cross_entropy(logits.float().flatten(0, 1), goal.flatten(), reduction="sum").item()
        return total / (count * block) / math.log(2)

    # The state file holds all that a run is: weights, both moments, and the step.

    def save_state(self, path: Path) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for moment in ("exp_avg", "exp_avg_sq"):
                tensors[f"{moment}.{name}"] = self.optimizer.state[parameter][moment]
        best = self.best if math.isfinite(self.best) else None
        run = {"config": dataclasses.asdict(self.config), "text": self.data.meta["splits"]["train"]["sha256"]}
        run |= {"step": self.step, "seconds": self.seconds, "best": best}
        save_tensors(path, tensors, run | {"losses": self.losses.item(), "counted": self.counted})

    def load_state(self, path: Path) -> None:
        tensors, run = load_tensors(path)
        if run.get("config") != dataclasses.asdict(self.config):
            raise BookError(f"{path} belongs to a run with other settings; repeat its flags, or choose another --out")
        if run["text"] != self.data.meta["splits"]["train"]["sha256"]:
            raise BookError(
                f"{path} belongs to a run on another text; resume it with that text, or choose another --out"
            )
        self.model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
        for name, parameter in self.model.named_parameters():
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(run["step"]), device=self.here.device),
                **{m: tensors[f"{m}.{name}"].to(self.here.device) for m in ("exp_avg", "exp_avg_sq")},
            }
        self.step, self.seconds, self.counted = run["step"], run["seconds"], run["counted"]
        self.losses.fill_(run["losses"])
        self.best = math.inf if run["best"] is None else run["best"]


# ---- The run: log, progress, validation, interruption. ----


class Log:
    """The CSV log, one row a validation; after a resume, rows of steps not yet done again are dropped."""

    COLUMNS = ("step", "characters", "train_bpc", "val_bpc", "lr", "seconds")

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [row for row in read_log(path) if row["step"] <= step] if step and path.exists() else []
        with atomic_write(path) as file:
            lines = [self.COLUMNS, *([row[c] for c in self.COLUMNS] for row in kept)]
            file.write("".join(",".join(map(str, line)) + "\n" for line in lines).encode())

    def write(self, row: dict[str, float]) -> None:
        with self.path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow([row[column] for column in self.COLUMNS])


def read_log(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """Read a training log; a last line cut off by a crash is left out."""
    lines = Path(path).read_text().splitlines(keepends=True)
    rows = csv.DictReader(line for line in lines if line.endswith("\n"))
    return [{k: int(v) if k in ("step", "characters") else float(v) for k, v in row.items()} for row in rows]


@contextmanager
def stop_politely() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a question asked between steps, so that no step is cut in two."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    previous = {s: signal.signal(s, lambda *_: asked.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def train(
    config: TrainConfig,
    data: Corpus,
    out: str | os.PathLike[str],
    resume: bool = False,
    wandb_project: str | None = None,
    progress: bool = True,
) -> GPT:
    """Train, and return the model of the last step in evaluation mode.

    ``out`` receives ``log.csv``, ``best.safetensors`` with its card ``best.json`` (the validation's
    favourite), and ``state.safetensors`` (everything ``resume`` needs). Raises BookError for a text
    shorter than the block, a batch that does not divide, a state of another run or text, an ``out``
    that already holds a run when not resuming; KeyboardInterrupt, with the state saved, on Ctrl-C.
    """
    with place() as here:
        return run(Trainer(config, data, here), out, resume, wandb_project, progress)


def run(
    trainer: Trainer,
    out: str | os.PathLike[str],
    resume: bool = False,
    wandb_project: str | None = None,
    progress: bool = True,
) -> GPT:
    """Take a trainer's steps to the end, as ``train`` says, whatever the trainer trains."""
    try:
        _steps(trainer, Path(out), resume, wandb_project, progress)
    finally:
        trainer.parallel = trainer.model  # what shares it must not outlive the group of processes
    return trainer.model.eval()


def _steps(trainer: Trainer, out: Path, resume: bool, wandb_project: str | None, progress: bool) -> None:
    config, here = trainer.config, trainer.here
    with stop_politely() as stop_asked:
        state = out / "state.safetensors"
        if resume and state.exists():
            trainer.load_state(state)
        elif state.exists():
            raise BookError(f"{out} already holds a run; add --resume to go on with it, or choose another --out")
        log = Log(out / "log.csv", trainer.step) if here.leads else None
        report = _wandb(wandb_project, config) if here.leads else None
        bar = tqdm(total=config.steps, initial=trainer.step, unit="step", disable=not (progress and here.leads))
        mark = time.perf_counter()
        with bar:
            while trainer.step < config.steps:
                trainer.take_step()
                due = trainer.step % config.eval_every == 0 or trainer.step == config.steps
                stop = here.any(stop_asked())
                if due or trainer.step % 10 == 0:
                    loss = trainer.mean_loss()
                    seconds = trainer.seconds + time.perf_counter() - mark
                    bar.update(trainer.step - bar.n)
                    rate = config.characters_per_step * trainer.step / seconds
                    bar.set_postfix_str(f"loss {loss:.3f}, {rate:,.0f} characters/s")
                if here.leads and (due or stop):
                    trainer.seconds += time.perf_counter() - mark
                    if due:
                        _validate(trainer, loss, log, out, report)
                    trainer.save_state(state)
                    mark = time.perf_counter()
                if stop:
                    raise KeyboardInterrupt(f"the state after step {trainer.step} is saved; add --resume to go on")


def _validate(trainer: Trainer, loss: float, log: Log, out: Path, report: Callable[[dict], None]) -> None:
    """Score the validation text, log the result, and keep the weights if they are the best so far."""
    bpc = trainer.validate()
    row = {
        "step": trainer.step,
        "characters": trainer.step * trainer.config.characters_per_step,
        "train_bpc": round(loss / math.log(2), 5),
        "val_bpc": round(bpc, 5),
        "lr": round(learning_rate(trainer.config, trainer.step - 1), 7),
        "seconds": round(trainer.seconds, 1),
    }
    log.write(row)
    report(row)
    model = trainer.snapshot()
    if model is not None and bpc < trainer.best:
        trainer.best = bpc
        save_model(out / "best.safetensors", model)
        write_json(out / "best.json", card(trainer, row))


def card(trainer: Trainer, row: dict[str, float]) -> dict[str, Any]:
    """Describe a checkpoint: its shape, its training, its text, its machine and its score."""
    data = trainer.data
    return {
        "model": dataclasses.asdict(trainer.model.config),
        "training": dataclasses.asdict(trainer.config),
        "data": {"corpus": data.name, "source": data.source}
        | {name: {k: s[k] for k in ("characters", "stories", "sha256")} for name, s in data.meta["splits"].items()},
        "step": row["step"],
        "characters_seen": row["characters"],
        "training_seconds": row["seconds"],
        "hardware": hardware(trainer.here.device),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "validation_bpc": row["val_bpc"],
    }


def write_scored_card(path: Path, trainer: Trainer, teacher: GPT, model: torch.nn.Module, characters: int) -> None:
    """Score a model that was trained from ``teacher`` beside it; write its card beside the checkpoint, and say so."""
    row = {"step": trainer.step, "characters": trainer.step * trainer.config.characters_per_step}
    row |= {"seconds": round(trainer.seconds, 1), "val_bpc": round(trainer.validate(), 5)}
    found = scores_beside(teacher, torch_logits(model), trainer.data, characters)
    write_json(path.with_suffix(".json"), card(trainer, row) | {"scores": found})
    increase = f"{found['ppl_increase_pct']:+.2f} % on {found['characters']:,} characters of {trainer.data.name}"
    print(f"{path}: perplexity {increase}")


def _wandb(project: str | None, config: TrainConfig) -> Callable[[dict], None]:
    """Return a function that reports a row to Weights & Biases, or one that does nothing."""
    if project is None:
        return lambda row: None
    try:
        import wandb
    except ImportError:
        raise BookError(
            "--wandb needs the package wandb; install it with `pip install wandb`, or drop the flag"
        ) from None
    run = wandb.init(project=project, config=dataclasses.asdict(config))
    return lambda row: run.log(row, step=int(row["step"]))


# ---- The command. ----


def parse(arguments: list[str] | None = None) -> tuple[TrainConfig, argparse.Namespace]:
    """Read the command line: a named configuration, then any of its fields overridden."""
    parser = argparse.ArgumentParser(prog="python -m lib.train", description="Train one of the book's models.")
    parser.add_argument("--config", choices=TRAININGS, default="pocket", help="named configuration to start from")
    add_options(parser, TrainConfig)
    given = parser.parse_args(arguments)
    return override(TRAININGS[given.config], given), given


def add_options(parser: argparse.ArgumentParser, kind: type[TrainConfig]) -> None:
    """Add every field of a configuration as a flag, and the flags that any run has."""
    add_fields(parser, kind)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, state and log")
    parser.add_argument("--data", type=Path, help="a prepared corpus folder (default: by --source)")
    parser.add_argument("--source", choices=SOURCES, default="auto", help="where the text comes from")
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out, if there is one")
    parser.add_argument("--wandb", metavar="PROJECT", help="also report to Weights & Biases")


def add_fields(parser: argparse.ArgumentParser, kind: type, but: tuple[str, ...] = ()) -> None:
    """Add every field of a configuration, ``but`` some, as a flag."""
    for entry in fields(kind):
        if entry.name not in but:
            value = {"int": int, "float": float, "str": str}[entry.type]
            parser.add_argument(f"--{entry.name.replace('_', '-')}", type=value, help=entry.metadata["help"])


def override(config: Config, given: argparse.Namespace) -> Config:
    """Return ``config`` with the fields that were given on the command line."""
    chosen = {o.name: getattr(given, o.name) for o in fields(config) if getattr(given, o.name) is not None}
    return dataclasses.replace(config, **chosen)


def chosen_corpus(given: argparse.Namespace) -> Corpus:
    """Return the text that ``--data`` or ``--source`` names."""
    return open_corpus(given.data) if given.data else load_stories(given.source)


def report_best(out: Path) -> None:
    """Print the best validation of the run in ``out``, once, however many processes trained."""
    if not leads():
        return
    best = read_json(out / "best.json", "the card")
    print(f"best validation: {best['validation_bpc']:.4f} bits per character at step {best['step']}; see {out}")


def main() -> None:
    config, given = parse()
    data = chosen_corpus(given)
    print(f"training {config.model} on {data.describe()}")
    train(config, data, given.out, given.resume, given.wandb)
    report_best(given.out)


if __name__ == "__main__":
    run_command(main)
