"""RepQ-ViT's initialiser: the best of three percentiles by squared error, for every kind of grid.

Source: Li et al., "RepQ-ViT: Scale reparameterization for post-training quantization of vision
transformers" (arXiv 2212.08254), section 4.1, and its official code: the range of a tensor (or
of each channel) is from the (1 - p) to the p quantile, p one of 0.999, 0.9999 and 0.99999.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgevit.calibration.search.activation_grids import PERCENTILES
from edgevit.calibration.search.weight_scales import percentile_scale
from edgevit.quantizers.base import Grid, grid_class
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.uniform import SMALLEST_SCALE, UniformGrid

DEAD_SHARE = 1e-4
"""A channel's step is at least this share of the mean step: a constant channel has no width."""


@dataclass(frozen=True, kw_only=True)
class ChannelGrid:
    """An asymmetric grid of its own for every channel of the last axis.

    No engine runs it: RepQ-ViT turns it into one grid per tensor (`layerwise`).

    Args:
        bits: Width k; codes lie in [0, 2^k - 1].
        scale: float32 [C].
        zero_point: Whole numbers in float32 [C], of any size: channels need not hold zero.
    """

    bits: int
    scale: Tensor
    zero_point: Tensor

    def codes(self, x: Tensor) -> Tensor:
        """Return the codes, whole numbers in float32, of float32 x [..., C]."""
        shifted = torch.round(x / self.scale) + self.zero_point
        return shifted.clamp_(0, (1 << self.bits) - 1)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Return float32 x [..., C] rounded to the grid."""
        return (self.codes(x) - self.zero_point) * self.scale

    def layerwise(self, spec: GridSpec) -> tuple[UniformGrid, Tensor, Tensor]:
        """Return one grid for all channels, and the (shift, factor) [C] that make it fit.

        The codes of (x - shift) / factor on that grid are the codes of x on this one. The mean
        zero point is rounded, so that codes stay whole numbers (the official code keeps the
        fraction); any whole number would do, and it has to be what the specification allows.

        Source: RepQ-ViT, section 3.2, with r1 = factor and s * r2 = -shift.
        """
        scale, zeros = self.scale.mean(), self.zero_point + spec.qmin  # its codes start at qmin
        zero = zeros.mean().round().clamp(spec.qmin, spec.qmax)
        if spec.fixed_zero_point is not None:
            zero = torch.full_like(zero, spec.fixed_zero_point)
        grid = UniformGrid(spec=spec, scale=scale, zero_point=zero.to(torch.int32))
        return grid, self.scale * (zero - zeros), self.scale / scale


def tensor_grid(spec: GridSpec, x: Tensor) -> Grid:
    """Return the per-tensor grid of float32 x of any shape: exact quantiles, errors of all of x.

    A histogram will not do: at 8 bits and three candidates its bins decide between them.
    """
    ranges = tail_quantiles(x.reshape(-1))
    grids = [grid_class(spec.kind).from_range(spec, low, high) for low, high in ranges]
    return min(grids, key=lambda grid: float((grid.fake_quantize(x) - x).double().square().sum()))


def tail_quantiles(x: Tensor) -> list[tuple[float, float]]:
    """Return (1 - p quantile, p quantile) of x [N] for every percentile, as `torch.quantile` does.

    From the tails alone: sorting millions of numbers for three of them takes seconds.
    """
    last = x.numel() - 1
    count = min(int((1 - min(PERCENTILES)) * last) + 2, x.numel())
    tails = [x.topk(count, largest=largest).values for largest in (False, True)]
    found = []
    for p in PERCENTILES:
        place = (1 - p) * last
        below, above = int(place), min(int(place) + 1, count - 1)
        low, high = (float(torch.lerp(t[below], t[above], place - below)) for t in tails)
        found.append((low, high))
    return found


def channel_grid(bits: int, x: Tensor) -> ChannelGrid:
    """Return the grid of each channel of float32 x [..., C]."""
    low, high = row_ranges(x.reshape(-1, x.shape[-1]).T.contiguous(), bits)  # [C]
    scale = (high - low) / ((1 << bits) - 1)
    scale = scale.clamp_min(max(DEAD_SHARE * float(scale.mean()), SMALLEST_SCALE))
    return ChannelGrid(bits=bits, scale=scale, zero_point=torch.round(-low / scale))


def weight_grid(spec: GridSpec, weight: Tensor) -> UniformGrid:
    """Return the per-row grid of a weight float32 [out, in], symmetric if the specification is."""
    if spec.fixed_zero_point is not None:
        return UniformGrid.symmetric(spec, percentile_scale(weight, spec, PERCENTILES))
    return UniformGrid.from_channel_ranges(spec, *row_ranges(weight, spec.bits))


def row_ranges(rows: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return (low, high), [R] each: for every row of float32 [R, N] its best percentiles."""
    ordered = rows.sort(1).values  # [R, N]
    lows = torch.stack([_quantile(ordered, 1 - p) for p in PERCENTILES])  # [P, R]
    highs = torch.stack([_quantile(ordered, p) for p in PERCENTILES])  # [P, R]
    pairs = zip(lows, highs, strict=True)
    errors = torch.stack([_row_errors(rows, low, high, bits) for low, high in pairs])  # [P, R]
    best = errors.argmin(0, keepdim=True)  # [1, R]
    return lows.gather(0, best)[0], highs.gather(0, best)[0]


def _quantile(ordered: Tensor, fraction: float) -> Tensor:
    """Return [R]: the quantile of each sorted row, between neighbours by linear interpolation.

    `torch.quantile` refuses more than 2^24 numbers.
    """
    place = fraction * (ordered.shape[1] - 1)
    below = min(int(place), ordered.shape[1] - 1)
    above = min(below + 1, ordered.shape[1] - 1)
    return torch.lerp(ordered[:, below], ordered[:, above], place - below)


def _row_errors(rows: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """Return [R]: the squared error of the asymmetric grid from low to high of each row."""
    scale = ((high - low) / ((1 << bits) - 1)).clamp_min(SMALLEST_SCALE)[:, None]  # [R, 1]
    zero = torch.round(-low[:, None] / scale)
    codes = torch.round(rows / scale).add_(zero).clamp_(0, (1 << bits) - 1)
    return codes.sub_(zero).mul_(scale).sub_(rows).square_().sum(1)
