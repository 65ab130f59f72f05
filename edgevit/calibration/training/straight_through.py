"""Rounding with gradients: how training sees a grid.

Rounding passes its gradient straight through (Bengio et al., arXiv 1308.3432) and values beyond
the ends of the grid get none; the gradient of the step is LSQ's (Esser et al., arXiv 1902.08153,
eq. 3), which follows from that. One backward pass per tensor, since rounding takes most of the
time of a training step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from edgevit.quantizers.quantized_graph import Grid


def round_through(x: Tensor) -> Tensor:
    """Return round(x), half to even, with the gradient of x."""
    return x + (torch.round(x) - x).detach()


def quantize_through(x: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """Return float32 x rounded to a grid, with gradients for x and for the step.

    Args:
        scale: float32 [], the step (the fine one of a twin grid) in place of the grid's own.
        grid: Kind, width, zero point, a twin grid's ratio, a codebook's levels.
    """
    rounded: Tensor = _Rounded.apply(x, scale, grid)
    return rounded


class _Rounded(torch.autograd.Function):
    """y = step * n(x / step), n whole; dy/dx is 1 between the ends of the grid and 0 beyond."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, grid: Grid) -> Tensor:
        y = replace(grid, scale=scale).fake_quantize(x)
        ctx.ends = grid.operand_range
        ctx.save_for_backward(x, scale, y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, scale, y = ctx.saved_tensors
        low, high = ctx.ends[0] * scale, ctx.ends[1] * scale
        inside = (x >= low - scale / 2) & (x <= high + scale / 2)
        of_x = torch.where(inside, gradients[0], 0.0)
        # dy/dstep = n - x / step between the ends, n beyond
        step = _dot(gradients[0], y) - _dot(of_x, x)
        return of_x, (step / scale).reshape(scale.shape), None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.reshape(-1), b.reshape(-1))
