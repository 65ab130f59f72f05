"""The quantized graph, and its exact simulation in torch.

`QuantizedGraph.forward` computes, for every quantized product, the same integer codes, the same
int32 sums and the same float32 results as the engine does; everything between the products runs
in float32 on both sides. Where the target's body is float16, every operator of
its graph rounds its result to float16, those inside a product too (see `half_products`). Products
with a logarithmic grid, which no engine here runs, and with 8-bit floating point numbers are
float32 products of dequantized values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeGuard, cast

import torch
from torch import Tensor

from edgevit.errors import UnsupportedError
from edgevit.graph.interpret import run_outputs
from edgevit.graph.model import Gemm, Graph
from edgevit.quantizers.base import Grid as Grid
from edgevit.quantizers.fp16 import exact_grid, half_grid, round_to_half, to_half
from edgevit.quantizers.fp16_products import half_or_not, product
from edgevit.quantizers.integer import exact_matmul, rescale
from edgevit.quantizers.layer import Layer as Layer
from edgevit.quantizers.layer import Linear, Matmul, present
from edgevit.quantizers.spec import GridSpec, Placement


@dataclass(frozen=True, kw_only=True)
class IntegerLinear(Linear):
    """A linear layer in integers.

    Args:
        grid: The input's grid.
        weight_grid: Per-output-channel grid of the weight. Engines run symmetric ones.
        weight_codes: int8 [out, in], uint8 where the grid's codes are unsigned.
        bias: float32 [out].
    """

    weight_codes: Tensor

    has_integer_sums = True

    @property
    def scale(self) -> Tensor:
        """float32 [out], the value of one unit of each sum: input step times weight step."""
        scale = (self.grid.unit * self.weight_grid.unit).to(torch.float32)
        return scale.expand(len(self.weight_codes)).contiguous()

    @property
    def runs_in_integers(self) -> bool:
        """True if engines have an integer kernel for it: its weight's zero points are all 0."""
        return self.weight_grid.codes_are_operands

    def sums(self, left: Tensor) -> Tensor:
        """Return the int32 sums [..., out] of float32 left [..., in], without the bias."""
        operand = self.grid.operand(self.grid.codes(left))  # [..., in]
        return exact_matmul(operand, self._weight_operand().T)  # [..., out]

    def _weight_operand(self) -> Tensor:
        """Return [out, in]: what the codes stand for in steps of their rows."""
        if self.weight_grid.codes_are_operands:
            return self.weight_codes
        return self.weight_grid.operand(self.weight_codes)

    def weight_values(self) -> Tensor:
        """Return what the weight's codes stand for, float32 [out, in]."""
        return self.weight_grid.dequantize(self.weight_codes)

    def __call__(self, left: Tensor, right: Tensor | None = None) -> Tensor:
        """Return the layer's float32 output [..., out] of float32 left [..., in]."""
        return rescale(self.sums(left), self.scale) + self.bias

    def in_float16(self) -> IntegerLinear:
        """Return the layer with float16 scales and bias.

        Weight codes keep their value in the rounded scale to half a step: they stay what they are
        unless the scale was below float16's normal numbers.
        """
        spec, rows = self.weight_grid.spec, half_grid(self.weight_grid)
        ratio = (self.weight_grid.scale / rows.scale)[:, None]  # [out, 1]
        codes = torch.round(self.weight_codes * ratio).clamp_(spec.qmin, spec.qmax)
        return IntegerLinear(
            grid=exact_grid(self.grid),
            weight_grid=rows,
            weight_codes=codes.to(stored_dtype(spec)),
            bias=to_half(self.bias),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return codes, bias and steps, and the scale that follows from the steps."""
        return {
            "codes": self.weight_codes,
            "bias": self.bias,
            "scale": self.scale,
            "steps": self.weight_grid.scale,
            "left": self.grid.scale,
        }

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> IntegerLinear:
        """Return the layer with other codes, bias and steps."""
        return replace(
            self,
            grid=replace(self.grid, scale=tensors["left"]),
            weight_grid=replace(self.weight_grid, scale=tensors["steps"]),
            weight_codes=tensors["codes"],
            bias=tensors["bias"],
        )


@dataclass(frozen=True, kw_only=True)
class IntegerMatmul(Matmul):
    """A product of two activations in integers; `scale` is the product of their steps."""

    has_integer_sums = True

    @property
    def scale(self) -> Tensor:
        """float32 [], the value of one unit of the sum."""
        return self.left.unit * self.right.unit

    def sums(self, left: Tensor, right: Tensor | None) -> Tensor:
        """Return int32 sums [..., M, N] of float32 [..., M, K] and [..., K, N]."""
        a = self.left.operand(self.left.codes(left))
        b = self.right.operand(self.right.codes(present(right)))
        return exact_matmul(a, b)

    def __call__(self, left: Tensor, right: Tensor | None = None) -> Tensor:
        """Return the float32 product [..., M, N]."""
        return rescale(self.sums(left, right), self.scale)

    def tensors(self) -> dict[str, Tensor]:
        """Return the steps."""
        return {"left": self.left.scale, "right": self.right.scale}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> IntegerMatmul:
        """Return the product with other steps."""
        left = replace(self.left, scale=tensors["left"])
        return IntegerMatmul(left=left, right=replace(self.right, scale=tensors["right"]))


@dataclass(frozen=True, kw_only=True)
class SimulatedMatmul(Matmul):
    """A product of two activations of which one has a grid without integer sums.

    The product of the dequantized values, in float32: its sums depend on their order, so that
    they are the same on one machine only. Engines that have 8-bit floating point numbers
    compute it so; of other grids it is a simulation.
    """

    has_integer_sums = False

    def __call__(self, left: Tensor, right: Tensor | None = None) -> Tensor:
        """Return the float32 product [..., M, N] of float32 [..., M, K] and [..., K, N]."""
        return torch.matmul(*self.rounded(left, right))


IntegerLayer = IntegerLinear | IntegerMatmul


def matmul_layer(left: Grid, right: Grid) -> IntegerMatmul | SimulatedMatmul:
    """Return the product of two activations in integers, simulated if a grid has none."""
    in_integers = left.has_integer_sums and right.has_integer_sums
    return (IntegerMatmul if in_integers else SimulatedMatmul)(left=left, right=right)


def is_integer_linear(layer: Layer | None) -> TypeGuard[IntegerLinear]:
    """Return whether it is a linear layer that adds up integers."""
    return layer is not None and layer.is_linear and layer.has_integer_sums


def is_integer_matmul(layer: Layer | None) -> TypeGuard[IntegerMatmul]:
    """Return whether it is a product of two activations that adds up integers."""
    return layer is not None and not layer.is_linear and layer.has_integer_sums


def stored_dtype(spec: GridSpec) -> torch.dtype:
    """Return the 8-bit type that holds this grid's codes."""
    return torch.int8 if spec.signed else torch.uint8


def integer_linear(
    grid: Grid, weight_grid: Grid, weight: Tensor, bias: Tensor | None
) -> IntegerLinear:
    """Quantize a linear layer: weight float32 [out, in], bias float32 [out] or None."""
    return IntegerLinear(
        grid=grid,
        weight_grid=weight_grid,
        weight_codes=weight_grid.codes(weight).to(stored_dtype(weight_grid.spec)),
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
        scale_shift: With a float16 body: largest relative change of an integer grid's scale, from
            what calibration chose to a float16 number that is exact on every engine.
    """

    graph: Graph
    placement: Placement
    layers: dict[str, Layer] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    float32_nodes: frozenset[str] = frozenset()
    scale_shift: float | None = None

    def compute(self, gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
        """Return one product as the engine computes it."""
        layer = self.layers.get(gemm.name)
        if self.placement.float_type == "float16":
            return self._half_product(gemm, layer, left, right)
        if layer is None:
            return float_product(self.graph, gemm, left, right)
        return layer(left, right)

    def _half_product(
        self, gemm: Gemm, layer: Layer | None, left: Tensor, right: Tensor | None
    ) -> Tensor:
        """Return one product of a float16 body; `kept` still rounds what it returns."""
        keep = half_or_not(gemm.name in self.float32_nodes)
        if layer is None:
            bias = None if gemm.bias is None else self.graph.constant(gemm.bias)
            right = self.graph.constant(str(gemm.weight)).T if right is None else right
            return product(left, right, bias, keep)
        right = None if right is None else round_to_half(right)  # a Q reads float16, and rounds
        left, right = (keep(x) for x in layer.rounded(round_to_half(left), right))  # inf last
        return product(left, right.T if layer.is_linear else right, layer.bias, keep)

    @property
    def integer_layers(self) -> dict[str, IntegerLayer]:
        """Gemm name -> the layer, all of them in integers that an engine runs.

        Raises:
            UnsupportedError: A layer has a logarithmic grid, asymmetric weights or 8-bit floating
                point numbers (EV307).
        """
        for name, layer in self.layers.items():
            if not layer.runs_in_integers:
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
        """Return the main output of float32 images [B, 3, H, W]: of classifiers the logits."""
        return self.forward_all(image)[self.graph.outputs[0]]

    @torch.no_grad()
    def forward_all(self, image: Tensor) -> dict[str, Tensor]:
        """Return every output, float32 [B, ...], by name."""
        keep = None if self.placement.float_type == "float32" else self.kept
        return run_outputs(self.graph, image, gemm=self.compute, keep=keep)

    def kept(self, name: str, value: Tensor) -> Tensor:
        """Return what a float16 body keeps of a float32 output of the fx node `name`."""
        return half_or_not(name in self.float32_nodes)(value)


def float_product(graph: Graph, gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
    """Return one product in float32."""
    if right is not None:
        return torch.matmul(left, right)
    if gemm.weight is None:
        raise ValueError(f"{gemm.module}: a linear without a weight")
    bias = None if gemm.bias is None else graph.constant(gemm.bias)
    return torch.nn.functional.linear(left, graph.constant(gemm.weight), bias)
