"""The parts of a graph the rules speak of: Q and DQ nodes, products, and their operands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from edgevit.targets.tensorrt.conformance.view import (
    FP4,
    FP8,
    INT4,
    INT8,
    UINT8,
    Array,
    GraphView,
    attribute,
)

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
NORMS = ("LayerNormalization", "RMSNormalization")
GELUS = ("Gelu", "Erf", "FastGelu", "QuickGelu", "BiasGelu")
SYMMETRIC_TYPES = (INT8, FP8, INT4, FP4)
"""Types of codes that TensorRT's Q and DQ layers take."""
LAYOUT_OPS = frozenset(
    {"Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Expand"}
    | {"Slice", "Split", "Gather", "Dropout"}
)
SCALING_OPS = frozenset({"Mul", "Div"})
OPERAND_OPS = LAYOUT_OPS | SCALING_OPS
STANDARD = ("", "ai.onnx")
"""Names of ONNX's own operator set."""
POINTWISE_OPS = frozenset({"Cast", "Reshape", "Transpose", "Mul", "Div", "Add", "Identity"})


@dataclass(frozen=True, kw_only=True)
class Quantizer:
    """One QuantizeLinear or DequantizeLinear.

    Args:
        node: The node.
        quantizes: True for Q, False for DQ.
        source: Tensor that enters.
        result: Tensor that leaves.
        scale: Name of the scale.
        zero_point: Name of the zero point; "" without one.
        axis: Its attribute `axis`; None if it is not written.
        block_size: Its attribute `block_size`; 0 if it is not written.
        code_type: ONNX element type of the codes, 0 if unknown.
    """

    node: onnx.NodeProto
    quantizes: bool
    source: str
    result: str
    scale: str
    zero_point: str
    axis: int | None
    block_size: int
    code_type: int


@dataclass(frozen=True, kw_only=True)
class Operand:
    """The origin of one input of a product.

    Args:
        passed: Nodes between the product and where the walk ended, nearest first.
        origin: Tensor where the walk ended.
        dequantizer: The DQ found there, if any.
    """

    passed: tuple[onnx.NodeProto, ...]
    origin: str
    dequantizer: Quantizer | None

    @property
    def code_type(self) -> int:
        """Element type of its codes, 0 for a float operand."""
        return self.dequantizer.code_type if self.dequantizer else 0


@dataclass(frozen=True, kw_only=True)
class OnnxProduct:
    """A convolution or matrix product.

    Args:
        node: The node.
        operands: Left (image, activation) and right (weight, or the second activation).
        has_weight: Whether one operand depends on constants only.
    """

    node: onnx.NodeProto
    operands: tuple[Operand, Operand]
    has_weight: bool

    @property
    def quantized(self) -> bool:
        """Return whether both operands are dequantized codes."""
        return all(operand.dequantizer for operand in self.operands)


def quantizers(view: GraphView) -> Iterator[Quantizer]:
    """Yield all Q and DQ nodes of the default operator set."""
    for node in view.nodes:
        found = quantizer_of(view, node)
        if found is not None:
            yield found


def quantizer_of(view: GraphView, node: onnx.NodeProto | None) -> Quantizer | None:
    """Return what a Q or DQ node says, None for any other node."""
    if node is None or node.op_type not in (QUANTIZE, DEQUANTIZE) or node.domain not in STANDARD:
        return None
    zero_point = node.input[2] if len(node.input) > 2 else ""
    quantizes = node.op_type == QUANTIZE
    kind = view.elem_type(zero_point) if zero_point else 0
    if quantizes:
        kind = kind or attribute(node, "output_dtype", 0) or UINT8  # ONNX's default
    else:
        kind = view.elem_type(node.input[0]) or kind
    return Quantizer(
        node=node,
        quantizes=quantizes,
        source=node.input[0],
        result=node.output[0],
        scale=node.input[1],
        zero_point=zero_point,
        axis=attribute(node, "axis"),
        block_size=attribute(node, "block_size", 0),
        code_type=kind,
    )


