"""The quantized graph, and its exact simulation in torch.

`QuantizedGraph.forward` computes, for every quantized product, the same integer codes, the same
int32 sums and the same float32 results as the engine does; everything between the products runs
in float32 on both sides. Where the target's body is float16, every operator of
its graph rounds its result to float16, those inside a product too (see `half_products`). Products
with a logarithmic grid, which no engine here runs, and with 8-bit floating point numbers are
float32 products of dequantized values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from edgevit.errors import UnsupportedError
from edgevit.graph.interpret import run_graph
from edgevit.graph.model import Gemm, Graph
from edgevit.quantizers.codebook import CodebookGrid
from edgevit.quantizers.float8 import Float8Linear, Float8Matmul
from edgevit.quantizers.fp16_products import half_or_not, product, saturated
from edgevit.quantizers.integer import exact_matmul, rescale
from edgevit.quantizers.log import LogGrid
from edgevit.quantizers.spec import GridSpec, Placement
from edgevit.quantizers.twin import TwinGrid
from edgevit.quantizers.uniform import UniformGrid

Grid = UniformGrid | TwinGrid | CodebookGrid


@dataclass(frozen=True, kw_only=True)
class IntegerLinear:
    """A linear layer in integers.

    Args:
        grid: The input's grid.
        weight_grid: Per-output-channel grid of the weight. Engines run symmetric ones.
        weight_codes: int8 [out, in], uint8 where the grid's codes are unsigned.
        scale: float32 [out], input step times weight step.
        bias: float32 [out].
    """

    grid: Grid
    weight_grid: UniformGrid
    weight_codes: Tensor
    scale: Tensor
    bias: Tensor

    def sums(self, x: Tensor) -> Tensor:
        """Return the int32 sums [..., out] of float32 x [..., in], without the bias."""
        operand = self.grid.operand(self.grid.codes(x))  # [..., in]
        return exact_matmul(operand, self._weight_operand().T)  # [..., out]

    def _weight_operand(self) -> Tensor:
        """Return [out, in]: the codes, less their rows' zero points if these are not all zero."""
        if self.weight_grid.spec.fixed_zero_point == 0:
            return self.weight_codes
        return self.weight_grid.operand(self.weight_codes)

    def weight_values(self) -> Tensor:
        """Return what the weight's codes stand for, float32 [out, in]."""
        return self.weight_grid.dequantize(self.weight_codes)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the layer's float32 output [..., out]."""
        return rescale(self.sums(x), self.scale) + self.bias


