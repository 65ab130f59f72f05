"""Chooses weight scales: min-max, percentile, plain MSE, or least error of the layer's output.

The output error of a row's rounding error d is ``d G d^T`` with G = X^T X over the calibration
tokens (weighted by importance), so a candidate scale costs one [out, in] x [in, in] product for
all rows at once instead of a run of the layer over all tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.uniform import SMALLEST_SCALE


def minmax_scale(weight: Tensor, spec: GridSpec) -> Tensor:
    """Return [out]: max|w| / (2^(k-1) - 1/2), so that the largest weight is not clipped."""
    return (weight.abs().amax(1) / (spec.qmax + 0.5)).clamp_min(SMALLEST_SCALE)


def percentile_scale(weight: Tensor, spec: GridSpec, percentiles: tuple[float, ...]) -> Tensor:
    """Return [out]: per row the best of these quantiles of |w| by squared error."""
    ordered = weight.abs().sort(1).values  # [out, in]
    last = weight.shape[1] - 1
    tops = torch.stack([ordered[:, round(p * last)] for p in percentiles])  # [P, out]
    return _best(weight, spec, tops / (spec.qmax + 0.5), None)


def search_scale(weight: Tensor, spec: GridSpec, gram: Tensor | None) -> Tensor:
    """Return [out]: per row the scale with the least error.

    Args:
        weight: float32 [out, in].
        gram: float32 [in, in] of the layer's input, or None for the plain squared error.
    """
    full = minmax_scale(weight, spec)  # [out]
    lowest = 0.7 if spec.bits >= 7 else 0.3
    shares = torch.linspace(lowest, 1.05, 12)
    best = _best(weight, spec, shares[:, None] * full, gram)  # [out]
    width = float(shares[1] - shares[0])
    for _ in range(2):
        width /= 3
        steps = torch.tensor([-1.0, 0.0, 1.0]) * width
        best = _best(weight, spec, best + steps[:, None] * full, gram)
    return best


def scan_scale(weight: Tensor, spec: GridSpec, gram: Tensor | None) -> Tensor:
    """Return [out]: per row the best of PTQ4ViT's hundred candidates (its section 3.3).

    The error of one row jumps from candidate to candidate, so that the best of a hundred is
    better than what `search_scale` finds; for a small layer the price is nothing.
    """
    shares = torch.linspace(0.2, 1.2, 100)
    return _best(weight, spec, shares[:, None] * minmax_scale(weight, spec), gram)


def search_shared_scale(
    weight: Tensor, spec: GridSpec, gram: Tensor | None, rows: Tensor | None, groups: int
) -> Tensor:
    """Return [out] with one scale per group of rows (PTQ4ViT: 3 groups for qkv, else 1).

    Args:
        rows: float32 [out], importance of each row, or None for equal.
    """
    if weight.shape[0] % groups:
        groups = 1
    found = []
    weights = torch.ones(weight.shape[0]) if rows is None else rows
    for part, row in zip(weight.chunk(groups), weights.chunk(groups), strict=True):
        top = part.abs().amax() / (spec.qmax + 0.5)
        scales = torch.linspace(0.2, 1.2, 100)[:, None] * top.clamp_min(SMALLEST_SCALE)  # [S, 1]
        errors = torch.stack([_row_errors(part, spec, s, gram) @ row for s in scales])  # [S]
        found.append(scales[int(errors.argmin())].expand(len(part)))
    return torch.cat(found)


def _best(weight: Tensor, spec: GridSpec, scales: Tensor, gram: Tensor | None) -> Tensor:
    """Return [out]: for each row the scale of `scales` [S, out] with the least error."""
    scales = scales.clamp_min(SMALLEST_SCALE)
    errors = torch.stack([_row_errors(weight, spec, s, gram) for s in scales])  # [S, out]
    return scales.gather(0, errors.argmin(0, keepdim=True))[0]  # [out]


def _row_errors(weight: Tensor, spec: GridSpec, scale: Tensor, gram: Tensor | None) -> Tensor:
    """Return [out]: d G d^T per row for one scale per row ([out] or [1]); d = rounded - weight."""
    step = scale.reshape(-1, 1)  # [out, 1]
    delta = (weight / step).round_().clamp_(spec.qmin, spec.qmax).mul_(step).sub_(weight)
    weighted = delta if gram is None else delta @ gram  # [out, in]
    return (weighted * delta).sum(1)