def scale_size(view: GraphView, quantizer: Quantizer) -> int | None:
    """Return the number of scales, None if it is unknown."""
    shape = view.shape(quantizer.scale)
    if shape is None:
        return None
    size = 1
    for dim in shape:
        if not isinstance(dim, int):
            return None
        size *= dim
    return size


def per_channel(view: GraphView, quantizer: Quantizer) -> bool:
    """Return whether there is one scale per channel (not one in all, and not per block)."""
    return not quantizer.block_size and (scale_size(view, quantizer) or 1) > 1


def grid_values(view: GraphView, quantizer: Quantizer) -> tuple[Array | None, Array | None]:
    """Return the values of scale and zero point where they are constants."""
    return view.value(quantizer.scale), view.value(quantizer.zero_point)


def operand_of(view: GraphView, name: str) -> Operand:
    """Follow an input of a product back through layout and scaling to what it comes from."""
    passed, origin = view.back(name, OPERAND_OPS)
    rolled = view.producer(origin, ("Concat",))
    sources = {view.back(part, LAYOUT_OPS)[1] for part in rolled.input} if rolled else set()
    if rolled and len(sources) == 1:  # parts of one tensor in another order, as Swin's shift
        passed, origin = [*passed, rolled], sources.pop()
    found = quantizer_of(view, view.producer(origin))
    dequantizer = None if found is None or found.quantizes else found
    return Operand(passed=tuple(passed), origin=origin, dequantizer=dequantizer)


def products(view: GraphView) -> Iterator[OnnxProduct]:
    """Yield all convolutions and matrix products."""
    for node in view.nodes:
        if node.op_type in PRODUCTS and node.domain in STANDARD and len(node.input) > 1:
            yield OnnxProduct(
                node=node,
                operands=(operand_of(view, node.input[0]), operand_of(view, node.input[1])),
                has_weight=view.rooted(node.input[1]) or view.rooted(node.input[0]),
            )


def made_by_product(view: GraphView, name: str) -> onnx.NodeProto | None:
    """Return the product that makes a tensor, directly or through the addition of a bias."""
    _, origin = view.back(name, {"Add", "Cast", "Reshape", "Transpose"})
    return view.producer(origin, PRODUCTS)


def weight_axis(view: GraphView, quantizer: Quantizer) -> tuple[int, str] | None:
    """Return the axis of output channels of a quantized weight, and the product it is for.

    Transposes on the way are followed; None if the tensor reaches no product or is reshaped.
    """
    pending: list[tuple[str, tuple[onnx.NodeProto, ...]]] = [(quantizer.result, ())]
    while pending:
        name, path = pending.pop()
        for node in view.consumers.get(name, ()):
            if node.op_type in PRODUCTS and name in node.input[:2]:
                axis = _follow_back(view, quantizer, path, _channel_axis(view, node, name))
                return None if axis is None else (axis, view.label(node))
            if node.op_type in (QUANTIZE, DEQUANTIZE, "Cast", "Transpose", "Identity"):
                pending.append((node.output[0], (*path, node)))
    return None


def _channel_axis(view: GraphView, node: onnx.NodeProto, name: str) -> int | None:
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    shape = view.shape(name)
    rank = 2 if node.op_type == "Gemm" else len(shape or ())
    is_right = node.input[1] == name
    last = is_right != bool(attribute(node, "transB" if is_right else "transA", 0))
    return None if rank < 2 else rank - (1 if last else 2)


def _follow_back(
    view: GraphView, quantizer: Quantizer, path: tuple[onnx.NodeProto, ...], axis: int | None
) -> int | None:
    rank = len(view.shape(quantizer.source) or ())
    for node in reversed(path):
        if node.op_type == "Transpose" and axis is not None:
            order = attribute(node, "perm", list(range(rank))[::-1])
            axis = order[axis]
    return axis