@dataclass(frozen=True, kw_only=True)
class IntegerMatmul:
    """A product of two activations in integers; `scale` is the product of their steps."""

    left: Grid
    right: Grid

    @property
    def scale(self) -> Tensor:
        """float32 [], the value of one unit of the sum."""
        return self.left.unit * self.right.unit

    def sums(self, left: Tensor, right: Tensor) -> Tensor:
        """Return int32 sums [..., M, N] of float32 [..., M, K] and [..., K, N]."""
        a = self.left.operand(self.left.codes(left))
        b = self.right.operand(self.right.codes(right))
        return exact_matmul(a, b)

    def __call__(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the float32 product [..., M, N]."""
        return rescale(self.sums(left, right), self.scale)


@dataclass(frozen=True, kw_only=True)
class SimulatedMatmul:
    """A product of two activations of which one has a logarithmic grid.

    The product of the dequantized values, in float32: its sums depend on their order, so that
    they are the same on one machine only.
    """

    left: Grid | LogGrid
    right: Grid | LogGrid

    def __call__(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the float32 product [..., M, N] of float32 [..., M, K] and [..., K, N]."""
        return torch.matmul(self.left.fake_quantize(left), self.right.fake_quantize(right))


IntegerLayer = IntegerLinear | IntegerMatmul
Layer = IntegerLayer | SimulatedMatmul | Float8Linear | Float8Matmul


def matmul_layer(left: Grid | LogGrid, right: Grid | LogGrid) -> IntegerMatmul | SimulatedMatmul:
    """Return the product of two activations in integers, simulated if a grid has none."""
    if isinstance(left, LogGrid) or isinstance(right, LogGrid):
        return SimulatedMatmul(left=left, right=right)
    return IntegerMatmul(left=left, right=right)


def stored_dtype(spec: GridSpec) -> torch.dtype:
    """Return the 8-bit type that holds this grid's codes."""
    return torch.int8 if spec.signed else torch.uint8


def integer_linear(
    grid: Grid, weight_grid: UniformGrid, weight: Tensor, bias: Tensor | None
) -> IntegerLinear:
    """Quantize a linear layer: weight float32 [out, in], bias float32 [out] or None."""
    scale = (grid.unit * weight_grid.scale).to(torch.float32)
    scale = scale.expand(weight.shape[0]).contiguous()  # [out]
    return IntegerLinear(
        grid=grid,
        weight_grid=weight_grid,
        weight_codes=weight_grid.codes(weight).to(stored_dtype(weight_grid.spec)),
        scale=scale,
        bias=torch.zeros(weight.shape[0]) if bias is None else bias.to(torch.float32),
    )


@dataclass(kw_only=True)
class QuantizedGraph:
    """A canonical graph, the grids calibration chose, and its layers in integers.

    Args:
        graph: The graph after all exact rewrites; its constants are what the codes stand for.
        placement: What the target offered and what stays in float.
        layers: Gemm name -> the quantized layer; absent gemms run in float32.
        notes: Counted warnings of calibration.
        float32_nodes: With a float16 body: fx nodes whose output stays in float32 because it was
            seen outside float16's safe range.
        float32_norms: LayerNorms that a float16 body computes in float32.
    """

    graph: Graph
    placement: Placement
    layers: dict[str, Layer] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    float32_nodes: frozenset[str] = frozenset()
    float32_norms: frozenset[str] = frozenset()

    def compute(self, gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
        """Return one product as the engine computes it."""
        layer = self.layers.get(gemm.name)
        if self.placement.float_type == "float16":
            return self._half_product(gemm, layer, left, right)
        if isinstance(layer, (IntegerLinear, Float8Linear)):
            return layer(left)
        if layer is not None and right is not None:
            return layer(left, right)
        return float_product(self.graph, gemm, left, right)

    def _half_product(
        self, gemm: Gemm, layer: Layer | None, left: Tensor, right: Tensor | None
    ) -> Tensor:
        """Return one product of a float16 body; `kept` still rounds what it returns."""
        keep = half_or_not(gemm.name in self.float32_nodes)
        bias = None if gemm.bias is None else self.graph.constant(gemm.bias)
        if isinstance(layer, (IntegerLinear, Float8Linear)):
            left = keep(layer.grid.fake_quantize(saturated(left)))
            return product(left, keep(layer.weight_values()).T, layer.bias, keep)
        if layer is not None and right is not None:
            left = keep(layer.left.fake_quantize(saturated(left)))
            return product(left, keep(layer.right.fake_quantize(saturated(right))), None, keep)
        if right is None:
            right = self.graph.constant(str(gemm.weight)).T  # [in, out]
        return product(left, right, bias, keep)

    @property
    def integer_layers(self) -> dict[str, IntegerLayer]:
        """Gemm name -> the layer, all of them in integers that an engine runs.

        Raises:
            UnsupportedError: A layer has a logarithmic grid, asymmetric weights or 8-bit floating
                point numbers (EV307).
        """
        for name, layer in self.layers.items():
            if isinstance(layer, IntegerLinear):
                runs = layer.weight_grid.spec.fixed_zero_point == 0
            else:
                runs = isinstance(layer, IntegerMatmul)
            if not runs:
                raise UnsupportedError(
                    "EV307",
                    "A layer has no integer form on any engine.",
                    where=name,
                    why="Logarithmic grids and asymmetric weights are simulated only.",
                    try_next="Calibrate for the target to deploy on, such as --target cpu.",
                )
        return cast("dict[str, IntegerLayer]", self.layers)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Return float32 logits [B, classes] of float32 images [B, 3, H, W]."""
        if self.placement.float_type == "float32":
            return run_graph(self.graph, image, gemm=self.compute)
        return run_graph(self.graph, image, gemm=self.compute, keep=self.kept)

    def kept(self, name: str, value: Tensor) -> Tensor:
        """Return what a float16 body keeps of a float32 output of the fx node `name`."""
        if name in self.float32_nodes:
            return value
        return value.to(torch.float16).to(torch.float32)


def float_product(graph: Graph, gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
    """Return one product in float32."""
    if right is not None:
        return torch.matmul(left, right)
    if gemm.weight is None:
        raise ValueError(f"{gemm.module}: a linear without a weight")
    bias = None if gemm.bias is None else graph.constant(gemm.bias)
    return torch.nn.functional.linear(left, graph.constant(gemm.weight), bias)
