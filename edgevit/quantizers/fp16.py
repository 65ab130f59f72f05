"""What a float16 body does to numbers: constants, scales and codes that are float16 exactly.

A device whose body is float16 rounds every scale to float16 before it uses it. Rounding them here,
once and before anything is lowered, keeps simulation and engine at the same codes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from edgevit.graph.model import Graph
from edgevit.quantizers.float8 import Float8Linear, Float8Matmul
from edgevit.quantizers.fp16_products import HALF_MAX
from edgevit.quantizers.quantized_graph import (
    Grid,
    IntegerLinear,
    IntegerMatmul,
    Layer,
    SimulatedMatmul,
    stored_dtype,
)
from edgevit.quantizers.uniform import UniformGrid

SMALLEST_NORMAL = 2.0**-14
"""Below it float16 loses digits, and a scale of few digits is no step to count in."""


def to_half(x: Tensor) -> Tensor:
    """Return float32 x rounded to float16 numbers; what is beyond them becomes the largest one."""
    return x.clamp(-HALF_MAX, HALF_MAX).to(torch.float16).to(torch.float32)


def half_scale(scale: Tensor) -> Tensor:
    """Return float32 scales rounded to normal float16 numbers."""
    return to_half(scale.clamp_min(SMALLEST_NORMAL))


def round_constants(graph: Graph) -> None:
    """Round every float constant of the graph, in place, to float16 numbers."""
    for name, value in list(graph.module.named_buffers()):
        if value.is_floating_point():
            graph.set_constant(name, to_half(value))


def half_grid(grid: Grid) -> UniformGrid:
    """Return the same grid with a float16 scale.

    Raises:
        TypeError: It is no uniform grid; no target with a float16 body offers another.
    """
    if not isinstance(grid, UniformGrid):
        raise TypeError(f"a {grid.spec.kind} grid has no float16 form")
    return replace(grid, scale=half_scale(grid.scale))


def half_layer(layer: Layer) -> Layer:
    """Return the layer as a device with a float16 body computes it.

    Weight codes keep their value in the rounded scale to half a step: they stay what they are
    unless the scale was below float16's normal numbers.

    Raises:
        TypeError: The layer's grids have no float16 form.
    """
    if isinstance(layer, IntegerMatmul):
        return IntegerMatmul(left=half_grid(layer.left), right=half_grid(layer.right))
    if isinstance(layer, (Float8Linear, Float8Matmul)):
        return layer  # made with float16 scales
    if isinstance(layer, SimulatedMatmul):
        raise TypeError("a logarithmic grid has no float16 form")
    return _half_linear(layer)


def _half_linear(layer: IntegerLinear) -> IntegerLinear:
    spec = layer.weight_grid.spec
    grid, rows = half_grid(layer.grid), half_grid(layer.weight_grid)
    ratio = (layer.weight_grid.scale / rows.scale)[:, None]  # [out, 1]
    codes = torch.round(layer.weight_codes * ratio).clamp_(spec.qmin, spec.qmax)
    return IntegerLinear(
        grid=grid,
        weight_grid=rows,
        weight_codes=codes.to(stored_dtype(spec)),
        scale=(grid.unit * rows.scale).expand(len(codes)).contiguous(),
        bias=to_half(layer.bias),
    )
