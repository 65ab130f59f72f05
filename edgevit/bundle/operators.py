"""The operators that a bundle's graph may have: the closed list of what EdgeViT's lowering writes.

`edgevit.targets.onnx.builder` writes nothing else, `edgevit.bundle.graph` reads nothing else. Each
has the attributes it may have and the rule for its shape and cost. Source: ONNX operator set 20
and ONNX Runtime's own operators.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable

from edgevit.bundle import shape_rules as rules
from edgevit.bundle.shape_rules import Inferred, NodeReading

OPSET = 20  # first with Gelu; LayerNormalization since 17
IR_VERSION = 9
MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
DOMAINS = {"": OPSET, MICROSOFT: 1}
ATTRIBUTE_TYPES = {"f": 1, "i": 2, "s": 3, "ints": 7}
"""Field of an AttributeProto that holds the value -> the number of its type."""
STRINGS = {
    "Gelu.approximate": ("none", "tanh"),
    "Resize.mode": ("nearest", "linear", "cubic"),
    "Resize.coordinate_transformation_mode": ("half_pixel", "align_corners", "asymmetric"),
    "Resize.nearest_mode": ("floor",),
}
"""Values that attributes of text may have."""


@dataclass(frozen=True)
class DataType:
    """A type of elements: its name, and the bytes that one takes."""

    name: str
    size: int


HALF = "float16"
DATA_TYPES = {
    1: DataType("float32", 4),
    2: DataType("uint8", 1),
    3: DataType("int8", 1),
    6: DataType("int32", 4),
    7: DataType("int64", 8),
    9: DataType("bool", 1),
    10: DataType(HALF, 2),
    11: DataType("float64", 8),
    17: DataType("float8", 1),
}
"""By their number in TensorProto.DataType; "float8" is float8_e4m3fn."""
ELEMENT_BYTES = {kind.name: kind.size for kind in DATA_TYPES.values()}
_CASTS = {number: kind.name for number, kind in DATA_TYPES.items()}


@dataclass(frozen=True)
class Operator:
    """One operator.

    Args:
        rule: Says shape, type and cost of its output.
        inputs: Least and most number of inputs.
        attributes: Name -> field of the AttributeProto that holds it.
        domain: Its operator set.
    """

    rule: Callable[[NodeReading], Inferred]
    inputs: tuple[int, int]
    attributes: dict[str, str] = field(default_factory=dict)
    domain: str = ""


def _cast(reading: NodeReading) -> Inferred:
    return rules.same(reading, dtype=_CASTS.get(reading.attribute("to"), ""))


_UNARY = Operator(rules.same, (1, 1))
_BINARY = Operator(rules.elementwise, (2, 2))
_REDUCTION = Operator(rules.reduce, (2, 2), {"keepdims": "i"})
_WINDOW = {"strides": "ints", "pads": "ints", "dilations": "ints"}
OPERATORS: dict[str, Operator] = {
    "Identity": _UNARY,
    "Relu": _UNARY,
    "Sigmoid": _UNARY,
    "Tanh": _UNARY,
    "HardSwish": _UNARY,
    "Sqrt": _UNARY,
    "Exp": _UNARY,
    "Neg": _UNARY,
    "Abs": _UNARY,
    "Reciprocal": _UNARY,
    "Softplus": _UNARY,
    "HardSigmoid": Operator(rules.same, (1, 1), {"alpha": "f", "beta": "f"}),
    "LeakyRelu": Operator(rules.same, (1, 1), {"alpha": "f"}),
    "Elu": Operator(rules.same, (1, 1), {"alpha": "f"}),
    "Add": _BINARY,
    "Sub": _BINARY,
    "Mul": _BINARY,
    "Div": _BINARY,
    "Max": _BINARY,
    "Min": _BINARY,
    "Pow": _BINARY,
    "Less": Operator(rules.less, (2, 2)),
    "Where": Operator(rules.where, (3, 3)),
    "Clip": Operator(rules.same, (3, 3)),
    "Cast": Operator(_cast, (1, 1), {"to": "i"}),
    "Gelu": Operator(rules.same, (1, 1), {"approximate": "s"}),
    "Softmax": Operator(rules.softmax, (1, 1), {"axis": "i"}),
    "LayerNormalization": Operator(rules.layer_norm, (2, 3), {"axis": "i", "epsilon": "f"}),
    "QuantizeLinear": Operator(rules.quantize, (3, 3)),
    "DequantizeLinear": Operator(rules.dequantize, (3, 3), {"axis": "i"}),
    "MatMul": Operator(rules.matmul, (2, 2)),
    "Gemm": Operator(rules.gemm, (2, 3)),
    "MatMulIntegerToFloat": Operator(rules.integer_matmul, (6, 7), domain=MICROSOFT),
    "Conv": Operator(rules.conv, (2, 3), {**_WINDOW, "group": "i"}),
    "ConvTranspose": Operator(
        rules.conv_transpose, (2, 3), {**_WINDOW, "group": "i", "output_padding": "ints"}
    ),
    "MaxPool": Operator(rules.pool, (1, 1), {**_WINDOW, "kernel_shape": "ints", "ceil_mode": "i"}),
    "AveragePool": Operator(
        rules.pool,
        (1, 1),
        {**_WINDOW, "kernel_shape": "ints", "ceil_mode": "i", "count_include_pad": "i"},
    ),
    "Resize": Operator(
        rules.resize,
        (3, 3),
        {
            "mode": "s",
            "coordinate_transformation_mode": "s",
            "nearest_mode": "s",
            "cubic_coeff_a": "f",
        },
    ),
    "Expand": Operator(rules.expand, (2, 2)),
    "Reshape": Operator(rules.infer_reshape, (2, 2)),
    "Transpose": Operator(rules.transpose, (1, 1), {"perm": "ints"}),
    "Slice": Operator(rules.slice_, (5, 5)),
    "Gather": Operator(rules.gather, (2, 2), {"axis": "i"}),
    "GatherElements": Operator(rules.gather_elements, (2, 2), {"axis": "i"}),
    "Concat": Operator(rules.concat, (1, 256), {"axis": "i"}),
    "Pad": Operator(rules.pad, (3, 3)),
    "ReduceMean": _REDUCTION,
    "ReduceSum": _REDUCTION,
    "ReduceMax": _REDUCTION,
    "ReduceMin": _REDUCTION,
    "ReduceL1": _REDUCTION,
    "ReduceL2": _REDUCTION,
}
