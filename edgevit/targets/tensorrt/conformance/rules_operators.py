"""Rules about operators and the precision they are in (2, 29, 32, 41, 44).

Rule 41 was added for operators of other makers, rule 44 for forms of ONNX's own.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

import onnx

from edgevit.targets.tensorrt.conformance.rule import CheckedGraph, Fault, Level, rule
from edgevit.targets.tensorrt.conformance.view import (
    BFLOAT16,
    FLOAT16,
    FP4,
    FP8,
    INT4,
    INT8,
    GraphView,
    attribute,
)

_OWN_INTEGER_OPERATOR = re.compile(r"^QLinear|Integer|^DynamicQuantize")
_MICROSOFT_INTEGER_OPERATOR = re.compile(r"^Q[A-Z]|Quantize|Integer|NBits|Bnb4")
_SINCE = {"Attention": "10.14", "RMSNormalization": "10.15", "RotaryEmbedding": "10.15"}
_PLUGINS = ("", "ai.onnx", "trt", "trt.plugins")


@rule(
    2,
    Level.ERROR,
    "quantization is written as Q/DQ pairs, not as integer operators",
    source="onnx-tensorrt operators.md (not supported); TensorRT developer guide, explicit "
    "quantization",
    remedy="Quantize in the QDQ format (quantize_static(quant_format=QuantFormat.QDQ)), with the "
    "operators of the default domain.",
)
def no_integer_operators(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for QLinear*, *Integer, DynamicQuantizeLinear and ONNX Runtime's own integer ops."""
    for node in subject.view.nodes:
        own = node.domain in ("", "ai.onnx") and _OWN_INTEGER_OPERATOR.search(node.op_type)
        foreign = node.domain == "com.microsoft"
        if own or (foreign and _MICROSOFT_INTEGER_OPERATOR.search(node.op_type)):
            name = f"{node.domain}.{node.op_type}".lstrip(".")
            yield Fault(subject.view.label(node), f"operator {name} has no TensorRT layer")


@rule(
    29,
    Level.ERROR,
    "the low precision asked for is in the graph",
    source="TensorRT 11 has strong typing only; roboflow/rf-detr issue 1453: FP32 engine, 4.6 "
    "times slower",
    remedy="Write the precision into the graph: FP16 tensors, Q/DQ pairs. TensorRT 11 has no flag "
    "for it.",
)
def precision_is_in_the_graph(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for any FP16, BF16, INT8 or FP8 tensor if TensorRT 11 is to be served."""
    low = {FLOAT16, BFLOAT16, INT8, FP8, INT4, FP4}
    if not subject.serves("11.0") or low & _all_types(subject.view):
        return
    message = "all tensors are FP32: TensorRT 11 builds an FP32 engine without a word"
    asked = subject.facts.asked not in ("", "fp32")
    yield Fault("graph", message, Level.ERROR if asked else Level.WARNING)


@rule(
    32,
    Level.WARNING,
    "operators exist in every TensorRT and opset to be served",
    source="TensorRT changelog: Attention since 10.14, RMSNormalization and RotaryEmbedding since "
    "10.15; ONNX: Gelu since opset 20",
    remedy="Write attention as MatMul, Softmax, MatMul and the others in primitive operators, or "
    "serve newer releases only (--tensorrt).",
)
def operators_are_old_enough(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for operators that came after the oldest TensorRT to be served."""
    for node in subject.view.nodes:
        since = _SINCE.get(node.op_type)
        if node.domain in ("", "ai.onnx") and since and subject.serves_older_than(since):
            yield Fault(subject.view.label(node), f"{node.op_type} came with TensorRT {since}")
        if node.op_type == "Gelu" and node.domain == "" and subject.view.opset < 20:
            yield Fault(subject.view.label(node), "Gelu came with opset 20")


@rule(
    41,
    Level.WARNING,
    "all operators are ONNX's own",
    source="onnx-tensorrt parses other domains only through plugins",
    remedy="Export without ONNX Runtime's optimisations (optimized_model_filepath, the "
    "transformer optimizer), or bring a plugin of that name.",
)
def no_foreign_operators(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for operators of other makers that are no integer operators (rule 2)."""
    found: dict[str, list[str]] = defaultdict(list)
    for node in subject.view.nodes:
        integer = node.domain == "com.microsoft" and _MICROSOFT_INTEGER_OPERATOR.search(
            node.op_type
        )
        if node.domain not in _PLUGINS and not integer:
            found[f"{node.domain}.{node.op_type}"].append(subject.view.label(node))
    for name, nodes in found.items():
        yield Fault(nodes[0], f"{len(nodes)} node(s) {name}, which TensorRT does not know")


OPERATOR_RULE = 44
_MAX_RANK = 8
_UNDILATED = {"MaxPool", "AveragePool", "ConvTranspose"}


@rule(
    OPERATOR_RULE,
    Level.ERROR,
    "TensorRT has a layer for the form of every operator",
    source="compiled by TensorRT for RTX 1.7.1 for SM89; NvInfer.h: Dims::MAX_DIMS",
    remedy="Pool and transpose convolutions without dilations; reshape in steps of 8 dimensions at "
    "most; resize by factors (scales), not to a size beside an open batch.",
)
def forms_have_a_layer(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for more dimensions than 8, dilated windows, and sizes beside an open batch."""
    view = subject.view
    for node in view.nodes:
        rank = max((len(view.shape(name) or ()) for name in (*node.input, *node.output)), default=0)
        dilations = list(attribute(node, "dilations") or ())
        if rank > _MAX_RANK:
            text = f"{node.op_type} has {rank} dimensions, and TensorRT {_MAX_RANK} at most"
            yield Fault(view.label(node), text)
        elif node.op_type in _UNDILATED and any(step != 1 for step in dilations):
            yield Fault(view.label(node), f"{node.op_type} with dilations {dilations} has no layer")
        elif node.op_type == "Resize" and _is_open_resize(view, node):
            text = "Resize to a size along some axes is not read beside an open batch"
            yield Fault(view.label(node), text)


def _is_open_resize(view: GraphView, node: onnx.NodeProto) -> bool:
    sizes = node.input[3] if len(node.input) > 3 else ""
    shape = view.shape(node.input[0]) or (None,)
    return bool(sizes) and bool(attribute(node, "axes")) and not isinstance(shape[0], int)


def _all_types(view: GraphView) -> set[int]:
    made = {view.elem_type(name) for node in view.nodes for name in node.output if name}
    return made | {tensor.data_type for tensor in view.constants.values()}
