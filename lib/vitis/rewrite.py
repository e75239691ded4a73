"""The model rewritten so that as much of it as possible is what a DPU takes: convolutions, adds and ReLUs.

Four rewrites that change nothing but the order of summation:

* ``folded``: LayerNorm's gain and bias move into the Linear behind it, and what is left has no parameters;
* a Linear becomes a 1x1 convolution, and the residual stream an image of one pixel: (B, C, 1, 1);
* q, k and v leave one convolution side by side, and a Reshape tells them apart: no Split;
* the residual add follows the convolution whose output it adds, with nothing in between.

The fifth, GELU to ReLU, changes the function and needs training: ``lib.vitis.activation``.
Shapes in the comments as in ``lib.gpt``: B batch, C width, H heads, D = C/H, S block, V alphabet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor
from torch.nn import functional as F

from lib.deploy import DeployedGPT, deploy, fold_norms, linears, norm_pairs, rotate
from lib.export import export_part
from lib.gpt import ACTIVATIONS, GPT, Block
from lib.ort import session


@torch.no_grad()
def folded(model: GPT, turned: bool = False) -> DeployedGPT:
    """Return a copy with LayerNorm's affine part folded into the Linears.

    ``turned`` also rotates the residual stream and the values into a basis where no channel stands out
    (``lib.deploy.rotate``): the same function, and kinder to eight bits.
    """
    return rotate(deploy(model)) if turned else fold_norms(deploy(model))


def convolution(linear: nn.Linear) -> nn.Conv2d:
    """Return the 1x1 convolution that does to every pixel what ``linear`` does to a vector."""
    outputs, inputs = linear.weight.shape
    conv = nn.Conv2d(inputs, outputs, kernel_size=1)
    conv.load_state_dict({"weight": linear.weight[:, :, None, None], "bias": linear.bias})
    return conv


class Normalise(nn.Module):
    """LayerNorm without parameters, over the channels of an image of one pixel."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)  # (B, C)
        return F.layer_norm(flat, flat.shape[1:])[:, :, None, None]  # (B, C, 1, 1)


class ImageAttention(nn.Module):
    """One step of attention between two convolutions: what lies between them stays on the CPU."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        attention = block.attention
        self.n_head, self.head_width = attention.n_head, attention.head_width
        self.qkv, self.out = convolution(attention.qkv), convolution(attention.out)

    def forward(self, x: Tensor, position: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Attend from x (B, C, 1, 1) to a cache (2, B, H, S, D); return (B, C, 1, 1), not yet added, and the cache."""
        parts = self.qkv(x).view(x.shape[0], 3, self.n_head, 1, self.head_width)  # (B, 3, H, 1, D)
        slots = torch.arange(cache.shape[3], device=x.device)  # (S,)
        new = torch.stack((parts[:, 1], parts[:, 2]))  # (2, B, H, 1, D)
        cache = torch.where((slots == position)[:, None], new, cache)
        scores = parts[:, 0] @ cache[0].transpose(2, 3) * self.head_width**-0.5  # (B, H, 1, S)
        weights = scores.masked_fill(~(slots <= position), float("-inf")).softmax(dim=3)
        y = weights @ cache[1]  # (B, H, 1, D)
        return self.out(y.reshape(x.shape)), cache


class ImageBlock(nn.Module):
    """``lib.gpt.Block`` over images: qkv | attention | out, add | norm | up, activation, down, add."""

    def __init__(self, block: Block, activation: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = Normalise(), Normalise()
        self.attention = ImageAttention(block)
        self.up, self.down = convolution(block.feed_forward.up), convolution(block.feed_forward.down)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor, position: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """One step, as ``lib.gpt.Block.step``; a forward, so that the exporter names its nodes after the block."""
        y, cache = self.attention(self.norm1(x), position, cache)
        x = x + y
        return x + self.down(self.activation(self.up(self.norm2(x)))), cache


class ImageGPT(nn.Module):
    """A folded model in the form above; ``step`` is that of ``lib.gpt.GPT``, and so are its shapes."""

    def __init__(self, model: DeployedGPT) -> None:
        super().__init__()
        self.config = model.config
        self.token, self.position = model.token, model.position
        self.blocks = nn.ModuleList(ImageBlock(block, model.config.activation) for block in model.blocks)
        self.norm = Normalise()
        self.unembed = convolution(model.unembed)

    def step(self, token: Tensor, position: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        x = (self.token(token) + self.position(position))[:, :, None, None]  # (B, C, 1, 1)
        caches = []
        for block, old in zip(self.blocks, cache.unbind()):
            x, new = block(x, position, old)
            caches.append(new)
        return self.unembed(self.norm(x)).flatten(1), torch.stack(caches)  # (B, V)

    empty_cache = GPT.empty_cache


def rewritten(model: GPT) -> ImageGPT:
    """Return ``model`` in the form that a DPU takes most of; its activation stays what it is.

    A deployed model is taken as folded already, as ``folded`` and ``lib.vitis.eightbit`` return it.
    """
    return ImageGPT(model if isinstance(model, DeployedGPT) else folded(model)).eval()


# ---- The rewrites, one at a time, each beside what it replaces. ----


class Flat(nn.Module):
    """Something made of convolutions, between vectors: (B, C) in, (B, C') out."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x[:, :, None, None]).flatten(1)


class Chunked(nn.Module):
    """q, k and v by ``chunk``, which exports as Split, and k, q, v put together: their order shows a mistake."""

    def __init__(self, qkv: nn.Linear) -> None:
        super().__init__()
        self.qkv = qkv

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=1)
        return torch.cat((k, q, v), dim=1)


class Viewed(Chunked):
    """The same from one convolution, by a view."""

    def __init__(self, qkv: nn.Linear) -> None:
        super().__init__(convolution(qkv))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x[:, :, None, None]).view(x.shape[0], 3, x.shape[1])
        return torch.cat((parts[:, 1], parts[:, 0], parts[:, 2]), dim=1)


@dataclass(frozen=True)
class Rewrite:
    """Something of the model before and after a rewrite: both map vectors (B, width) to vectors."""

    before: nn.Module
    after: nn.Module
    width: int


def rewrites(model: GPT) -> dict[str, list[Rewrite]]:
    """Return, for each rewrite, every place in ``model`` where it is applied."""
    before, after, width = deploy(model), folded(model), model.config.n_embd
    layernorms = [
        Rewrite(nn.Sequential(norm, linears(before)[name]), nn.Sequential(bare, linears(after)[name]), width)
        for (norm, name), (bare, _) in zip(norm_pairs(before), norm_pairs(after))
    ]
    convolutions = [
        Rewrite(linear, Flat(convolution(linear)), linear.in_features) for linear in linears(after).values()
    ]
    splits = [Rewrite(Chunked(block.attention.qkv), Viewed(block.attention.qkv), width) for block in after.blocks]
    return {"layernorm_folded": layernorms, "linear_as_convolution": convolutions, "qkv_without_split": splits}


def difference(rewrite: Rewrite, folder: Path) -> float:
    """Export both sides, run both files in ONNX Runtime on the same normalised vectors: the largest difference."""
    x = F.layer_norm(torch.randn(64, rewrite.width, generator=torch.Generator().manual_seed(0)), (rewrite.width,))
    outputs = []
    for name, module in (("before", rewrite.before), ("after", rewrite.after)):
        path = export_part(module, x, folder / f"{name}.onnx", tolerance=None)
        outputs.append(session(path, threads=1).run(["y"], {"x": x.numpy()})[0])
    return float(np.abs(outputs[0] - outputs[1]).max())
