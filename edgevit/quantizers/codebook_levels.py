"""Chooses the levels of a codebook grid: the least weighted squared error.

On one axis the best levels are a shortest path: k intervals of neighbouring values, each with a
level of its own (Fisher, "On grouping for maximum homogeneity", JASA 53, 1958; for quantizers
Bruce, MIT, 1964). The values are the 256 codes of the fine grid (or the 128 in its middle, where
levels have 7 bits), so that dynamic programming over all intervals finds the optimum for every
range of the fine grid tried. (Of a
code halfway between two levels it assumes that the better one takes it; the grid takes the lower.)
"""

from __future__ import annotations

import torch
from torch import Tensor


def best_levels(moments: Tensor, count: int) -> tuple[tuple[int, ...], float]:
    """Return at most `count` whole levels with the least squared error, and that error.

    Args:
        moments: float64 [3, N]: weight, weighted sum and weighted squares of the values that
            cell i takes; all values of a cell get the same level.
        count: The largest number of levels.

    Returns:
        The levels, ascending in [0, N - 1], and the weighted squared error in cells.
    """
    size = moments.shape[1]
    levels, costs = _intervals(moments)  # [N, N] each
    behind = costs.T.contiguous()  # [N, N]: of the interval i .. j at [j, i]
    best = [costs[0]]  # of cells 0 .. j with one level, then with at most two, three, ...
    for _ in range(min(count, size) - 1):
        best.append(torch.minimum((_before(best[-1]) + behind).amin(1), best[-1]))
    found, end = [], size - 1
    for fewer in [*reversed(best[:-1]), None]:
        start = 0
        if fewer is not None:
            split = _before(fewer) + behind[end]  # [N]: the last interval is start .. end
            start = int(split.argmin())
            if split[start] >= fewer[end]:  # one more level would not help
                continue
        found.append(int(levels[start, end]))
        end = start - 1
        if end < 0:
            break
    return tuple(sorted(set(found))), float(best[-1][-1])


def _before(best: Tensor) -> Tensor:
    """Return [N]: the error of all cells before cell j; none may be left out."""
    return torch.cat([best.new_full((1,), torch.inf), best[:-1]])


def _intervals(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best whole level and the error of every interval of cells i .. j, [N, N] each."""
    size = moments.shape[1]
    zero = torch.zeros(3, 1, dtype=moments.dtype)
    sums = torch.cat([zero, moments.cumsum(1)], 1)  # [3, N + 1]
    weight, first, second = sums[:, None, 1:] - sums[:, :-1, None]  # [N, N] each, i by j
    index = torch.arange(size)
    middle = (index[:, None] + index) / 2
    level = torch.where(weight > 0, first / weight, middle).round()
    level = torch.minimum(torch.maximum(level, index[:, None]), index)
    cost = (second - 2 * level * first + level**2 * weight).clamp_min(0.0)
    return level, torch.where(index[:, None] <= index, cost, torch.inf)
