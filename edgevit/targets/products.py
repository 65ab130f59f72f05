"""How the products of a graph are written for ONNX Runtime: in float32, or as Q/DQ patterns.

A quantized linear is ``Q -> (Clip) -> DQ -> Gemm(weight DQ, int32 bias DQ)`` on a 2-D view, which
ONNX Runtime turns into one QGemm: ``float32(acc + bias) * float32(s_x * s_w)``. A float bias, or
a three-dimensional product with a symbolic batch, would lose that kernel. Codes of fewer than 8
bits are clipped after the Q, in u8, which costs next to nothing and keeps the fusion.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgevit.graph.model import Gemm
from edgevit.quantizers.simulation import Grid, IntegerLinear, IntegerMatmul
from edgevit.quantizers.twin import TwinGrid
from edgevit.quantizers.uniform import UniformGrid
from edgevit.targets.lowering import Lowering, array_of
from edgevit.targets.onnx_builder import OnnxBuilder


@dataclass(kw_only=True)
class FloatWriter:
    """Writes every product in float32; linears on a 2-D view, as one Gemm each."""

    def write(self, context: Lowering, gemm: Gemm, operands: list[str], output: str) -> None:
        """Emit one float32 product."""
        if gemm.weight is None:
            context.builder.add("MatMul", operands, output)
            return
        weight = array_of(context.graph.constant(gemm.weight))
        name = context.builder.constant(f"{gemm.weight}_t", weight.T)  # [in, out]
        inputs = [name]
        if gemm.bias is not None:
            bias = array_of(context.graph.constant(gemm.bias))
            inputs.append(context.builder.constant(gemm.bias, bias))
        write_2d(context, operands[0], inputs, output, weight.shape[1])


def write_2d(
    context: Lowering, x: str, others: list[str], output: str, width: int, flat: str | None = None
) -> None:
    """Emit ``output = Gemm(x as [-1, width], others)`` in output's own shape.

    Args:
        flat: Name of x already in 2-D, if there is one.
    """
    shape = context.shapes[output]
    if flat is None:
        flat = flatten(context, x, width) if len(shape) != 2 else x
    product = output if len(shape) == 2 else f"{output}_2d"
    context.builder.add("Gemm", [flat, *others], product)
    if product != output:
        name = context.integers("shape", list(shape))
        context.builder.add("Reshape", [product, name], output)


def flatten(context: Lowering, x: str, width: int) -> str:
    """Return the name of x viewed as [-1, width]; made once."""
    name = f"{x}_flat"
    if not any(node.output[0] == name for node in reversed(context.builder.nodes[-8:])):
        shape = context.integers("shape", [-1, width])
        context.builder.add("Reshape", [x, shape], name)
    return name


@dataclass(frozen=True, kw_only=True)
class Taps:
    """ONNX tensors around one quantized product.

    Args:
        inputs: Float operands before rounding (one for a linear, two for a matmul).
        codes: The same operands as 8-bit integers.
        output: What the integer kernel writes.
    """

    inputs: tuple[str, ...]
    codes: tuple[str, ...]
    output: str


@dataclass(kw_only=True)
class QuantizedWriter:
    """Writes the products calibration has put into integers, the rest in float32.

    Args:
        layers: Gemm name -> the layer in integers.
        taps: Filled while writing: gemm name -> the ONNX tensors around its kernel.
    """

    layers: dict[str, IntegerLinear | IntegerMatmul]
    taps: dict[str, Taps] = field(default_factory=dict)
    _written: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)

    def write(self, context: Lowering, gemm: Gemm, operands: list[str], output: str) -> None:
        """Emit one product in the form calibration simulated."""
        layer = self.layers.get(gemm.name)
        if layer is None:
            FloatWriter().write(context, gemm, operands, output)
        elif isinstance(layer, IntegerLinear):
            self._linear(context, layer, operands[0], output)
        else:
            left, left_codes = self._operand(context, operands[0], layer.left)
            right, right_codes = self._operand(context, operands[1], layer.right)
            context.builder.add("MatMul", [left, right], output)
            self.taps[output] = Taps(
                inputs=tuple(operands), codes=(left_codes, right_codes), output=output
            )

    def _linear(self, context: Lowering, layer: IntegerLinear, x: str, output: str) -> None:
        builder, width = context.builder, layer.weight_codes.shape[1]
        is_flat = len(context.shapes[output]) == 2
        flat = x if is_flat else flatten(context, x, width)
        quantized, codes = self._operand(context, flat, layer.grid)
        weight = constant_dq(
            builder,
            f"{output}_weight",
            array_of(layer.weight_codes.T),  # [in, out]
            array_of(layer.weight_grid.scale),
            axis=1,
            bits=layer.weight_grid.spec.bits,
        )
        bias_codes, scale = array_of(layer.bias_codes), array_of(layer.scale)
        bias = constant_dq(builder, f"{output}_bias", bias_codes, scale, axis=0, bits=None)
        write_2d(context, x, [weight, bias], output, width, flat=quantized)
        product = output if is_flat else f"{output}_2d"
        self.taps[output] = Taps(inputs=(flat,), codes=(codes,), output=product)

    def _operand(self, context: Lowering, x: str, grid: Grid) -> tuple[str, str]:
        """Return the names of x rounded to the grid, and of its codes; written once."""
        key = (x, repr(grid.to_dict()))
        if key not in self._written:
            stem = f"{x}_q{sum(k[0] == x for k in self._written)}"
            self._written[key] = write_grid(context.builder, x, grid, stem)
        return self._written[key]


def constant_dq(
    builder: OnnxBuilder,
    name: str,
    codes: np.ndarray[Any, Any],
    scale: np.ndarray[Any, Any],
    *,
    axis: int,
    bits: int | None,
) -> str:
    """Emit a per-channel DequantizeLinear of constant codes with zero point 0."""
    stored = builder.constant(f"{name}_codes", codes, bits=bits)
    steps = builder.constant(f"{name}_scale", scale)
    zeros = builder.constant(f"{name}_zero", np.zeros(len(scale), codes.dtype))
    return builder.add("DequantizeLinear", [stored, steps, zeros], f"{name}_dq", axis=axis)


def write_grid(builder: OnnxBuilder, x: str, grid: Grid, stem: str) -> tuple[str, str]:
    """Emit what rounds x to the grid; return the names of the rounded tensor and its codes."""
    if isinstance(grid, TwinGrid):
        return _write_twin(builder, x, grid, stem)
    return write_uniform(builder, x, grid, stem)


def write_uniform(builder: OnnxBuilder, x: str, grid: UniformGrid, stem: str) -> tuple[str, str]:
    """Q -> Clip to the k-bit codes (below 8 bits) -> DQ."""
    carrier = np.dtype(np.int8 if grid.spec.signed else np.uint8)
    scale = builder.constant(f"{stem}_scale", np.float32(grid.scale.item()))
    zero = builder.constant(f"{stem}_zero", carrier.type(int(grid.zero_point)))
    codes = builder.add("QuantizeLinear", [x, scale, zero], f"{stem}_codes")
    if grid.spec.bits < 8:
        low = builder.constant(f"low_{carrier}_{grid.spec.bits}", carrier.type(grid.spec.qmin))
        high = builder.constant(f"high_{carrier}_{grid.spec.bits}", carrier.type(grid.spec.qmax))
        codes = builder.add("Clip", [codes, low, high], f"{stem}_clipped")
    return builder.add("DequantizeLinear", [codes, scale, zero], f"{stem}_dq"), codes


def _write_twin(builder: OnnxBuilder, x: str, grid: TwinGrid, stem: str) -> tuple[str, str]:
    """Round large values to the coarse step first; then one Q with the fine step holds both.

    A coarse value is a whole number of fine steps, so the second rounding does not change it.
    """
    half, fine = grid.half, np.float32(grid.scale.item())
    coarse = builder.constant(f"{stem}_coarse", np.float32(grid.coarse.item()))
    nothing = builder.constant("zero_u8", np.uint8(0))
    top = builder.constant(f"top_u8_{half - 1}", np.uint8(half - 1))
    large = builder.add("QuantizeLinear", [x, coarse, nothing], f"{stem}_large_codes")
    large = builder.add("Clip", [large, nothing, top], f"{stem}_large_clipped")
    large = builder.add("DequantizeLinear", [large, coarse, nothing], f"{stem}_large")
    threshold = np.float32((grid.scale * grid.threshold).item())
    limit = builder.constant(f"{stem}_threshold", threshold)
    is_small = builder.add("Less", [x, limit], f"{stem}_is_small")
    value = builder.add("Where", [is_small, x, large], f"{stem}_value")
    scale = builder.constant(f"{stem}_scale", fine)
    zero = builder.constant(f"{stem}_zero", np.uint8(grid.operand_offset))
    codes = builder.add("QuantizeLinear", [value, scale, zero], f"{stem}_codes")
    return builder.add("DequantizeLinear", [codes, scale, zero], f"{stem}_dq"), codes
