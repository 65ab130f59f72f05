"""Refits a weight to the inputs it will really get, before it is rounded.

Source: Zhong et al., "ERQ: Error reduction for post-training quantization of vision transformers"
(arXiv 2407.06794), the ridge regression of its activation error reduction: with X the float32
input and A the quantized one, ``dW = argmin sum_t c_t |A (W + dW)^T - X W^T|^2 + share |dW|^2``.
Here the bias is fitted with it (centred inputs), tokens have weights, and the share of the
regularisation is the one that predicts the other half of the images best.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgevit.calibration.rewrites.rounding import cholesky

SHARES = (0.01, 0.1, 1.0)
"""Regularisation as a share of the mean of diag(A^T A)."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Centred second moments of some tokens.

    Args:
        gram: float32 [in, in], A^T A.
        cross: float32 [out, in], R^T A with R the output error that W leaves.
    """

    gram: Tensor
    cross: Tensor

    def plus(self, other: Moments) -> Moments:
        """Return the moments of both sets of tokens."""
        return Moments(gram=self.gram + other.gram, cross=self.cross + other.cross)


def moments(inputs: Tensor, errors: Tensor, tokens: Tensor) -> Moments:
    """Return the moments of inputs A [T, in] and errors R [T, out] with token weights [T]."""
    total = tokens.sum().clamp_min(1e-12)
    root = tokens.sqrt()[:, None]  # [T, 1]
    a = (inputs - tokens @ inputs / total) * root  # [T, in]
    r = (errors - tokens @ errors / total) * root  # [T, out]
    return Moments(gram=a.T @ a, cross=r.T @ a)


def refit(weight: Tensor, halves: tuple[Moments, Moments]) -> Tensor:
    """Return the refitted weight [out, in], or `weight` if no share predicts the other half.

    Args:
        halves: Moments of two disjoint sets of images.
    """
    gains = {share: _gain(halves, share) + _gain(halves[::-1], share) for share in SHARES}
    best = max(gains, key=gains.__getitem__)
    if gains[best] <= 0:
        return weight
    return weight + _change(halves[0].plus(halves[1]), best)


def _change(seen: Moments, share: float) -> Tensor:
    """Return dW = R^T A (A^T A + share)^-1, [out, in]."""
    factor = cholesky(seen.gram, share)
    return torch.cholesky_solve(seen.cross.T.to(factor.dtype), factor).T.float()


def _gain(halves: tuple[Moments, ...], share: float) -> float:
    """Return how much squared error dW of the first half takes away from the second."""
    change, other = _change(halves[0], share), halves[1]
    return float((2 * change * other.cross).sum() - ((change @ other.gram) * change).sum())
