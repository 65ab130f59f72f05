"""Chooses an activation grid from a histogram: min-max, percentile, or least weighted error.

With Fisher weights in the histogram the last one is PTQ4ViT's Hessian-guided search (Yuan et
al., arXiv 2111.12293, section 3.3) in O(bins) per candidate instead of one layer run; with
weights of one it is the plain MSE search. Twin grids (eq. 8-9) are searched the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgevit.calibration.statistics.histogram import Histogram
from edgevit.quantizers.quantized_graph import Grid
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.twin import TwinGrid
from edgevit.quantizers.uniform import SMALLEST_SCALE, UniformGrid

PERCENTILES = (0.999, 0.9999, 0.99999)  # RepQ-ViT's three candidates
_COARSE = 16  # shares of the full range tried at first
_BEAM = 4
_HALVINGS = 5


def error(grid: Grid, histogram: Histogram) -> float:
    """Return the weighted squared error of the grid on the histogram."""
    centers = histogram.centers
    return float((histogram.counts * (centers - grid.fake_quantize(centers)).double() ** 2).sum())


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


def searched_grid(spec: GridSpec, histogram: Histogram) -> UniformGrid | TwinGrid:
    """Return the grid of this specification with the least weighted squared error."""
    if spec.kind != "uniform":
        return _search_twin(spec, histogram)
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if low == high or float(histogram.counts.sum()) <= 0:
        return UniformGrid.from_range(spec, low, high)
    tied = spec.fixed_zero_point is not None
    return _search_range(spec, histogram, low, high, tied)


def _search_range(
    spec: GridSpec, histogram: Histogram, low: float, high: float, tied: bool
) -> UniformGrid:
    """Search the shares (of low, of high) of the range, coarse to fine with a small beam."""
    shares = torch.logspace(-5.0, 0.15, _COARSE, base=2.0, dtype=torch.float64)  # 0.03 .. 1.1
    if tied:
        pairs = torch.stack([shares, shares], 1)  # [S, 2]
    else:
        lows = shares if low < 0 else torch.ones(1, dtype=torch.float64)
        highs = shares if high > 0 else torch.ones(1, dtype=torch.float64)
        pairs = torch.cartesian_prod(lows, highs)  # [S^2, 2]
    ratio = float(shares[1] / shares[0])
    for _ in range(_HALVINGS):
        best = pairs[_errors(spec, histogram, low, high, pairs).argsort()[:_BEAM]]  # [beam, 2]
        ratio = ratio**0.5
        pairs = (best[:, None] * _neighbours(ratio, tied)).reshape(-1, 2)  # [beam * 9, 2]
    scores = _errors(spec, histogram, low, high, pairs)
    share = pairs[int(scores.argmin())]
    return UniformGrid.from_range(spec, low * float(share[0]), high * float(share[1]))


def _neighbours(ratio: float, tied: bool) -> Tensor:
    steps = torch.tensor([1 / ratio, 1.0, ratio], dtype=torch.float64)
    return torch.stack([steps, steps], 1) if tied else torch.cartesian_prod(steps, steps)


def _errors(
    spec: GridSpec, histogram: Histogram, low: float, high: float, shares: Tensor
) -> Tensor:
    """Return [S]: the error of each candidate, all candidates at once in float32 arrays."""
    lows, highs = shares[:, 0] * low, shares[:, 1] * high  # [S]
    zero = spec.fixed_zero_point
    if zero is None:
        scale = ((highs - lows) / (spec.qmax - spec.qmin)).clamp_min(SMALLEST_SCALE)
        zeros = (torch.round(-lows / scale) + spec.qmin).clamp(spec.qmin, spec.qmax)
    else:
        below, above = max(zero - spec.qmin, 0), max(spec.qmax - zero, 0)
        steps = [-lows / below if below else -lows * 0, highs / above if above else highs * 0]
        scale = torch.maximum(steps[0], steps[1]).clamp_min(SMALLEST_SCALE)
        zeros = torch.full_like(scale, zero)
    return _uniform_errors(histogram, scale, zeros, spec.qmin, spec.qmax)


def _uniform_errors(
    histogram: Histogram, scale: Tensor, zeros: Tensor, qmin: int, qmax: int, rows: int = 64
) -> Tensor:
    """Return [S] errors, `rows` candidates at a time to bound memory."""
    centers, counts = histogram.centers, histogram.counts.float()
    found = []
    for start in range(0, len(scale), rows):
        step = scale[start : start + rows, None].float()  # [rows, 1]
        zero = zeros[start : start + rows, None].float()  # [rows, 1]
        codes = torch.round(centers / step).add_(zero).clamp_(qmin, qmax)  # [rows, BINS]
        found.append(codes.sub_(zero).mul_(step).sub_(centers).square_() @ counts)
    return torch.cat(found)


def _search_twin(spec: GridSpec, histogram: Histogram) -> TwinGrid:
    """Try every ratio 2^m the target carries with a range of steps, then refine the best."""
    half, top = 1 << (spec.bits - 1), max(histogram.high, SMALLEST_SCALE)

    def grid_at(ratio_log2: int, share: float) -> TwinGrid:
        fine = torch.tensor(share * top / ((half - 1) * (1 << ratio_log2)), dtype=torch.float32)
        return TwinGrid(spec=spec, scale=fine, ratio_log2=ratio_log2)

    shares = torch.logspace(-4, 0.2, 22, base=2.0).tolist()
    tried = [(m, share) for m in range(spec.max_ratio_log2 + 1) for share in shares]
    ranked = sorted(tried, key=lambda candidate: error(grid_at(*candidate), histogram))[:_BEAM]
    ratio = shares[1] / shares[0]
    for _ in range(_HALVINGS):
        ratio = ratio**0.5
        near = {(m, share * ratio**step) for m, share in ranked for step in (-1, 0, 1)}
        ranked = sorted(near, key=lambda candidate: error(grid_at(*candidate), histogram))[:_BEAM]
    return grid_at(*ranked[0])
