"""Rules about where Q and DQ stand: pairs, products, what is between (11-15, 17-19, 24)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import onnx

from edgevit.targets.tensorrt.conformance.operands import (
    GELUS,
    NORMS,
    POINTWISE_OPS,
    PRODUCTS,
    Quantizer,
    made_by_product,
    products,
    quantizer_of,
    quantizers,
)
from edgevit.targets.tensorrt.conformance.rule import CheckedGraph, Fault, Level, rule
from edgevit.targets.tensorrt.conformance.view import (
    BFLOAT16,
    FLOAT,
    FLOAT16,
    FP4,
    INT4,
    TYPE_NAMES,
    UINT4,
    GraphView,
    attribute,
)

_FLOATS = (FLOAT, FLOAT16, BFLOAT16)
_WEIGHT_ONLY = (INT4, UINT4, FP4)
_SAFE_IN_FP16 = 512.0


@rule(
    11,
    Level.ERROR,
    "there is one float type around each Q and DQ",
    source="TensorRT IQuantizeLayer, strongly typed: input type equals scale type",
    remedy="Give scales the type of the tensors around them: FP16 scales in an FP16 graph.",
)
def one_float_type(subject: CheckedGraph) -> Iterator[Fault]:
    """Compare the type of scales with what enters a Q and with what a DQ's reader also reads."""
    view = subject.view
    for found in quantizers(view):
        wanted = view.elem_type(found.scale)
        if found.quantizes and _differ(view.elem_type(found.source), wanted):
            kind = TYPE_NAMES[view.elem_type(found.source)]
            yield Fault(view.label(found.node), f"{kind} enters, its scale is {TYPE_NAMES[wanted]}")
        made = attribute(found.node, "output_dtype", 0) or wanted
        if not found.quantizes:
            yield from _mixed_readers(view, found, made)


def _mixed_readers(view: GraphView, found: Quantizer, made: int) -> Iterator[Fault]:
    for node in view.consumers.get(found.result, ()):
        if node.op_type in (*PRODUCTS, "Add", "Sub", "Mul", "Div"):
            others = [view.elem_type(name) for name in node.input if name]
            odd = [kind for kind in others if _differ(kind, made)]
            if odd:
                text = f"reads {TYPE_NAMES[made]} from a DQ and {TYPE_NAMES[odd[0]]}"
                yield Fault(view.label(node), text)


def _differ(kind: int, other: int) -> bool:
    return kind in _FLOATS and other in _FLOATS and kind != other


