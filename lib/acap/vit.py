"""Vision Transformers as Table III of EQ-ViT lists them, in plain PyTorch, and one small enough to train here.

An image is cut into square patches; each becomes a token by one Linear (Dosovitskiy et al. 2021), a class token is
put before them, and pre-norm blocks of self-attention and feed-forward follow. Wherever a number is handed from one
operator to the next stands a *site*, an ``nn.Identity`` with a name: ``lib.acap.quantise`` puts its quantisers there,
and the figures listen there.

Shapes in the comments: B batch, T tokens (patches and the class token), C width, H heads, D = C/H.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from lib.errors import BookError

PIXEL_ZERO, PIXEL_SCALE = 128, 1 / 64  # a byte b means (b - 128) / 64: an int8 as it stands, so pixels lose nothing


@dataclass(frozen=True)
class ViTConfig:
    """The shape of a Vision Transformer. ``stem`` is "patch" (one Linear) or "conv" (LV-ViT's four convolutions)."""

    dim: int
    depth: int
    heads: int
    image: int = 224
    patch: int = 16
    channels: int = 3
    classes: int = 1000
    mlp_ratio: int = 4
    stem: str = "patch"

    def __post_init__(self) -> None:
        for name in ("dim", "depth", "heads", "image", "patch", "channels", "classes", "mlp_ratio"):
            if getattr(self, name) < 1:
                raise BookError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.dim % self.heads:
            raise BookError(f"the width {self.dim} does not divide into {self.heads} heads; change one")
        if self.image % self.patch:
            raise BookError(f"the image's side {self.image} does not divide into patches of {self.patch}; change one")
        if self.stem not in ("patch", "conv"):
            raise BookError(f"the stem {self.stem!r} is unknown; choose patch or conv")
        if self.stem == "conv" and self.patch % 2:
            raise BookError(f"the convolution stem halves the image first, so its patch must be even, not {self.patch}")

    @property
    def patches(self) -> int:
        return (self.image // self.patch) ** 2

    @property
    def tokens(self) -> int:
        return self.patches + 1

    @property
    def head_width(self) -> int:
        return self.dim // self.heads


CONFIGS = {
    # Table III. The paper gives LV-ViT-T four heads of 60; its MACs leave the real convolution stem out.
    "deit_t": ViTConfig(192, 12, 3),
    "deit_160": ViTConfig(160, 12, 4),
    "deit_256": ViTConfig(256, 12, 4),
    "lv_vit_t": ViTConfig(240, 12, 4, mlp_ratio=3),
    "lv_vit_t_stem": ViTConfig(240, 12, 4, mlp_ratio=3, stem="conv"),
    # Small enough to train here: the model of this chapter, and the larger one that teaches it.
    "pico_digits": ViTConfig(32, 4, 2, image=8, patch=2, channels=1, classes=10),
    "teacher_digits": ViTConfig(64, 4, 4, image=8, patch=2, channels=1, classes=10),
    "pico_cifar10": ViTConfig(64, 6, 4, image=32, patch=4, channels=3, classes=10),
    "teacher_cifar10": ViTConfig(128, 6, 4, image=32, patch=4, channels=3, classes=10),
}


class Softmax(nn.Module):
    """Attention's weights from raw products of queries and keys, (B, H, T, T) to the same shape."""

    def __init__(self, head_width: int) -> None:
        super().__init__()
        self.scale = head_width**-0.5

    def forward(self, products: Tensor) -> Tensor:
        return (products * self.scale).softmax(dim=-1)


class Attention(nn.Module):
    """Multi-head self-attention. Sites: q, k, v, map (the attention map), context."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim)  # one product, as the hardware makes it
        self.q, self.k, self.v = nn.Identity(), nn.Identity(), nn.Identity()
        self.softmax = Softmax(config.head_width)
        self.map = nn.Identity()
        self.context = nn.Identity()
        self.out = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        q, k, v = self.q(q), self.k(k), self.v(v)
        weights = self.map(self.softmax(q @ k.transpose(2, 3)))  # (B, H, T, T)
        context = (weights @ v).transpose(1, 2).reshape(B, T, C)
        return self.out(self.context(context))


class FeedForward(nn.Module):
    """Two Linear layers and a GELU. Sites: hidden (before the GELU), activated (after it)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.dim, config.mlp_ratio * config.dim)
        self.hidden = nn.Identity()
        self.gelu = nn.GELU()
        self.activated = nn.Identity()
        self.down = nn.Linear(config.mlp_ratio * config.dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activated(self.gelu(self.hidden(self.up(x)))))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)). Sites: normed1, residual1, normed2, residual2."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim)
        self.normed1 = nn.Identity()
        self.attention = Attention(config)
        self.residual1 = nn.Identity()
        self.norm2 = nn.LayerNorm(config.dim)
        self.normed2 = nn.Identity()
        self.feed_forward = FeedForward(config)
        self.residual2 = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.residual1(x + self.attention(self.normed1(self.norm1(x))))
        return self.residual2(x + self.feed_forward(self.normed2(self.norm2(x))))


