"""The model as deployment tools get it: every product a Linear, and exact rewrites that help quantisers.

A tied head is a product that tools which look for ``nn.Linear`` never see, so it is untied here. The
rewrites change the weights and not the function: LayerNorm's gain and bias move into the Linear
behind it (``fold_norms``), a channel's scale moves across a Linear's input (``equalise``, as in
SmoothQuant), and the residual stream turns into another basis (``rotate``, as in QuaRot).
"""

from __future__ import annotations

import dataclasses
from typing import Mapping

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.utils import prune

from lib.errors import BookError
from lib.gpt import GPT, GPTConfig


class DeployedGPT(GPT):
    """A GPT whose head is a Linear of its own, with a bias."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.unembed = nn.Linear(config.n_embd, config.vocab)

    def head(self, x: Tensor) -> Tensor:
        return self.unembed(self.norm(x))  # (B, T, V)


def check_unmasked(model: nn.Module) -> None:
    """Raise BookError if ``model`` still carries pruning masks: copies and exporters trip over them."""
    if prune.is_pruned(model):
        raise BookError("the model is still masked; call lib.prune.remove(model) first")


@torch.no_grad()
def deploy(model: GPT) -> DeployedGPT:
    """Return an independent copy of ``model`` with its head untied, in evaluation mode, without dropout.

    Raises BookError if the model still carries pruning masks.
    """
    check_unmasked(model)
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten
        deployed = DeployedGPT(dataclasses.replace(model.config, dropout=0.0))
    own = {"unembed.weight": model.token.weight, "unembed.bias": torch.zeros(model.config.vocab)}
    deployed.load_state_dict(own | model.state_dict())  # a model deployed already brings an unembed of its own
    return deployed.eval()


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Return a model's Linear layers by their names: 4 a block, and the head of a deployed model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def norm_pairs(model: DeployedGPT) -> list[tuple[nn.LayerNorm, str]]:
    """List each LayerNorm with the name of the one Linear that reads its output."""
    pairs = []
    for index, block in enumerate(model.blocks):
        pairs += [(block.norm1, f"blocks.{index}.attention.qkv"), (block.norm2, f"blocks.{index}.feed_forward.up")]
    return [*pairs, (model.norm, "unembed")]


@torch.no_grad()
def fold_norms(model: DeployedGPT) -> DeployedGPT:
    """Move every LayerNorm's gain g and bias b into the Linear behind it: W diag(g), and W b on its bias."""
    folded = deploy(model)
    layers = linears(folded)
    for norm, name in norm_pairs(folded):
        layers[name].bias += layers[name].weight @ norm.bias
        layers[name].weight *= norm.weight
        norm.weight.fill_(1.0)
        norm.bias.zero_()
    return folded


@torch.no_grad()
def equalise(model: DeployedGPT, peaks: Mapping[str, Tensor], strength: float) -> DeployedGPT:
    """Divide each input channel j of a Linear by s_j, and multiply its weights' column by it.

    s_j = peak_j^strength / max_i |W_ij|^(1 - strength), peaks (in_features,) being the largest
    magnitudes seen on the channels (Xiao et al. 2023, Eq. (4)). The division happens for free in
    what produces the channel: LayerNorm's gain and bias, or the value rows of ``qkv``, since attention
    only averages values. GELU stands before ``down``, so ``down`` is left as it is.
    """
    equalised = deploy(model)
    layers = linears(equalised)
    for norm, name in norm_pairs(equalised):
        scale = _migration(peaks[name], layers[name].weight, strength)
        norm.weight /= scale
        norm.bias /= scale
        layers[name].weight *= scale
    for index, block in enumerate(equalised.blocks):
        qkv, out = block.attention.qkv, block.attention.out
        scale = _migration(peaks[f"blocks.{index}.attention.out"], out.weight, strength)
        values = slice(2 * out.in_features, None)  # rows of q, k, v in this order
        qkv.weight[values] /= scale[:, None]
        qkv.bias[values] /= scale
        out.weight *= scale
    return equalised


def _migration(peak: Tensor, weight: Tensor, strength: float) -> Tensor:
    column = weight.abs().amax(dim=0).clamp(min=1e-5)
    return (peak.clamp(min=1e-5) ** strength / column ** (1 - strength)).clamp(min=1e-5)


@torch.no_grad()
def rotate(model: DeployedGPT, seed: int = 0) -> DeployedGPT:
    """Turn the residual stream and each head's values into a random basis, where no channel stands out.

    With LayerNorm's gain and bias folded away, the norm of Q x is Q times the norm of x for every
    orthogonal Q that leaves the mean alone, Q 1 = 1: what is taken off as the mean, and the variance,
    stay the same. So Q multiplies all that writes to the stream, and its transpose all that reads it
    (Ashkboos et al. 2024, who have no mean to keep since their norm takes none off). A head's values
    turn by a matrix of their own, undone in ``out``, since attention only averages values.
    """
    turned = fold_norms(model).double()  # in double precision: the products below would cost digits
    layers, width, heads = linears(turned), model.config.n_embd, model.config.n_head
    generator = torch.Generator().manual_seed(seed)
    q = _orthogonal(width, generator, fixes_mean=True)
    for table in (turned.token, turned.position):
        table.weight.copy_(table.weight @ q.T)
    for _, name in norm_pairs(turned):
        layers[name].weight.copy_(layers[name].weight @ q.T)
    for block in turned.blocks:
        for writer in (block.attention.out, block.feed_forward.down):
            writer.weight.copy_(q @ writer.weight)
            writer.bias.copy_(q @ writer.bias)
        r = torch.block_diag(*(_orthogonal(width // heads, generator) for _ in range(heads)))
        qkv, out = block.attention.qkv, block.attention.out
        values = slice(2 * width, None)
        qkv.weight[values] = r @ qkv.weight[values]
        qkv.bias[values] = r @ qkv.bias[values]
        out.weight.copy_(out.weight @ r.T)
    return turned.float()


def _orthogonal(size: int, generator: torch.Generator, fixes_mean: bool = False) -> Tensor:
    """Draw an orthogonal matrix (size, size), float64; ``fixes_mean`` makes it map the ones vector to itself."""
    first, second = (_basis(size, generator, fixes_mean) for _ in range(2))
    return first @ second.T


def _basis(size: int, generator: torch.Generator, ones_first: bool) -> Tensor:
    """Draw an orthonormal basis as columns; ``ones_first`` puts the direction of the ones first."""
    directions = torch.randn(size, size, generator=generator, dtype=torch.float64)
    if ones_first:
        directions[:, 0] = 1
    basis, triangle = torch.linalg.qr(directions)
    return basis * triangle.diagonal().sign()  # QR leaves the signs open
