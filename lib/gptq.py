"""GPTQ: rounding a weight with an eye on what its layer is given (Frantar et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor


def gptq_round(weight: Tensor, gram: Tensor, scale: Tensor, bits: int, damping: float = 0.01) -> Tensor:
    """Round a weight so that its *outputs* change least, not its elements (Frantar et al. 2023, Algorithm 1).

    weight: (out, in); gram: X^T X (in, in) of the layer's inputs; scale: (out, 1). Column after column is
    rounded, those with the largest inputs first, and its error is passed on to the columns still to come,
    in the proportions of the Cholesky factor of the inverse Gram matrix. Returns multiples of ``scale``.
    """
    order = gram.diagonal().argsort(descending=True)
    gram = gram[order][:, order] + damping * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    factor = torch.linalg.cholesky(torch.linalg.inv(gram), upper=True)
    limit, left = 2 ** (bits - 1) - 1, weight[:, order]
    rounded = torch.empty_like(weight)
    for j, column in enumerate(order):
        step = left[:, j] / scale[:, 0]
        level = torch.where(step < 0, -1.0, 1.0) if bits == 1 else step.round().clamp(-limit, limit)
        rounded[:, column] = level * scale[:, 0]
        error = (left[:, j] - rounded[:, column]) / factor[j, j]
        left[:, j + 1 :] -= torch.outer(error, factor[j, j + 1 :])
    return rounded
