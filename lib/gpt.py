"""A decoder-only GPT, small enough to read in one sitting and to fit an FPGA.

Section 1.1 of the report: token and position embeddings, pre-norm blocks of masked multi-head
self-attention and a 4x GELU feed-forward, residual connections, a final LayerNorm and a head tied
to the token embedding. Two forward paths give the same logits:

* ``forward``: a whole window at once, for training and scoring;
* ``step``: one token at a time against a KV cache, for generation, and for every hardware route.

Shapes are static and control flow never looks at data, so both paths export to ONNX as they stand.
Shapes in the comments: B batch, T time, C width (n_embd), H heads, D = C/H, S block, V alphabet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Iterator, Sequence

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn import functional as F

from lib.errors import BookError
from lib.text import SIZE


ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu}  # GELU the exact one, with erf; ReLU for hardware that has no other


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a model. ``block`` is the longest context, in characters."""

    n_layer: int
    n_head: int
    n_embd: int
    block: int
    vocab: int = SIZE
    dropout: float = 0.0
    activation: str = "gelu"  # of the feed-forward: one of ACTIVATIONS

    def __post_init__(self) -> None:
        for field in ("n_layer", "n_head", "n_embd", "block", "vocab"):
            if getattr(self, field) < 1:
                raise BookError(f"{field} is {getattr(self, field)}; it must be at least 1")
        if self.n_embd % self.n_head:
            raise BookError(f"n_embd {self.n_embd} does not divide into {self.n_head} heads; change one")
        if self.block % 2:
            raise BookError(f"block {self.block} is odd; the cache refill needs an even block")
        if not 0 <= self.dropout < 1:
            raise BookError(f"dropout {self.dropout} is outside [0, 1)")
        if self.activation not in ACTIVATIONS:
            raise BookError(f"activation {self.activation!r} is unknown; choose one of {', '.join(ACTIVATIONS)}")


CONFIGS = {
    "report": GPTConfig(n_layer=6, n_head=6, n_embd=384, block=256, dropout=0.1),  # Table 1.1
    "pocket": GPTConfig(n_layer=8, n_head=4, n_embd=128, block=256),  # the size Table 1.1 claims
    "nano": GPTConfig(n_layer=2, n_head=4, n_embd=128, block=64),  # fits a small FPGA
}


class Attention(nn.Module):
    """Masked multi-head self-attention."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head, self.head_width = config.n_head, config.n_embd // config.n_head  # H, D
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.out = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        T = x.shape[1]
        q, k, v = self.heads(x)  # each (B, H, T, D)
        visible = torch.ones(T, T, dtype=torch.bool, device=x.device).tril()  # no looking ahead
        return self.merge(self.attend(q, k, v, visible))

    def step(self, x: Tensor, position: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Attend from one token, x (B, 1, C), to a cache (2, B, H, S, D) of keys and values."""
        q, k, v = self.heads(x)  # each (B, H, 1, D)
        slots = torch.arange(cache.shape[3], device=x.device)  # (S,)
        here = (slots == position)[:, None]  # (S, 1)
        cache = torch.where(here, torch.stack((k, v)), cache)  # Where, not Scatter: exports anywhere
        y = self.attend(q, cache[0], cache[1], visible=(slots <= position)[None, :])  # (B, H, 1, D)
        return self.merge(y), cache

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project x (B, T, C) to queries, keys and values, each (B, H, T, D)."""
        q, k, v = self.qkv(x).chunk(3, dim=2)  # each (B, T, C)
        shape = (x.shape[0], x.shape[1], self.n_head, self.head_width)
        return tuple(part.view(shape).transpose(1, 2) for part in (q, k, v))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
        """Return softmax(q k^T / sqrt(D)) v over the keys where ``visible`` (queries, keys) is true."""
        scores = q @ k.transpose(2, 3) * self.head_width**-0.5  # (B, H, queries, keys)
        weights = scores.masked_fill(~visible, float("-inf")).softmax(dim=3)
        return F.dropout(weights, self.dropout, self.training) @ v  # (B, H, queries, D)

    def merge(self, y: Tensor) -> Tensor:
        """Put the heads' outputs (B, H, T, D) side by side and project them: (B, T, C)."""
        y = self.out(y.transpose(1, 2).flatten(2))
        return F.dropout(y, self.dropout, self.training)


