"""The writer of products for TensorRT: float operands behind a Q/DQ pair, then a plain MatMul.

The engine's builder recognises ``QuantizeLinear -> DequantizeLinear -> MatMul`` with a weight that
is dequantized as well, and runs it in integers: ``acc * (s_x * s_w) + bias``. What it needs for
that is kept here (NVIDIA, TensorRT documentation, "Working with quantized types"): every scale a
constant, every zero point an int8 zero, the axis of per-channel scales spelled out and that of the
output channels, the weight stored as int8 in the layout it is used in, and nothing at all between
DQ and MatMul. A convolution is a Conv with its bias inside and its weight as it is in the model,
whose scales are on axis 0. One tensor that several products read is rounded once. Codes of fewer
than 8 bits are float values clipped before the Q: clipping codes would break the pattern.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, fx

from edgevit.graph.model import Gemm
from edgevit.graph.shapes import shape_of
from edgevit.graph.window import convolution_arguments, kernels_of
from edgevit.quantizers.float8 import Float8Linear, is_float8_linear
from edgevit.quantizers.quantized_graph import Grid, IntegerLinear, Layer, is_integer_linear
from edgevit.targets.onnx.builder import OnnxBuilder
from edgevit.targets.onnx.context import Lowering, array_of
from edgevit.targets.onnx.emitters.windows import conv_attributes
from edgevit.targets.onnx.reference import write_convolution
from edgevit.targets.tensorrt.pairs import PairOps

OUTPUT_AXIS = 1  # of a weight [in, out]
Arranged = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class QdqProbes:
    """ONNX tensors around one quantized product, in the order of its operands.

    Args:
        inputs: Float activations before they are rounded.
        codes: The same as the engine's 8-bit numbers.
        values: What those stand for, in float.
        output: The float product with its bias.
    """

    inputs: tuple[str, ...]
    codes: tuple[str, ...]
    values: tuple[str, ...]
    output: str


@dataclass(frozen=True, kw_only=True)
class QdqOperand:
    """An operand behind its Q/DQ pair: names of float source, codes and dequantized values."""

    source: str
    codes: str
    values: str


@dataclass(kw_only=True)
class QdqWriter:
    """Writes quantized products behind Q/DQ pairs, the others plainly.

    Args:
        layers: Gemm name -> its quantized layer.
        wide: fx nodes whose output stays in float32; everything around such a product does.
        probes: Filled while writing: gemm name -> the tensors around it.
        float32_names: Filled while writing: further tensors that stay in float32.
    """

    layers: dict[str, Layer]
    wide: frozenset[str] = frozenset()
    probes: dict[str, QdqProbes] = field(default_factory=dict)
    float32_names: set[str] = field(default_factory=set)
    _written: dict[tuple[str, str, bool], QdqOperand] = field(default_factory=dict)

    def write(self, context: Lowering, gemm: Gemm, operands: list[fx.Node], output: str) -> None:
        """Emit one product."""
        layer = self.layers.get(gemm.name)
        if layer is None:
            self._name(f"{output}_product", output)
            write_float(context, gemm, operands, output)
            return
        pairs = zip(operands, layer.input_grids, strict=True)
        rounded = [self._rounded(context, operand, grid, output) for operand, grid in pairs]
        values = [one.values for one in rounded]
        if layer.bias is None:
            context.builder.add("MatMul", values, output)
        elif gemm.window is not None:
            self._convolution(context, layer, layer.bias, values, output)
        else:
            self._linear(context.builder, layer, layer.bias, values, output)
        self._probe(rounded, output)

    def _linear(
        self, builder: OnnxBuilder, layer: Layer, bias: Tensor, values: list[str], output: str
    ) -> None:
        weight = self._name(f"{output}_weight", output)
        write_weight(builder, layer, weight, lambda rows: rows.T, OUTPUT_AXIS)
        product = self._name(f"{output}_product", output)
        builder.add("MatMul", [*values, weight], product)
        constant = builder.constant(f"{output}_bias", array_of(bias))
        builder.add("Add", [product, constant], output)

    def _convolution(
        self, context: Lowering, layer: Layer, bias: Tensor, values: list[str], output: str
    ) -> None:
        """Emit a Conv with its bias inside, the form that the engine's builder looks for."""
        node = context.nodes[output]
        shape = shape_of(convolution_arguments(node)[1])
        weight = self._name(f"{output}_weight", output)
        write_weight(context.builder, layer, weight, lambda rows: kernels_of(rows, shape), 0)
        constant = context.builder.constant(f"{output}_bias", array_of(bias))
        context.builder.add("Conv", [*values, weight, constant], output, **conv_attributes(node))

    def _rounded(self, context: Lowering, operand: fx.Node, grid: Grid, output: str) -> QdqOperand:
        """Round an operand, once per tensor and grid, to values in the type of its product.

        It is rounded from float16 even where the product is in float32: codes do not depend on it.
        """
        wide = output in self.wide
        key = (operand.name, repr(grid.to_dict()), wide)
        if key not in self._written:
            count = sum(k[0] == operand.name for k in self._written)
            stem = f"{operand.name}_q{count}"
            if wide:
                self.float32_names.add(f"{stem}_values")
            self._written[key] = write_qdq(context.builder, context.operand(operand), grid, stem)
        return self._written[key]

    def _name(self, name: str, output: str) -> str:
        """Return the name, noted as float32 if the product it belongs to is."""
        if output in self.wide:
            self.float32_names.add(name)
        return name

    def _probe(self, rounded: list[QdqOperand], output: str) -> None:
        self.probes[output] = QdqProbes(
            inputs=tuple(one.source for one in rounded),
            codes=tuple(one.codes for one in rounded),
            values=tuple(one.values for one in rounded),
            output=output,
        )


