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
import torch
from torch import fx

from edgevit.graph.model import Gemm
from edgevit.quantizers.simulation import Grid, IntegerLinear, IntegerMatmul
from edgevit.quantizers.twin import TwinGrid
from edgevit.targets.lowering import Lowering, args, array_of
from edgevit.targets.onnx_builder import OnnxBuilder

aten = torch.ops.aten
LAYOUT = {aten.reshape.default, aten.permute.default, aten.index_select.default}


@dataclass(kw_only=True)
class FloatWriter:
    """Writes every product in float32; linears on a 2-D view, as one Gemm each."""

    def write(self, context: Lowering, gemm: Gemm, operands: list[fx.Node], output: str) -> None:
        """Emit one float32 product."""
        if gemm.weight is None:
            context.builder.add("MatMul", [context.operand(x) for x in operands], output)
            return
        weight = array_of(context.graph.constant(gemm.weight))
        inputs = [context.flat(operands[0])]
        inputs.append(context.builder.constant(f"{gemm.weight}_t", weight.T))  # [in, out]
        if gemm.bias is not None:
            bias = array_of(context.graph.constant(gemm.bias))
            inputs.append(context.builder.constant(gemm.bias, bias))
        context.builder.add("Gemm", inputs, context.flat_output(output))


@dataclass(frozen=True, kw_only=True)
class Taps:
    """ONNX tensors around one quantized product.

    Args:
        inputs: Float operands before rounding (one for a linear, two for a matmul).
        layouts: For each the layout nodes between it and the product.
        codes: The same operands as 8-bit integers, behind those nodes.
        output: What the integer kernel writes.
    """

    inputs: tuple[str, ...]
    layouts: tuple[tuple[fx.Node, ...], ...]
    codes: tuple[str, ...]
    output: str


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """An operand rounded to its grid: ONNX names of its float source, codes and value."""

    source: str
    layout: tuple[fx.Node, ...]
    codes: str
    value: str


@dataclass(kw_only=True)
class QuantizedWriter:
    """Writes the products calibration has put into integers, the rest in float32.

    Args:
        layers: Gemm name -> the layer in integers.
        taps: Filled while writing: gemm name -> the ONNX tensors around its kernel.
    """

    layers: dict[str, IntegerLinear | IntegerMatmul]
    taps: dict[str, Taps] = field(default_factory=dict)
    _written: dict[tuple[str, str], Rounded] = field(default_factory=dict)

    def write(self, context: Lowering, gemm: Gemm, operands: list[fx.Node], output: str) -> None:
        """Emit one product in the form calibration simulated."""
        layer = self.layers.get(gemm.name)
        if layer is None:
            FloatWriter().write(context, gemm, operands, output)
        elif isinstance(layer, IntegerLinear):
            self._linear(context, layer, operands[0], output)
        else:
            rounded = [
                self._operand(context, operand, grid, None)
                for operand, grid in zip(operands, (layer.left, layer.right), strict=True)
            ]
            context.builder.add("MatMul", [one.value for one in rounded], output)
            self.taps[output] = _taps(rounded, output)

    def _linear(self, context: Lowering, layer: IntegerLinear, x: fx.Node, output: str) -> None:
        builder = context.builder
        rounded = self._operand(context, x, layer.grid, layer.weight_codes.shape[1])
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
        product = builder.add("Gemm", [rounded.value, weight, bias], context.flat_output(output))
        self.taps[output] = _taps([rounded], product)

    def _operand(
        self, context: Lowering, operand: fx.Node, grid: Grid, width: int | None
    ) -> Rounded:
        """Round an operand where its layout begins, and move its 8-bit codes; written once.

        Args:
            operand: The product's operand.
            grid: Its grid.
            width: For a linear the last dimension of the 2-D view it reads, else None.
        """
        key = (operand.name, repr(grid.to_dict()))
        if key not in self._written:
            stem = f"{operand.name}_q{sum(k[0] == operand.name for k in self._written)}"
            node, layout = layout_source(operand)
            reshaped = layout[0].target is aten.reshape.default if layout else width is not None
            # a Q right behind a Gemm would change its kernel: a Reshape has to stand between
            is_flat = reshaped and node.name not in context.gemms
            source = context.flat(node) if is_flat else context.operand(node)
            codes, scale, zero = write_codes(context.builder, source, grid, stem)
            codes = move_codes(context, codes, layout, width, stem)
            value = context.builder.add("DequantizeLinear", [codes, scale, zero], f"{stem}_dq")
            self._written[key] = Rounded(
                source=source, layout=tuple(layout), codes=codes, value=value
            )
        return self._written[key]


