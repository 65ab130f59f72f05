"""The writer of a graph's products for ONNX Runtime: in float32, or in integers.

A quantized product is ``QuantizeLinear -> (Clip) -> MatMulIntegerToFloat`` (ONNX Runtime's own
operator): ``float32(acc) * float32(s_x * s_w) + bias``. Written this way no optimiser has to
recognise a Q/DQ pattern, so that what was calibrated can't turn into another kernel. Codes of
fewer than 8 bits are clipped after the Q, in u8, which costs next to nothing. A convolution is such
a product of its patches, see patches.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from edgevit.bundle.operators import MICROSOFT
from edgevit.graph.model import Gemm
from edgevit.graph.shapes import args_of
from edgevit.graph.window import Window
from edgevit.quantizers.quantized_graph import (
    Grid,
    IntegerLayer,
    IntegerLinear,
    is_integer_linear,
)
from edgevit.quantizers.spec import MAX_BITS
from edgevit.quantizers.uniform import UniformGrid
from edgevit.targets.cpu.codes import CodeOps, integer_type
from edgevit.targets.cpu.patches import lay_out_rows, write_patches
from edgevit.targets.onnx.builder import OnnxBuilder
from edgevit.targets.onnx.context import Lowering, array_of
from edgevit.targets.onnx.reference import FloatWriter

aten = torch.ops.aten
INTEGER_PRODUCT = "MatMulIntegerToFloat"
LAYOUT = {aten.reshape.default, aten.permute.default, aten.index_select.default}


@dataclass(frozen=True, kw_only=True)
class IntegerProbes:
    """ONNX tensors around one quantized product.

    Args:
        inputs: Float operands before rounding (one for a linear, two for a matmul).
        layouts: For each the layout nodes between it and the product.
        codes: The same operands as 8-bit integers, behind those nodes.
        output: What the integer kernel writes.
        bias: The constant float bias of a linear.
        window: Of a convolution: codes are its patches, and the output has a row for each.
        constants: The values of those of these tensors that are constants of the model.
    """

    inputs: tuple[str, ...]
    layouts: tuple[tuple[fx.Node, ...], ...]
    codes: tuple[str, ...]
    output: str
    bias: str | None = None
    window: Window | None = None
    constants: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class IntegerOperand:
    """An operand rounded to its grid: ONNX names of its float source, codes, scale, zero point.

    A constant is not rounded at run time: `values` are those of source and codes.
    """

    source: str
    layout: tuple[fx.Node, ...]
    codes: str
    scale: str
    zero: str
    values: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


@dataclass(kw_only=True)
class QuantizedWriter:
    """Writes the products calibration has put into integers, the rest in float32.

    Args:
        layers: Gemm name -> the layer in integers.
        probes: Filled while writing: gemm name -> the ONNX tensors around its kernel.
    """

    layers: dict[str, IntegerLayer]
    probes: dict[str, IntegerProbes] = field(default_factory=dict)
    _written: dict[tuple[str, str], IntegerOperand] = field(default_factory=dict)
    _unfolded: dict[tuple[str, Window], IntegerOperand] = field(default_factory=dict)

    def write(self, context: Lowering, gemm: Gemm, operands: list[fx.Node], output: str) -> None:
        """Emit one product in the form calibration simulated."""
        layer = self.layers.get(gemm.name)
        if layer is None:
            FloatWriter().write(context, gemm, operands, output)
        elif is_integer_linear(layer):
            rounded = self._operand(context, operands[0], layer.grid)
            if gemm.window is None:
                self._linear(context, layer, rounded, output)
            else:
                patches = self._patches(context, operands[0], layer.grid, rounded, gemm.window)
                self._convolution(context, layer, gemm.window, patches, output)
        else:
            pairs = zip(operands, layer.input_grids, strict=True)
            a, b = (self._operand(context, operand, grid) for operand, grid in pairs)
            inputs = [a.codes, b.codes, a.scale, b.scale, a.zero, b.zero]
            context.builder.add(INTEGER_PRODUCT, inputs, output, domain=MICROSOFT)
            self.probes[output] = _probes([a, b], output)

    def _convolution(
        self,
        context: Lowering,
        layer: IntegerLinear,
        window: Window,
        rounded: IntegerOperand,
        output: str,
    ) -> None:
        """Emit a product of patches, and its rows as an image where somebody wants it."""
        rows = f"{output}_rows"
        self._linear(context, layer, rounded, rows)
        self.probes[output] = replace(self.probes.pop(rows), window=window)
        lay_out_rows(context, context.nodes[output], rows)

    def _linear(
        self, context: Lowering, layer: IntegerLinear, rounded: IntegerOperand, output: str
    ) -> None:
        constant = context.builder.constant
        codes = array_of(layer.weight_codes.T)  # [in, out]
        bits = layer.weight_grid.spec.bits
        weight = constant(f"{output}_weight_codes", codes, bits=bits)
        steps = constant(f"{output}_weight_scale", array_of(layer.weight_grid.scale))
        bias = constant(f"{output}_bias", array_of(layer.bias))
        inputs = [rounded.codes, weight, rounded.scale, steps, rounded.zero, "", bias]
        context.builder.add(INTEGER_PRODUCT, inputs, output, domain=MICROSOFT)
        self.probes[output] = _probes([rounded], output, bias=bias)

    def _patches(
        self,
        context: Lowering,
        operand: fx.Node,
        grid: Grid,
        rounded: IntegerOperand,
        window: Window,
    ) -> IntegerOperand:
        """Lay the codes of a convolution's input out as its patches; written once."""
        key = (rounded.codes, window)
        if key not in self._unfolded:
            stem = f"{rounded.codes}_w{sum(k[0] == rounded.codes for k in self._unfolded)}"
            padding = context.builder.constant(f"{stem}_padding", _carried(grid, torch.zeros(())))
            codes = write_patches(context, rounded.codes, padding, operand, window, stem)
            self._unfolded[key] = replace(rounded, codes=codes)
        return self._unfolded[key]

    def _operand(self, context: Lowering, operand: fx.Node, grid: Grid) -> IntegerOperand:
        """Round an operand where its layout begins, and move its 8-bit codes; written once."""
        key = (operand.name, repr(grid.to_dict()))
        if key not in self._written:
            stem = f"{operand.name}_q{sum(k[0] == operand.name for k in self._written)}"
            if operand.op == "get_attr":
                value = context.graph.constant(str(operand.target))
                self._written[key] = _constant_operand(context.builder, value, grid, stem)
                return self._written[key]
            node, layout = layout_source(operand)
            source = context.operand(node)
            shape = context.shapes[node.name]
            codes, scale, zero = write_codes(context.builder, source, grid, stem, shape)
            codes = move_codes(context, codes, layout, stem)
            self._written[key] = IntegerOperand(
                source=source, layout=tuple(layout), codes=codes, scale=scale, zero=zero
            )
        return self._written[key]