def write_float(context: Lowering, gemm: Gemm, operands: list[fx.Node], output: str) -> None:
    """Emit an unquantized product: x [..., in] times the weight transposed to [in, out]."""
    builder = context.builder
    if gemm.window is not None:
        write_convolution(context, gemm)
        return
    if gemm.weight is None:
        builder.add("MatMul", [context.operand(x) for x in operands], output)
        return
    weight = array_of(context.graph.weight(gemm).T)  # [in, out]
    inputs = [context.operand(operands[0]), builder.constant(f"{gemm.weight}_t", weight)]
    if gemm.bias is None:
        builder.add("MatMul", inputs, output)
        return
    product = builder.add("MatMul", inputs, f"{output}_product")
    bias = builder.constant(gemm.bias, array_of(context.graph.constant(gemm.bias)))
    builder.add("Add", [product, bias], output)


def write_qdq(builder: OnnxBuilder, x: str, grid: Grid, stem: str) -> QdqOperand:
    """Emit (Clip ->) Q -> DQ on the float tensor x.

    Raises:
        TypeError: The grid takes more than one rounding with a step and no zero point.
    """
    ops = PairOps(builder=builder, stem=stem)
    codes = grid.emit(ops, x)
    scale = builder.constant(f"{stem}_scale", np.float32(grid.unit.item()))
    values = builder.add("DequantizeLinear", [codes, scale, ops.zero], f"{stem}_values")
    return QdqOperand(source=x, codes=codes, values=values)


def write_weight(
    builder: OnnxBuilder, layer: Layer, name: str, arranged: Arranged, axis: int
) -> None:
    """Emit the weight of a layer, rounded.

    Args:
        arranged: From [out, in] to the form in which the operator reads it.
        axis: Of its output channels in that form.
    """
    if is_float8_linear(layer):
        write_float8_weight(builder, arranged(layer.weight), layer, name)
    elif is_integer_linear(layer):
        write_int8_weight(builder, arranged(layer.weight_codes), layer, name, axis)


def write_int8_weight(
    builder: OnnxBuilder, weight_codes: Tensor, layer: IntegerLinear, name: str, axis: int
) -> None:
    """Emit int8 codes -> DQ with a scale per output channel."""
    bits = layer.weight_grid.spec.bits
    codes = builder.constant(f"{name}_codes", array_of(weight_codes), bits=bits)
    scale = builder.constant(f"{name}_scale", array_of(layer.weight_grid.scale))  # [out]
    zero = builder.constant(f"{name}_zero", np.zeros(len(layer.weight_grid.scale), np.int8))
    builder.add("DequantizeLinear", [codes, scale, zero], name, axis=axis)


def write_float8_weight(
    builder: OnnxBuilder, values: Tensor, layer: Float8Linear, name: str
) -> None:
    """Emit the float weight -> Q -> DQ with one scale.

    The engine rounds it when it builds. Kept in float the weight is the one of the float16
    variant, which a bundle stores once for both.
    """
    weight = builder.constant(f"{name}_float", array_of(values))
    scale = builder.constant(f"{name}_scale", np.float32(layer.weight_grid.unit.item()))
    zero = builder.float8_zero()
    codes = builder.add("QuantizeLinear", [weight, scale, zero], f"{name}_codes")
    builder.add("DequantizeLinear", [codes, scale, zero], name)
