"""The numbers of a float16 body: constants, scales and codes that are float16 exactly.

A device whose body is float16 rounds every scale to float16 before it uses it. Rounding them here,
once and before anything is lowered, keeps simulation and engine at the same codes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from edgevit.graph.model import Graph
from edgevit.quantizers.base import AnyGrid
from edgevit.quantizers.fp16_range import HALF_MAX, SMALLEST_NORMAL


def round_to_half(x: Tensor) -> Tensor:
    """Return float32 x rounded to float16 numbers; what is far beyond them becomes infinite."""
    return x.to(torch.float16).to(torch.float32)


def to_half(x: Tensor) -> Tensor:
    """Return float32 x rounded to float16 numbers; what is beyond them becomes the largest one."""
    return round_to_half(x.clamp(-HALF_MAX, HALF_MAX))


def half_scale(scale: Tensor) -> Tensor:
    """Return float32 scales rounded to normal float16 numbers."""
    return to_half(scale.clamp_min(SMALLEST_NORMAL))


def round_constants(graph: Graph) -> None:
    """Round every float constant of the graph, in place, to float16 numbers."""
    for name, value in list(graph.module.named_buffers()):
        if value.is_floating_point():
            graph.set_constant(name, to_half(value))


def exact_grid(grid: AnyGrid) -> AnyGrid:
    """Return the same grid of an activation with a float16 scale that is exact on every engine.

    Raises:
        TypeError: It has no such form; no target with a float16 body offers it.
    """
    return replace(grid, scale=grid.exact_scale())


def half_grid(grid: AnyGrid) -> AnyGrid:
    """Return the same grid of a weight, whose codes are stored, with float16 scales.

    Raises:
        TypeError: It has no such form; no target with a float16 body offers it.
    """
    if not grid.has_half_form:
        raise TypeError(f"a {grid.spec.kind} grid has no float16 form")
    return replace(grid, scale=half_scale(grid.scale))
