"""INT8 Linear layers computed in floating point: the same rounding as integers, and gradients that pass."""

from __future__ import annotations

from typing import Collection, Mapping

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn import functional as F

from lib.affine import Grid, per_channel
from lib.deploy import DeployedGPT, deploy, linears
from lib.errors import BookError


class QuantLinear(nn.Module):
    """A Linear whose input and weight lie on integer grids.

    Both are rounded on the way (torch's own fake quantisation, whose gradient passes straight
    through inside the range), so the product is what integer hardware computes before it requantises.
    The bias stays float: in hardware it has 32 bits. ``grid`` None leaves the input as it is.
    """

    def __init__(self, linear: nn.Linear, grid: Grid | None, weight_bits: int | None = 8) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.grid, self.weight_bits = grid, weight_bits
        if weight_bits is not None:
            weight_grid = per_channel(linear.weight.detach().numpy(), weight_bits)
            self.weight_ends = weight_grid.first, weight_grid.last
            self.register_buffer("weight_scale", torch.from_numpy(weight_grid.scale.ravel()))
            self.register_buffer("weight_zero", torch.zeros(len(linear.weight), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.rounded_input(x), self.rounded_weight(), self.bias)

    def rounded_input(self, x: Tensor) -> Tensor:
        g = self.grid
        if g is None:
            return x
        return torch.fake_quantize_per_tensor_affine(x, float(g.scale), int(g.zero), g.first, g.last)

    def rounded_weight(self) -> Tensor:
        if self.weight_bits is None:
            return self.weight
        return torch.fake_quantize_per_channel_affine(
            self.weight, self.weight_scale, self.weight_zero, 0, *self.weight_ends
        )


def fake_quantise(
    model: DeployedGPT,
    grids: Mapping[str, Grid],
    weight_bits: int | None = 8,
    only: Collection[str] | None = None,
) -> DeployedGPT:
    """Return a copy of ``model`` whose Linears round their weights and inputs.

    grids: the input's grid of each Linear by its name (``{}`` for weights alone); weight_bits None
    leaves the weights; ``only`` names the layers to quantise, by default all. BookError if it names
    none of the model's.
    """
    copy = deploy(model)
    layers = linears(copy)
    unknown = set(only or ()) - set(layers)
    if unknown:
        raise BookError(f"the model has no Linear called {sorted(unknown)[0]}; it has {', '.join(layers)}")
    for name in layers if only is None else only:
        copy.set_submodule(name, QuantLinear(layers[name], grids.get(name), weight_bits))
    return copy
