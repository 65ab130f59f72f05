"""A weighted histogram of one tensor, streamed batch by batch in bounded memory.

With weights w for the elements, ``J(grid) = sum_v H(v) (v - grid(v))^2`` is the part of a
layer's output error that a grid on its input causes, because rounding errors of different
elements average out. Any grid is then judged in O(bins) instead of a layer run.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

BINS = 4096


@dataclass(kw_only=True)
class Histogram:
    """Weighted counts over [low, high], `BINS` equal bins; values outside go to the end bins."""

    low: float
    high: float
    counts: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))

    @property
    def step(self) -> float:
        """Width of a bin."""
        return max(self.high - self.low, 1e-12) / BINS

    @property
    def centers(self) -> Tensor:
        """float32 [BINS]: the value each bin stands for."""
        return self.low + (torch.arange(BINS, dtype=torch.float64) + 0.5).mul(self.step).float()

    def add(self, values: Tensor, weights: Tensor | None = None) -> None:
        """Add float32 values of any shape, weighted by `weights` of the same shape (or by 1)."""
        index = ((values.reshape(-1) - self.low) / self.step).clamp_(0, BINS - 1).to(torch.int32)
        if weights is not None:
            weights = weights.reshape(-1)
        self.counts += torch.bincount(index, weights, minlength=BINS).double()

    def quantile(self, fraction: float) -> float:
        """Return the value below which this fraction of the weight lies."""
        cumulative = torch.cumsum(self.counts, 0)
        total = float(cumulative[-1])
        if total <= 0:
            return self.high if fraction > 0.5 else self.low
        index = int(torch.searchsorted(cumulative, fraction * total).clamp_max(BINS - 1))
        return self.low + (index + 0.5) * self.step
