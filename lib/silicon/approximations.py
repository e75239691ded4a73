"""From FP32 to the integer model, one approximation after another: what does each cost?

The computation is that of ``golden``, in the same units, on floats that need not be whole. Each approximation that is
switched on makes some of them whole, or takes an operation of ``golden`` in place of the exact one; with all of them on
nothing else is left, and the logits are those of the integer model, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np
import torch
import torch.nn as nn
from tqdm import tqdm

from lib.corpus import Corpus
from lib.deploy import DeployedGPT, linears
from lib.errors import BookError
from lib.evaluate import Comparison, compare, score_corpus, torch_logits
from lib.gpt import GPT
from lib.silicon import golden
from lib.silicon.calibrate import NORM_SCALE, Sides, fold, sides
from lib.silicon.model_file import Calibrated

APPROXIMATIONS = {
    "weights": "weights in few bits, a scale for each row",
    "activations": "the normalised vector, q, k, v and attention's mix in bytes",
    "residual": "the residual stream and the logits in 16 bits, embeddings in 8",
    "layernorm": "the root mean square by a leading one and a table",
    "softmax": "powers of two by shifts, weights of 8 bits, divided by a table of reciprocals",
    "gelu": "GELU as a table from byte to byte",
    "requantise": "whole biases; each factor between two scales a multiplication by 16 bits and a shift",
}  # in this order: later ones need what the earlier ones have made whole


@dataclass(frozen=True)
class Approximate:
    """A folded model on its way to the integer one: the first approximations, by name, are ``on``."""

    folded: DeployedGPT
    calibrated: Calibrated
    on: Sequence[str]

    @torch.inference_mode()
    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """Map tokens int64 (B, T) to logits float32 (B, T, V): a route of ``lib.evaluate``."""
        calibrated, shape = self.calibrated, self.calibrated.model.shape
        r = self.embed(tokens)  # (B, T, C)
        for i, (layer, scales) in enumerate(zip(calibrated.model.layers, calibrated.layers)):
            beside = sides(scales, NORM_SCALE, calibrated.residual_scale, shape.width)
            qkv = self.whole("activations", self.product(f"layers.{i}.qkv", self.norm(r), beside["qkv"], 8), 8)
            mix = self.attend(i, qkv)
            r = self.add(r, self.product(f"layers.{i}.out", mix, beside["out"], 16))
            up = self.whole("gelu", self.product(f"layers.{i}.up", self.norm(r), beside["up"], 8), 8)
            r = self.add(r, self.product(f"layers.{i}.down", self.activate(i, up), beside["down"], 16))
        head = self.product("head", self.norm(r), Sides(NORM_SCALE, calibrated.logits_scale), 16)
        return (self.whole("residual", head, 16) * calibrated.logits_scale).astype(np.float32)

    def whole(self, approximation: str, x: np.ndarray, bits: int) -> np.ndarray:
        """Round x to int64 of so many bits if the approximation is on."""
        return golden.saturate(np.rint(x).astype(np.int64), bits) if approximation in self.on else x

    def embed(self, tokens: np.ndarray) -> np.ndarray:
        positions = np.arange(tokens.shape[1])
        if "residual" in self.on:
            return golden.embed(self.calibrated.model, tokens, positions)
        x = self.folded.token.weight.numpy()[tokens] + self.folded.position.weight.numpy()[positions]
        return x / np.float32(self.calibrated.residual_scale)

    def norm(self, r: np.ndarray) -> np.ndarray:
        if "layernorm" in self.on:
            return golden.normalise(self.calibrated.model, r)
        epsilon = self.folded.norm.eps / self.calibrated.residual_scale**2
        rms = np.sqrt(np.square(r, dtype=np.float32).mean(axis=-1, keepdims=True) + np.float32(epsilon))
        return self.whole("activations", r / (rms * np.float32(NORM_SCALE)), 8)

    def product(self, name: str, x: np.ndarray, sides: Sides, bits: int) -> np.ndarray:
        """Multiply x (..., I), in units of one side, to (..., O) in units of the other."""
        rounded, scale = self.calibrated.model.products()[name], self.calibrated.weight_scales[name]
        if "requantise" in self.on:
            return golden.apply(rounded, x, bits)
        linear = self.linear(name)
        weight = rounded.weight if "weights" in self.on else linear.weight.numpy() / scale[:, None]
        sums = (x - sides.zero_in).astype(np.float32) @ weight.astype(np.float32).T
        real = sums * (scale * sides.scale_in).astype(np.float32) + linear.bias.numpy()
        return real / np.float32(sides.scale_out) + np.float32(sides.zero_out)

    def linear(self, name: str) -> nn.Linear:
        """Return the Linear that a product of the integer model is made of."""
        if name == "head":
            return self.folded.unembed
        _, i, field = name.split(".")
        return next(linear for path, linear in linears(self.folded.blocks[int(i)]).items() if path.endswith(field))

    def attend(self, i: int, qkv: np.ndarray) -> np.ndarray:
        """Attention of layer ``i``: queries, keys and values (B, T, 3C) to the mix (B, T, C)."""
        B, T, width = qkv.shape
        heads, scales = self.calibrated.model.shape.heads, self.calibrated.layers[i]
        q, k, v = (part.reshape(B, T, heads, -1).swapaxes(1, 2) for part in np.split(qkv, 3, axis=-1))
        visible = np.tri(T, dtype=bool)
        if "softmax" in self.on:
            mix = golden.attend(self.calibrated.model.layers[i], q, k, v, visible)["mix"]
        else:
            steps = ((q, scales.q), (k, scales.k), (v, scales.v))
            real = (torch.from_numpy((part * scale).astype(np.float32)) for part, scale in steps)
            mix = self.folded.blocks[i].attention.attend(*real, torch.from_numpy(visible)).numpy() / scales.mix
            mix = self.whole("activations", mix, 8)
        return mix.swapaxes(1, 2).reshape(B, T, width // 3)

    def activate(self, i: int, up: np.ndarray) -> np.ndarray:
        """GELU of layer ``i``, on ``up`` (B, T, 4C)."""
        if "gelu" in self.on:
            return self.calibrated.model.layers[i].gelu.astype(np.int64)[up + 128]
        scales = self.calibrated.layers[i]
        real = torch.from_numpy((up - scales.up_zero) * scales.up)
        return self.folded.blocks[i].feed_forward.activation(real).numpy() / scales.gelu + scales.gelu_zero

    def add(self, r: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Add x to the residual stream."""
        return self.whole("residual", r + self.whole("residual", x, 16), 16)


def costs(model: GPT, calibrated: Calibrated, corpus: Corpus, characters: int, progress=True) -> dict[str, Comparison]:
    """Switch the approximations on one after another, and compare with FP32, each time, on validation text.

    calibrated: made of ``model``. The text is scored in windows side by side. What a record is called:
    ``silicon.golden.cost.<approximation>.ppl_increase_pct``. BookError for a model calibrated in another basis.
    """
    table, shift = golden.rsqrt_table(model.config.n_embd)
    if calibrated.model.rsqrt_shift != shift or not np.array_equal(calibrated.model.rsqrt, table):
        raise BookError("the model was calibrated with keep_zeros, in another basis; give one calibrated without")
    folded, names, block = fold(model), list(APPROXIMATIONS), model.config.block

    def scored(route):
        return score_corpus(route, corpus, characters, block, stride=block, batch=8, progress=False)

    fp32 = scored(torch_logits(model))
    return {
        name: compare(fp32, scored(Approximate(folded, calibrated, names[: i + 1]).logits))
        for i, name in enumerate(tqdm(names, desc="approximations", leave=False, disable=not progress))
    }