def _taps(rounded: list[Rounded], output: str) -> Taps:
    return Taps(
        inputs=tuple(one.source for one in rounded),
        layouts=tuple(one.layout for one in rounded),
        codes=tuple(one.codes for one in rounded),
        output=output,
    )


def layout_source(operand: fx.Node) -> tuple[fx.Node, list[fx.Node]]:
    """Return the tensor whose elements the operand only rearranges, and the steps in order.

    The output of an attention product is moved in float: a Q right behind it would make ONNX
    Runtime look for a product that rounds its own output, and lose the integer kernel.
    """
    steps: list[fx.Node] = []
    source = operand
    while source.target in LAYOUT and args(source)[0].op != "placeholder":
        steps.insert(0, source)
        source = args(source)[0]
    return (operand, []) if source.target is aten.matmul.default else (source, steps)


def move_codes(
    context: Lowering, codes: str, layout: list[fx.Node], width: int | None, stem: str
) -> str:
    """Repeat the layout steps on 8-bit codes; end in the 2-D view [-1, width] of a linear."""
    builder = context.builder
    for step, node in enumerate(layout):
        name = f"{stem}_moved{step}"
        if node.target is aten.reshape.default:
            shape = context.integers("shape", list(context.shapes[node.name]))
            codes = builder.add("Reshape", [codes, shape], name)
        elif node.target is aten.permute.default:
            order = [axis % context.rank(node) for axis in args(node)[1]]
            codes = builder.add("Transpose", [codes], name, perm=order)
        else:
            index = context.operand(args(node)[2])
            codes = builder.add("Gather", [codes, index], name, axis=args(node)[1])
    if width is None or not layout or len(context.shapes[layout[-1].name]) == 2:
        return codes
    shape = context.integers("shape", [-1, width])
    return builder.add("Reshape", [codes, shape], f"{stem}_flat")


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


def write_codes(builder: OnnxBuilder, x: str, grid: Grid, stem: str) -> tuple[str, str, str]:
    """Emit what rounds x to 8-bit integers; return the names of codes, scale and zero point."""
    if isinstance(grid, TwinGrid):
        return write_twin(builder, x, grid, stem)
    return write_uniform(builder, x, grid, stem)


def write_uniform(builder: OnnxBuilder, x: str, grid: Grid, stem: str) -> tuple[str, str, str]:
    """Q -> Clip to the k-bit codes (below 8 bits); return the names of codes, scale, zero point."""
    if isinstance(grid, TwinGrid):
        raise TypeError("a twin grid is written by write_twin")
    carrier = np.dtype(np.int8 if grid.spec.signed else np.uint8)
    scale = builder.constant(f"{stem}_scale", np.float32(grid.scale.item()))
    zero = builder.constant(f"{stem}_zero", carrier.type(int(grid.zero_point)))
    codes = builder.add("QuantizeLinear", [x, scale, zero], f"{stem}_codes")
    if grid.spec.bits < 8:
        low = builder.constant(f"low_{carrier}_{grid.spec.bits}", carrier.type(grid.spec.qmin))
        high = builder.constant(f"high_{carrier}_{grid.spec.bits}", carrier.type(grid.spec.qmax))
        codes = builder.add("Clip", [codes, low, high], f"{stem}_clipped")
    return codes, scale, zero


def write_twin(builder: OnnxBuilder, x: str, grid: TwinGrid, stem: str) -> tuple[str, str, str]:
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
    return codes, scale, zero
