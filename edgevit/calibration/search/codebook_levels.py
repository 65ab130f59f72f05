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

from edgevit.calibration.statistics.histogram import Histogram
from edgevit.quantizers.codebook import CodebookGrid, level_spec
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.uniform import UniformGrid

SHARES = (1.1, 1.0, 0.84, 0.71, 0.59, 0.5, 0.35, 0.25)
"""Parts of the range seen that the fine grid is tried with; what lies outside is clipped."""


def codebook_grid(spec: GridSpec, histogram: Histogram) -> CodebookGrid:
    """Return the codebook with the least weighted squared error on the histogram.

    Args:
        spec: kind "codebook".
        histogram: Of the tensor, with or without Fisher weights.
    """
    fine = level_spec(spec)
    found = []
    for share in SHARES:
        grid = UniformGrid.from_range(fine, share * histogram.low, share * histogram.high)
        levels, error = best_levels(_moments(grid, histogram), 1 << spec.bits)
        found.append((error * float(grid.scale) ** 2, grid, levels))
    _, grid, levels = min(found, key=lambda one: one[0])
    codes = tuple(level + fine.qmin for level in levels)
    return CodebookGrid(spec=spec, scale=grid.scale, zero_point=grid.zero_point, levels=codes)


def _moments(grid: UniformGrid, histogram: Histogram) -> Tensor:
    """Return float64 [3, 2^bits]: of each code, weight, weighted sum and squares of what it takes.

    Values are in fine steps, counted from the least code.
    """
    centers = histogram.centers
    codes = (grid.codes(centers) - grid.spec.qmin).long()  # [BINS]
    values = centers.double() / float(grid.scale) + float(grid.zero_point) - grid.spec.qmin
    powers = torch.stack([values**0, values, values**2]) * histogram.counts  # [3, BINS]
    return torch.zeros(3, 1 << grid.spec.bits, dtype=torch.float64).index_add_(1, codes, powers)


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
    best = costs[0]  # of cells 0 .. j with one level
    ends: list[Tensor] = []
    for _ in range(min(count, size) - 1):
        before = torch.cat([torch.full((1,), torch.inf, dtype=best.dtype), best[:-1]])
        split, first = (before[:, None] + costs).min(0)  # [N]: the last interval is first .. j
        taken = split < best
        ends.append(torch.where(taken, first, -1))
        best = torch.where(taken, split, best)
    found, end = [], size - 1
    for starts in [*reversed(ends), torch.full((size,), 0)]:
        start = int(starts[end])
        if start < 0:  # one more level would not help
            continue
        found.append(int(levels[start, end]))
        end = start - 1
        if end < 0:
            break
    return tuple(sorted(set(found))), float(best[-1])


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