def _probes(
    rounded: list[IntegerOperand], output: str, *, bias: str | None = None
) -> IntegerProbes:
    return IntegerProbes(
        inputs=tuple(one.source for one in rounded),
        layouts=tuple(one.layout for one in rounded),
        codes=tuple(one.codes for one in rounded),
        output=output,
        bias=bias,
        constants={name: value for one in rounded for name, value in one.values.items()},
    )


def _constant_operand(builder: OnnxBuilder, value: Tensor, grid: Grid, stem: str) -> IntegerOperand:
    """Store the codes of a constant operand, in the type in which an activation's are carried."""
    codes = _carried(grid, value)
    name = builder.constant(f"{stem}_codes", codes, bits=_packed_bits(grid))
    scale = builder.constant(f"{stem}_scale", np.float32(grid.unit.item()))
    zero = builder.constant(f"{stem}_zero", codes.dtype.type(grid.operand_offset))
    values = {stem: array_of(value), name: codes}
    return IntegerOperand(source=stem, layout=(), codes=name, scale=scale, zero=zero, values=values)


def _carried(grid: Grid, value: Tensor) -> npt.NDArray[Any]:
    """Return the 8-bit integers in which the engine carries a float32 tensor."""
    carried = grid.operand(grid.codes(value)) + grid.operand_offset
    return array_of(carried).astype(integer_type(signed=grid.spec.signed))


def _packed_bits(grid: Grid) -> int:
    """Return the width in which codes are stored: uneven grids carry wider ones than they have."""
    return grid.spec.bits if grid.spec.kind in UniformGrid.kinds else MAX_BITS


def layout_source(operand: fx.Node) -> tuple[fx.Node, list[fx.Node]]:
    """Return the tensor whose elements the operand only rearranges, and the steps in order."""
    steps: list[fx.Node] = []
    source = operand
    while source.target in LAYOUT and args_of(source)[0].op != "placeholder":
        steps.insert(0, source)
        source = args_of(source)[0]
    return source, steps


def move_codes(context: Lowering, codes: str, layout: list[fx.Node], stem: str) -> str:
    """Repeat the layout steps on 8-bit codes."""
    builder = context.builder
    for step, node in enumerate(layout):
        name = f"{stem}_moved{step}"
        if node.target is aten.reshape.default:
            shape = context.integers("shape", list(context.shapes[node.name]))
            codes = builder.add("Reshape", [codes, shape], name)
        elif node.target is aten.permute.default:
            order = [axis % context.rank(node) for axis in args_of(node)[1]]
            codes = builder.add("Transpose", [codes], name, perm=order)
        else:
            index = context.operand(args_of(node)[2])
            codes = builder.add("Gather", [codes, index], name, axis=args_of(node)[1])
    return codes


def write_codes(
    builder: OnnxBuilder, x: str, grid: Grid, stem: str, shape: tuple[int, ...]
) -> tuple[str, str, str]:
    """Emit what rounds x to 8-bit integers; return the names of codes, scale and zero point.

    Args:
        shape: Of x, -1 for the dimension that follows the batch.
    """
    codes = grid.emit(CodeOps(builder=builder, stem=stem, shape=shape), x)
    scale = builder.constant(f"{stem}_scale", np.float32(grid.unit.item()))
    zero = integer_type(signed=grid.spec.signed).type(grid.operand_offset)
    return codes, scale, builder.constant(f"{stem}_zero", zero)
