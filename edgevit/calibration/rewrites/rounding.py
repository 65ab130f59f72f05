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
        grid: Per-output-channel symmetric grid; its scales are not changed.
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
    block = rest[:, start:stop].T.contiguous()  # [block, out], a row per column of the weight
    factor, spec = upper[start:stop, start:stop], grid.spec
    errors, found = torch.empty_like(block), torch.empty_like(block)
    for row, value in enumerate(block):  # value [out]
        code = torch.round(value / grid.scale).clamp_(spec.qmin, spec.qmax)  # as grid.codes
        error = (value - code * grid.scale).div_(factor[row, row])
        block[row + 1 :].addr_(factor[row, row + 1 :], error, alpha=-1)
        errors[row], found[row] = error, code
    codes[:, start:stop] = found.T.to(torch.int32)
    return errors.T


def _inverse_factor(gram: Tensor) -> Tensor:
    """Return the upper triangular U with U^T U = (H + damping)^-1, [in, in]."""
    inverse = torch.cholesky_inverse(cholesky(gram, DAMPING))
    factor, failed = torch.linalg.cholesky_ex(inverse, upper=True)
    if int(failed):
        inverse = torch.cholesky_inverse(cholesky(gram.double(), DAMPING))
        factor = torch.linalg.cholesky(inverse, upper=True)
    upper: Tensor = factor.float()
    return upper


def cholesky(gram: Tensor, share: float) -> Tensor:
    """Return the lower Cholesky factor of gram + share * mean(diag) * I.

    In the precision of `gram`, or in float64 if that does not do; a dead input still gets a
    positive diagonal.
    """
    mean = float(gram.diagonal().mean())
    damped = gram.clone()
    damped.diagonal().add_(share * mean if mean > 0 else 1.0)
    factor, failed = torch.linalg.cholesky_ex(damped)
    if int(failed):
        factor = torch.linalg.cholesky(damped.double())
    lower: Tensor = factor
    return lower


def rounding_loss(weight: Tensor, rounded: Tensor, gram: Tensor) -> Tensor:
    """Return [out]: d H d^T per row, the squared output error of the rounding error d."""
    delta = rounded - weight  # [out, in]
    return ((delta @ gram) * delta).sum(1)
