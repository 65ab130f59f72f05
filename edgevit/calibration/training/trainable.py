"""Differentiable twins of the integer layers, so that codes and steps can be trained.

A weight is trained in units of its step, so that one learning rate suits every layer; steps are
trained as logarithms, so that they stay positive. The affine of a LayerNorm in front costs nothing
at run time either, and shapes what is rounded behind it channel by channel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from edgevit.calibration.training.straight_through import quantize_through, round_through
from edgevit.graph.layernorm import LayerNormFeed
from edgevit.graph.model import Gemm, Graph
from edgevit.quantizers.quantized_graph import (
    Grid,
    IntegerLinear,
    IntegerMatmul,
    QuantizedGraph,
    float_product,
    is_integer_linear,
    is_integer_matmul,
)

_INSIDE = 0.49  # a real-valued code starts at most this far from the integer it stands for


class TrainableGrid(nn.Module):
    """An activation grid whose step is trained.

    Args:
        grid: Where it starts; zero point, width, a twin grid's ratio and a codebook's levels stay.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.log_scale = nn.Parameter(grid.scale.log().clone())
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 x rounded to the grid; readers of one tensor share the result."""
        if self._last is None or self._last[0] is not x:
            self._last = x, quantize_through(x, self.log_scale.exp(), self.grid)
        return self._last[1]

    def forget(self) -> None:
        """Free the last tensor; to be called after a step."""
        self._last = None

    def baked(self) -> Grid:
        """Return the grid with the trained step."""
        return replace(self.grid, scale=self.log_scale.detach().exp())


class TrainableLinear(nn.Module):
    """A quantized linear whose codes and bias are trained.

    Args:
        layer: Where it starts: its codes are kept exactly.
        target: float32 [out, in], the weight before rounding. Real-valued codes start as close
            to it as the layer's codes allow, so that those near a border can cross it.
        grid: The input's grid, shared with other readers of the same tensor.
    """

    def __init__(self, layer: IntegerLinear, target: Tensor, grid: TrainableGrid) -> None:
        super().__init__()
        self.layer, self.grid = layer, grid
        codes = layer.weight_codes.to(torch.float32)  # [out, in]
        offset = target.to(codes.device) / layer.weight_grid.scale[:, None] - codes
        self.codes = nn.Parameter(codes + offset.clamp(-_INSIDE, _INSIDE))
        self.log_steps = nn.Parameter(layer.weight_grid.scale.log().clone())  # [out]
        self.bias_steps = nn.Parameter(torch.zeros_like(layer.bias))
        self.bias_unit = layer.scale * target.shape[1] ** 0.5  # about the size of an output error

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's float32 output [..., out] of x [..., in]."""
        spec = self.layer.weight_grid.spec
        codes = round_through(self.codes).clamp(spec.qmin, spec.qmax)
        weight = codes * self.log_steps.exp()[:, None]  # [out, in]
        return nn.functional.linear(self.grid(x), weight, self.bias())

    def bias(self) -> Tensor:
        """Return the bias, float32 [out]."""
        bias: Tensor = self.layer.bias + self.bias_steps * self.bias_unit
        return bias

    def baked(self) -> IntegerLinear:
        """Return the layer in integers."""
        spec = self.layer.weight_grid.spec
        weight_grid = replace(self.layer.weight_grid, scale=self.log_steps.detach().exp())
        codes = self.codes.detach().round().clamp(spec.qmin, spec.qmax)
        return replace(
            self.layer,
            grid=self.grid.baked(),
            weight_grid=weight_grid,
            weight_codes=codes.to(self.layer.weight_codes.dtype),
            bias=self.bias().detach(),
        )


