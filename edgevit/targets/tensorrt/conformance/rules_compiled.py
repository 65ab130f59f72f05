"""Rules NVIDIA's compiler taught: graphs that it was seen to refuse or to run in float (42-43).

TensorRT for RTX 1.7.1 compiles without a GPU and lists the precision of every kernel. Its parser
and fuser are TensorRT's; what it does with a graph is no proof of what another release does.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from edgevit.targets.tensorrt.conformance.attention import OnnxAttention, attentions
from edgevit.targets.tensorrt.conformance.operands import (
    PRODUCTS,
    OnnxProduct,
    per_channel,
    products,
)
from edgevit.targets.tensorrt.conformance.rule import CheckedGraph, Fault, Level, rule
from edgevit.targets.tensorrt.conformance.view import TYPE_NAMES, GraphView, attribute

_CUTS = ("Split", "Slice", "Gather")
_MOVES = frozenset({"Cast", "Reshape", "Transpose", "Identity", "Squeeze", "Unsqueeze"})
_COMPILER = "compiled by TensorRT for RTX 1.7.1 for SM86, SM89 and SM120"


@rule(
    42,
    Level.WARNING,
    "query, key and value are not cut out of one quantized product behind its bias",
    source=f"{_COMPILER}: the cut moves in front of the product, which then multiplies in FP16",
    remedy="Cut along whole heads, [B, N, 3 H, D] on axis 2, or in front of the bias, which is "
    "then added to each third; or write three products that read one Q/DQ pair.",
)
def thirds_are_cut_before_the_bias(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for attention whose operands are the thirds of one product with per-channel scales."""
    view = subject.view
    quantized = {product.node.output[0]: product for product in products(view) if product.quantized}
    for found in attentions(view):
        product = quantized.get(_product_behind(view, _cut_tensor(view, found)))
        if product is not None and _has_channel_scales(view, product):
            text = "its output is cut into query, key and value behind the bias"
            yield Fault(view.label(product.node), text)


def _cut_tensor(view: GraphView, found: OnnxAttention) -> str:
    """Return the tensor whose three thirds an attention multiplies, "" if there is none."""
    scores, context = found.scores.input, found.context.input
    value = next((name for name in context if not _stems_from(view, name, found)), "")
    thirds = [_third(view, name) for name in (scores[0], scores[1], value)]
    whole = {tensor for _, tensor in thirds}
    return whole.pop() if len(whole) == 1 and len({part for part, _ in thirds}) == 3 else ""


def _stems_from(view: GraphView, name: str, found: OnnxAttention) -> bool:
    """Return whether an operand of the second product is the softmax's output."""
    between = _MOVES | {"QuantizeLinear", "DequantizeLinear", "Dropout"}
    return bool(view.back(name, between)[1] == found.softmax.output[0])


def _third(view: GraphView, name: str) -> tuple[str, str]:
    """Return (the part, the tensor it is a third of) that an operand is made of, ("", "") if none.

    The walk back ends at products and at sums with a constant: a bias behind the cut is harmless,
    and so is a cut along heads, which the compiler can't move.
    """
    pending, seen = [name], {name}
    while pending:
        current = pending.pop()
        node = view.producer(current)
        if node is None or node.op_type in PRODUCTS or _adds_constant(view, current):
            continue
        thirds = 3 * _size(view, current) == _size(view, node.input[0]) > 0
        if node.op_type in _CUTS and thirds and not _is_along_heads(view, node):
            return current, view.back(node.input[0], _MOVES)[1]
        fresh = [x for x in node.input if x and x not in seen and not view.rooted(x)]
        seen.update(fresh)
        pending += fresh
    return "", ""


def _is_along_heads(view: GraphView, node: onnx.NodeProto) -> bool:
    """Return whether a tensor [B, N, 3 H, D] is cut along its second last axis."""
    rank = len(view.shape(node.input[0]) or ())
    if node.op_type == "Slice" and len(node.input) > 3:
        told = view.value(node.input[3])
        axes = [] if told is None else [int(axis) for axis in told.ravel()]
    elif node.op_type == "Split":
        axes = [int(attribute(node, "axis", 0))]
    else:
        return False
    return rank > 2 and [axis % rank for axis in axes] == [rank - 2]


def _adds_constant(view: GraphView, name: str) -> bool:
    node = view.producer(name, ("Add", "Sub"))
    return node is not None and any(view.rooted(x) for x in node.input)


def _size(view: GraphView, name: str) -> int:
    """Return the number of elements of one image of a tensor; 0 if its shape is unknown."""
    shape, size = view.shape(name) or (), 1
    for dim in shape:
        size *= dim if isinstance(dim, int) else 1
    return size if shape else 0


def _product_behind(view: GraphView, name: str) -> str:
    """Return the output of the product that a tensor is, perhaps with its bias added; "" if none.

    Any other operator in between keeps the cut where it is.
    """
    if _adds_constant(view, name):
        name = next(x for x in view.producers[name].input if not view.rooted(x))
        name = view.back(name, _MOVES)[1]
    return name if view.producer(name, PRODUCTS) is not None else ""


def _has_channel_scales(view: GraphView, product: OnnxProduct) -> bool:
    grids = [operand.dequantizer for operand in product.operands]
    return any(grid is not None and per_channel(view, grid) for grid in grids)


@rule(
    43,
    Level.ERROR,
    "the scales of a product's two operands have one float type",
    source=f"{_COMPILER}: it builds no engine (type mismatch between matmul operand scales)",
    remedy="Give both scales the type the product computes in, and leave out the Cast behind "
    "the DQ.",
)
def scales_have_one_type(subject: CheckedGraph) -> Iterator[Fault]:
    """Compare the float types of the scales of both operands, also where a Cast hides it."""
    view = subject.view
    for product in products(view):
        grids = [operand.dequantizer for operand in product.operands]
        kinds = [view.elem_type(grid.scale) for grid in grids if grid is not None]
        if len(kinds) == 2 and 0 not in kinds and kinds[0] != kinds[1]:
            text = f"scales in {TYPE_NAMES[kinds[0]]} and {TYPE_NAMES[kinds[1]]}"
            yield Fault(view.label(product.node), text)
