"""Rounds a weight so that a layer's output keeps: columns in turn, each error passed on.

Source: Frantar et al., "GPTQ: Accurate post-training quantization for generative pre-trained
transformers" (arXiv 2210.17323), algorithm 1, with the columns in order of decreasing H_ii. For
weights w and inputs with H = X^T X, the rounding error of column i is made good as well as
possible by the columns that are not rounded yet.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgevit.quantizers.uniform import UniformGrid

DAMPING = 0.01  # share of the mean of diag(H) added to it
_BLOCK = 128  # columns updated together


def gptq_codes(weight: Tensor, grid: UniformGrid, gram: Tensor) -> Tensor:
    """Return the int32 codes [out, in] of a float32 weight [out, in].

    Args:
        grid: Per-output-channel grid; its scales are not changed.
        gram: float32 [in, in], X^T X of the layer's inputs.
    """
    order = gram.diagonal().argsort(descending=True)
    upper = _inverse_factor(gram[order][:, order])  # [in, in]
    rest = weight[:, order].clone()  # [out, in], what the columns still have to make up for
    codes = torch.empty_like(rest, dtype=torch.int32)
    for start in range(0, rest.shape[1], _BLOCK):
        stop = min(start + _BLOCK, rest.shape[1])
        errors = _round_block(rest, codes, grid, upper, start, stop)  # [out, block]
        rest[:, stop:] -= errors @ upper[start:stop, stop:]
    found = torch.empty_like(codes)
    found[:, order] = codes
    return found


def _round_block(
    rest: Tensor, codes: Tensor, grid: UniformGrid, upper: Tensor, start: int, stop: int
) -> Tensor:
    """Round columns start to stop in place; return their errors over U_ii, [out, block]."""
    errors = torch.empty(len(rest), stop - start)
    for column in range(start, stop):
        value = rest[:, column]  # [out]
        codes[:, column] = grid.codes(value)
        error = (value - grid.dequantize(codes[:, column])) / upper[column, column]
        rest[:, column + 1 : stop] -= torch.outer(error, upper[column, column + 1 : stop])
        errors[:, column - start] = error
    return errors


def _inverse_factor(gram: Tensor) -> Tensor:
    """Return the upper triangular U with U^T U = (H + damping)^-1, [in, in]."""
    damped = damped_gram(gram, DAMPING)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    upper: Tensor = torch.linalg.cholesky(inverse, upper=True).float()
    return upper


def damped_gram(gram: Tensor, share: float) -> Tensor:
    """Return float64 gram + share * mean(diag) * I; a dead input still gets a positive diagonal."""
    damped = gram.double()
    mean = float(damped.diagonal().mean())
    return damped + torch.eye(len(gram), dtype=torch.float64) * (share * mean + 1e-12)


def rounding_loss(weight: Tensor, rounded: Tensor, gram: Tensor) -> Tensor:
    """Return [out]: d H d^T per row, the squared output error of the rounding error d."""
    delta = rounded - weight  # [out, in]
    return ((delta @ gram) * delta).sum(1)