class TrainableNorm(nn.Module):
    """The affine of a LayerNorm that feeds quantized linears only.

    Args:
        graph: Where it starts.
        feed: Names of its weight and bias.
    """

    def __init__(self, graph: Graph, feed: LayerNormFeed) -> None:
        super().__init__()
        self.feed = feed
        self.weight, self.bias = graph.constant(feed.weight), graph.constant(feed.bias)  # [C]
        self.log_factor = nn.Parameter(torch.zeros_like(self.weight))
        self.shift = nn.Parameter(torch.zeros_like(self.bias))  # in units of a typical weight

    def constants(self) -> dict[str, Tensor]:
        """Return the names and values, float32 [C], of weight and bias."""
        unit = self.weight.abs().mean()
        return {
            self.feed.weight: self.weight * self.log_factor.exp(),
            self.feed.bias: self.bias + self.shift * unit,
        }


class TrainableMatmul(nn.Module):
    """A product of two activations, both on trained grids."""

    def __init__(self, left: TrainableGrid, right: TrainableGrid) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the float32 product [..., M, N] of [..., M, K] and [..., K, N]."""
        return torch.matmul(self.left(left), self.right(right))

    def baked(self) -> IntegerMatmul:
        """Return the product in integers."""
        return IntegerMatmul(left=self.left.baked(), right=self.right.baked())


@dataclass(kw_only=True)
class TrainablePart:
    """The quantized layers of one part of a graph, made trainable.

    Args:
        quantized: The whole quantized graph.
        layers: Gemm name -> trainable layer, for the gemms of the part.
        norms: LayerNorms of the part that feed its linears only.
    """

    quantized: QuantizedGraph
    layers: dict[str, TrainableLinear | TrainableMatmul]
    norms: list[TrainableNorm]

    def compute(self, gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
        """Return one product, differentiably."""
        layer = self.layers.get(gemm.name)
        if layer is None:
            return float_product(self.quantized.graph, gemm, left, right)
        output: Tensor = layer(left) if right is None else layer(left, right)
        return output

    def constants(self) -> dict[str, Tensor]:
        """Return what stands in for the graph's constants of these names."""
        return {name: value for norm in self.norms for name, value in norm.constants().items()}

    def codes(self) -> list[nn.Parameter]:
        """Return the real-valued weight codes."""
        return [la.codes for la in self.layers.values() if isinstance(la, TrainableLinear)]

    def others(self) -> list[nn.Parameter]:
        """Return biases, steps and affines, each once."""
        codes = {id(parameter) for parameter in self.codes()}
        modules = [*self.layers.values(), *self.norms]
        found = [p for module in modules for p in module.parameters()]
        return list({id(p): p for p in found if id(p) not in codes}.values())

    def forget(self) -> None:
        """Free what the layers keep of the last batch."""
        for layer in self.layers.values():
            for module in layer.modules():
                if isinstance(module, TrainableGrid):
                    module.forget()

    def bake(self) -> None:
        """Put the trained layers into the quantized graph."""
        for name, layer in self.layers.items():
            self.quantized.layers[name] = layer.baked()
        for name, value in self.constants().items():
            self.quantized.graph.set_constant(name, value)


def trainable_part(
    quantized: QuantizedGraph,
    gemms: list[Gemm],
    targets: dict[str, Tensor],
    feeds: tuple[LayerNormFeed, ...] = (),
) -> TrainablePart:
    """Return the part's layers made trainable; layers that shared a grid still share it.

    Args:
        targets: Gemm name -> float32 [out, in], the weight before rounding.
        feeds: LayerNorms of the part whose affine is trained too.
    """
    grids: dict[int, TrainableGrid] = {}

    def grid_of(grid: Grid) -> TrainableGrid:
        return grids.setdefault(id(grid), TrainableGrid(grid))

    layers: dict[str, TrainableLinear | TrainableMatmul] = {}
    for gemm in gemms:
        layer = quantized.layers.get(gemm.name)
        if is_integer_linear(layer):
            layers[gemm.name] = TrainableLinear(layer, targets[gemm.name], grid_of(layer.grid))
        elif is_integer_matmul(layer):
            layers[gemm.name] = TrainableMatmul(grid_of(layer.left), grid_of(layer.right))
    norms = [TrainableNorm(quantized.graph, feed) for feed in feeds]
    return TrainablePart(quantized=quantized, layers=layers, norms=norms)
