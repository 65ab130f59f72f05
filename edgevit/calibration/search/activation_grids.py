"""Chooses an activation grid from a histogram: min-max, percentile, or least weighted error.

With Fisher weights in the histogram the last one is PTQ4ViT's Hessian-guided search (Yuan et
al., arXiv 2111.12293, section 3.3) in O(bins) per candidate instead of one layer run; with
weights of one it is the plain MSE search. Twin grids (eq. 8-9) are searched the same way.
"""

from __future__ import annotations

from edgevit.calibration.statistics.histogram import Histogram
from edgevit.quantizers.base import Grid, grid_class
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.uniform import UniformGrid

PERCENTILES = (0.999, 0.9999, 0.99999)  # RepQ-ViT's three candidates


def error(grid: Grid, histogram: Histogram) -> float:
    """Return the weighted squared error of the grid on the histogram."""
    return grid.error(histogram)


def minmax_grid(spec: GridSpec, histogram: Histogram) -> UniformGrid:
    """Return the grid that covers everything seen."""
    return UniformGrid.from_range(spec, histogram.low, histogram.high)


def percentile_grid(spec: GridSpec, histogram: Histogram) -> UniformGrid:
    """Return the best of RepQ-ViT's percentiles by squared error (its section 4.1)."""
    grids = [
        UniformGrid.from_range(spec, histogram.quantile(1 - p), histogram.quantile(p))
        for p in PERCENTILES
    ]
    return min(grids, key=lambda grid: error(grid, histogram))


def search_grid(spec: GridSpec, histogram: Histogram) -> Grid:
    """Return the grid of this specification with the least weighted squared error."""
    return grid_class(spec.kind).fit(spec, histogram)