class ConvStem(nn.Module):
    """LV-ViT's way from pixels to tokens: three 3x3 or 7x7 convolutions at half size, then one over each patch."""

    WIDTH = 64

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        w = self.WIDTH
        layers: list[nn.Module] = []
        for inputs, kernel, stride in ((config.channels, 7, 2), (w, 3, 1), (w, 3, 1)):
            conv = nn.Conv2d(inputs, w, kernel, stride, padding=kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(w), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(w, config.dim, config.patch // 2, config.patch // 2))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten(2).transpose(1, 2)  # (B, T - 1, C)


class PatchStem(nn.Module):
    """DeiT's way from pixels to tokens: one Linear over the numbers of each patch."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.linear = nn.Linear(config.patch**2 * config.channels, config.dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(cut_patches(images, self.patch))  # (B, T - 1, C)


def cut_patches(images: Tensor, patch: int) -> Tensor:
    """Cut images (B, channels, side, side) into patches: (B, (side / patch)^2, channels patch^2), row after row."""
    B, channels, side, _ = images.shape
    grid = side // patch
    cut = images.reshape(B, channels, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(B, grid * grid, channels * patch * patch)


class ViT(nn.Module):
    """The model: bytes in, logits out. Sites of its own: embedded (the first residual), normed (before the head)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = PatchStem(config) if config.stem == "patch" else ConvStem(config)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.position = nn.Parameter(torch.zeros(1, config.tokens, config.dim))
        self.embedded = nn.Identity()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim)
        self.normed = nn.Identity()
        self.head = nn.Linear(config.dim, config.classes)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.class_token, std=0.5)  # the size of the patches' tokens: else a short training
        nn.init.trunc_normal_(self.position, std=0.5)  # of a small model never learns to look at places

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 images (B, channels, side, side) to logits (B, classes); BookError if they are of another size."""
        check_images(images, self.config)
        pixels = (images.to(self.class_token.dtype) - PIXEL_ZERO) * PIXEL_SCALE
        tokens = torch.cat((self.class_token.expand(len(images), -1, -1), self.stem(pixels)), dim=1)
        x = self.embedded(tokens + self.position)  # (B, T, C)
        for block in self.blocks:
            x = block(x)
        return self.head(self.normed(self.norm(x[:, 0])))  # the class token alone is read


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)  # DeiT's 0.02 suits its width alone
        nn.init.zeros_(module.bias)


def check_images(images: Tensor, config: ViTConfig) -> None:
    """Raise BookError unless ``images`` is a batch of bytes of the size that the model takes."""
    expected = (config.channels, config.image, config.image)
    if images.dtype != torch.uint8 or images.dim() != 4 or tuple(images.shape[1:]) != expected:
        raise BookError(
            f"the images are {images.dtype} of shape {tuple(images.shape)}, where this model takes torch.uint8 of "
            f"shape (batch, {', '.join(map(str, expected))}); choose the model that belongs to them, or resize them"
        )


# ---- Table III: what a model costs. ----


@dataclass(frozen=True)
class Product:
    """A matrix product (rows x inner) by (inner x columns), made ``copies`` times an image.

    ``type1``: both factors are activations (attention's own products); else the second one is a weight.
    """

    name: str
    rows: int
    inner: int
    columns: int
    copies: int = 1
    type1: bool = False

    @property
    def macs(self) -> int:
        return self.rows * self.inner * self.columns * self.copies


def products(config: ViTConfig) -> list[Product]:
    """List the matrix products of one image in order; those of a block once, with ``copies`` over all blocks and heads.

    A convolution stem is left out, as in Table III: see ``stem_macs``.
    """
    T, C, L, H, D = config.tokens, config.dim, config.depth, config.heads, config.head_width
    return [
        Product("patch", config.patches, config.patch**2 * config.channels, C),
        Product("qkv", T, C, 3 * C, L),
        Product("qk", T, D, T, L * H, type1=True),
        Product("av", T, T, D, L * H, type1=True),
        Product("out", T, C, C, L),
        Product("up", T, C, config.mlp_ratio * C, L),
        Product("down", T, config.mlp_ratio * C, C, L),
        Product("head", 1, C, config.classes),
    ]


def stem_macs(config: ViTConfig) -> int:
    """Count the multiply-accumulates of the convolution stem on one image; 0 for a patch stem."""
    if config.stem == "patch":
        return 0
    counted = 0

    def count(layer: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal counted
        counted += output[0, 0].numel() * layer.weight.numel()

    stem = ConvStem(config)
    for layer in stem.layers:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.no_grad():
        stem.eval()(torch.zeros(1, config.channels, config.image, config.image))
    return counted


def parameters(config: ViTConfig) -> int:
    """Count the parameters of a model, without making its weights."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in ViT(config).parameters())