@rule(
    12,
    Level.ERROR,
    "Q and DQ stand in pairs with equal grids",
    source="TensorRT, explicit quantization: Q/DQ pairs",
    remedy="Let every Q of an activation be read by DQ nodes with its scale, and nothing else.",
)
def grids_come_in_pairs(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for codes that leave a Q for anything but its DQ, and for a DQ of other codes."""
    view = subject.view
    for found in quantizers(view):
        name = view.label(found.node)
        if not found.quantizes:
            maker = view.producer(found.source)
            if not view.rooted(found.source) and quantizer_of(view, maker) is None:
                yield Fault(name, "its input is neither a Q nor a constant")
            continue
        if found.result in view.outputs:
            yield Fault(name, "its codes leave the graph")
        for node in view.consumers.get(found.result, ()):
            reader = quantizer_of(view, node)
            if reader is None or reader.quantizes:
                yield Fault(name, f"its codes are read by {node.op_type} {view.label(node)}")
            elif not _same_grid(view, found, reader):
                yield Fault(name, f"its grid is not that of {view.label(node)}")


def _same_grid(view: GraphView, one: Quantizer, other: Quantizer) -> bool:
    """Return whether two grids are equal as far as they are known."""
    for left, right in ((one.scale, other.scale), (one.zero_point, other.zero_point)):
        if left == right:
            continue
        first, second = view.value(left), view.value(right)
        if first is None or second is None:
            known = first if first is not None else second
            if (left and right) or known is None or np.any(known != 0):
                return False  # a missing zero point is 0
        elif first.shape != second.shape or not np.array_equal(first, second):
            return False
    return True


@rule(
    13,
    Level.ERROR,
    "a product is quantized on both sides or on none",
    source="TensorRT, explicit quantization: quantize all inputs of weighted operations",
    remedy="Quantize the other input too, or remove the grid.",
)
def products_are_quantized_whole(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for products with one dequantized operand; 4-bit weights alone are fine."""
    for product in products(subject.view):
        left, right = product.operands
        if bool(left.dequantizer) == bool(right.dequantizer):
            continue
        one, other = (left, right) if left.dequantizer else (right, left)
        if product.has_weight and one.code_type in _WEIGHT_ONLY:
            continue
        if not product.has_weight:
            continue  # attention: rule 20
        text = f"{one.origin} is quantized, {other.origin} is not"
        yield Fault(subject.view.label(product.node), text)


@rule(
    14,
    Level.WARNING,
    "nothing stands between a weight's DQ and its product",
    source="ModelOpt fp8_exporter compress_weights; Model-Optimizer pull request 1289",
    remedy="Store the weight as the product reads it (transposed, in the right type).",
)
def weights_are_direct(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for layout changes behind the DQ of a weight."""
    view = subject.view
    for product in products(view):
        for operand in product.operands:
            if operand.dequantizer and operand.passed and view.rooted(operand.origin):
                ops = ", ".join(node.op_type for node in reversed(operand.passed))
                yield Fault(view.label(product.node), f"{ops} between its weight's DQ and it")


@rule(
    15,
    Level.WARNING,
    "nothing that changes values or order stands between an activation's DQ and its product",
    source="ModelOpt fp8_exporter: Mul, Cast and Transpose are moved in front of the Q",
    remedy="Put Cast, Mul, Div and Transpose in front of the Q.",
)
def activations_are_direct(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for Cast, Mul, Div, Transpose behind the DQ of an activation."""
    view = subject.view
    for product in products(view):
        for operand in product.operands:
            blocking = [n for n in operand.passed if n.op_type in {"Cast", "Mul", "Div"}]
            blocking += [n for n in operand.passed if n.op_type == "Transpose"]
            if operand.dequantizer and blocking and not view.rooted(operand.origin):
                ops = ", ".join(sorted({node.op_type for node in blocking}))
                yield Fault(view.label(product.node), f"{ops} between the DQ and it")


@rule(
    17,
    Level.WARNING,
    "outputs of products are not quantized on their way to softmax, LayerNorm or GELU",
    source="TensorRT, explicit quantization: don't quantize outputs; ModelOpt partitioning",
    remedy="Remove the Q/DQ behind the product; quantize what enters the next product.",
)
def outputs_stay_float(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for Q on the output of a product whose reader is one of the three."""
    for reader, found in _quantized_inputs(subject.view):
        maker = made_by_product(subject.view, found.source)
        if maker is not None:
            name = subject.view.label(found.node)
            text = f"quantizes the output of {subject.view.label(maker)} before a {reader.op_type}"
            yield Fault(name, text)


@rule(
    18,
    Level.WARNING,
    "what enters softmax, LayerNorm and GELU is float",
    source="ModelOpt partitioning: LayerNorm, softmax and GELU chains are left out",
    remedy="Remove the Q/DQ in front of it.",
)
def nonlinear_inputs_are_float(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for a DQ in front of one of the three, products' outputs (rule 17) excepted."""
    for reader, found in _quantized_inputs(subject.view):
        if made_by_product(subject.view, found.source) is None:
            text = f"its input is quantized by {subject.view.label(found.node)}"
            yield Fault(f"{subject.view.label(reader)}", text)


def _quantized_inputs(view: GraphView) -> Iterator[tuple[onnx.NodeProto, Quantizer]]:
    """Yield (softmax, LayerNorm or GELU, Q of its input) wherever that input is dequantized."""
    for node in view.nodes:
        if node.op_type not in ("Softmax", *NORMS, *GELUS) and not _opens_norm(view, node):
            continue
        _, origin = view.back(node.input[0], POINTWISE_OPS)
        reader = quantizer_of(view, view.producer(origin))
        if reader is None or reader.quantizes or view.rooted(origin):
            continue
        maker = quantizer_of(view, view.producer(reader.source))
        if maker is not None:
            yield node, maker


@rule(
    19,
    Level.WARNING,
    "one tensor has one grid",
    source="TensorRT, explicit quantization: rewrites need equal scales; Model-Optimizer pull "
    "request 1569: one pair behind LayerNorm",
    remedy="Quantize the tensor once and let all readers share that Q/DQ pair.",
)
def tensors_have_one_grid(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for several Q nodes on one tensor."""
    readers: dict[str, list[Quantizer]] = defaultdict(list)
    for found in quantizers(subject.view):
        if found.quantizes and not subject.view.rooted(found.source):
            readers[found.source].append(found)
    for name, several in readers.items():
        if len(several) < 2:
            continue
        first = several[0]
        if all(_same_grid(subject.view, first, other) for other in several[1:]):
            text = f"{len(several)} Q nodes with one and the same grid"
            yield Fault(name, text, Level.ADVICE)
        else:
            yield Fault(name, f"{len(several)} Q nodes with different grids")


@rule(
    24,
    Level.WARNING,
    "LayerNorm is one operator, and in FP32 where its input is large",
    source="NVIDIA/TensorRT issues 2709, 3692: FP16 overflow; ModelOpt AutoCast: data_max 512",
    remedy="Export LayerNormalization (opset 17); cast its input to FP32 and its output back where "
    "values beyond 512 were seen.",
)
def layernorm_is_whole(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for LayerNorm in pieces, and for FP16 ones with large inputs as calibration saw them."""
    view = subject.view
    for node in view.nodes:
        if _opens_norm(view, node):
            yield Fault(view.label(node), "a LayerNorm in pieces starts here")
        if node.op_type not in NORMS or view.elem_type(node.input[0]) != FLOAT16:
            continue
        seen = subject.facts.largest.get(node.input[0], 0.0)
        if seen > _SAFE_IN_FP16:
            text = f"its FP16 input reached {seen:.0f} in calibration"
            yield Fault(view.label(node), text, Level.ADVICE)


def _opens_norm(view: GraphView, node: onnx.NodeProto) -> bool:
    """Return whether a node is the mean in x - mean(x), squared, mean again."""
    if node.op_type != "ReduceMean":
        return False
    for less in _readers(view, node, {"Sub"}):
        squares = _readers(view, less, {"Pow", "Mul"})
        if node.input[0] in less.input and any(
            _readers(view, square, {"ReduceMean"}) for square in squares
        ):
            return True
    return False


def _readers(view: GraphView, node: onnx.NodeProto, ops: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes of `ops` that read a node's output, also through Cast, Q and DQ."""
    through = {"Cast", "QuantizeLinear", "DequantizeLinear"}
    return [reader for reader, _ in view.ahead(node.output[0], through) if reader.op_type in ops]