class FeedForward(nn.Module):
    """Two Linear layers, four times as wide in between, with the configuration's activation."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.activation = ACTIVATIONS[config.activation]
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.down = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.up(x))  # (B, T, 4C)
        return F.dropout(self.down(x), self.dropout, self.training)  # (B, T, C)


class Block(nn.Module):
    """One Transformer block: x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.n_embd)
        self.attention = Attention(config)
        self.norm2 = nn.LayerNorm(config.n_embd)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))

    def step(self, x: Tensor, position: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        y, cache = self.attention.step(self.norm1(x), position, cache)
        x = x + y
        return x + self.feed_forward(self.norm2(x)), cache


class GPT(nn.Module):
    """The model: tokens in, logits over the next character out."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token = nn.Embedding(config.vocab, config.n_embd)  # also the head: tied
        self.position = nn.Embedding(config.block, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd)
        self.initialise()

    def initialise(self) -> None:
        """GPT-2's initialisation: normal(0, 0.02), residual projections scaled by 1/sqrt(2 layers)."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                std = 0.02 / (2 * self.config.n_layer) ** 0.5 if residual else 0.02
                nn.init.normal_(parameter, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, T) of int64, T <= block, to logits (B, T, V) of float32."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)  # (T,)
        x = self.token(tokens) + self.position(positions)  # (B, T, C)
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    def step(self, token: Tensor, position: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Advance by one token.

        token: (B,) int64; position: () int64, 0 <= position < block; cache: as ``empty_cache``,
        holding positions 0 to position - 1. Returns logits (B, V) and the new cache.
        """
        x = (self.token(token) + self.position(position))[:, None]  # (B, 1, C)
        caches = []
        for block, old in zip(self.blocks, cache.unbind()):
            x, new = block.step(x, position, old)
            caches.append(new)
        return self.head(x)[:, 0], torch.stack(caches)

    def head(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(x), self.token.weight)  # (B, T, V)

    def empty_cache(self, batch: int = 1) -> Tensor:
        """Return a zero KV cache (n_layer, 2, B, H, S, D)."""
        c = self.config
        shape = (c.n_layer, 2, batch, c.n_head, c.block, c.n_embd // c.n_head)
        return torch.zeros(shape, device=self.token.weight.device, dtype=self.token.weight.dtype)


# ---- Generation. The rule below is part of the specification of every route in the book. ----


def window_start(n: int, block: int) -> int:
    """Return the index of the oldest character that character ``n`` (from 0) can still see.

    Learned positions end at the block. When the cache holds ``block`` characters and another one
    arrives, the cache is refilled from the last block/2 characters, at positions 0 to block/2 - 1,
    and the new one follows at position block/2. So character n sits at position
    n - window_start(n, block), on every route: PyTorch, ONNX, OpenVINO, C, integer and RTL.
    """
    half = block // 2
    return 0 if n < block else half * ((n - block) // half + 1)


class Stepper:
    """Feeds a model one token at a time, refilling its cache by the rule of ``window_start``."""

    def __init__(self, model: GPT) -> None:
        self.model = model
        self.history: list[int] = []
        self.cache = model.empty_cache()

    @torch.no_grad()
    def feed(self, token: int) -> Tensor:
        """Take the next token and return the logits (V,) over the one after it."""
        n, block = len(self.history), self.model.config.block
        start = window_start(n, block)
        if n and start != window_start(n - 1, block):  # the context is full
            self.cache = self.model.empty_cache()
            for position, old in enumerate(self.history[start:]):
                self._step(old, position)
        self.history.append(token)
        return self._step(token, n - start)

    def _step(self, token: int, position: int) -> Tensor:
        device = self.cache.device
        logits, self.cache = self.model.step(
            torch.tensor([token], device=device), torch.tensor(position, device=device), self.cache
        )
        return logits[0]


def check_seed(seed: int) -> None:
    """Raise BookError for a seed that NumPy or PyTorch would not take."""
    if not 0 <= seed < 2**63:
        raise BookError(f"seed is {seed}; it must not be negative, and be below 2^63")


def generate(
    model: GPT,
    prompt: Sequence[int],
    length: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
) -> Iterator[int]:
    """Yield ``length`` tokens that continue ``prompt``, one at a time.

    temperature 0 is greedy; above 0 the logits are divided by it and sampled, from the ``top_k``
    likeliest when given, with a generator seeded by ``seed``. Leaves the model in evaluation mode.
    Raises BookError for an empty prompt, one longer than the block, a token outside the vocabulary,
    a temperature or length that is negative or not finite, a top_k below 1, or a seed as ``check_seed``.
    """
    if not prompt:
        raise BookError("the prompt is empty; give at least one character")
    if len(prompt) > model.config.block:
        raise BookError(
            f"the prompt has {len(prompt)} characters and the model's block is {model.config.block}; shorten it"
        )
    if not all(0 <= token < model.config.vocab for token in prompt):
        raise BookError(f"the prompt holds tokens outside 0 to {model.config.vocab - 1}; encode it with lib.text")
    if length < 0 or not 0 <= temperature < math.inf or (top_k is not None and top_k < 1):
        raise BookError("length and temperature must be 0 or more and finite, and top_k must be at least 1")
    check_seed(seed)
    return _generate(Stepper(model.eval()), prompt, length, temperature, top_k, seed)


def _generate(
    stepper: Stepper, prompt: Sequence[int], length: int, temperature: float, top_k: int | None, seed: int
) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    for token in prompt[:-1]:
        stepper.feed(token)
    token = prompt[-1]
    for _ in range(length):
        token = _choose(stepper.feed(token).cpu(), temperature, top_k, generator)
        yield token


def _choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    if top_k is not None:
        logits, candidates = logits.topk(min(top_k, logits.numel()))
    else:
        candidates = torch.arange(logits.numel())
    probabilities = F.softmax((logits - logits.max()).double() / temperature, dim=0)
    return int(candidates[torch.multinomial(probabilities, 1, generator=generator)])


# ---- What the model costs, counted from the module itself. ----


@dataclass(frozen=True)
class TensorCost:
    """One parameter tensor: its size, and the multiply-accumulates it causes for each token."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    macs_per_token: int


def inventory(model: GPT) -> list[TensorCost]:
    """List every parameter tensor of ``model`` with its cost.

    A Linear weight, and the token embedding in its second role as the head, multiplies once per
    element and token; look-ups, biases and LayerNorm gains count no MAC. Attention's own products
    have no parameters: see ``attention_macs``.
    """
    multiplied = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    multiplied.add("token.weight")  # the tied head
    return [
        TensorCost(name, tuple(p.shape), p.numel(), p.numel() if name in multiplied else 0)
        for name, p in model.named_parameters()
    ]


def block_weights(model: GPT) -> int:
    """Count the weights of the blocks' Linear layers, 12 n_layer n_embd^2, without biases."""
    return sum(row.parameters for row in inventory(model) if row.name.startswith("blocks.") and len(row.shape) == 2)


def attention_macs(config: GPTConfig, context: int) -> int:
    """Return the MACs of q.k and of attention times v for one token that sees ``context`` tokens."""
    return 2 * config.n_layer * config.n_embd * context


def kv_cache_bytes(config: GPTConfig, bytes_per_value: int = 4) -> int:
    """Return the size of a full KV cache for one sequence."""
    return 2 * config.n_layer * config.block * config.n_embd * bytes_per_value
