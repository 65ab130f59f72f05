"""Finds attention in a graph: two products of activations with a softmax between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from edgevit.targets.tensorrt.conformance.operands import Operand, operand_of
from edgevit.targets.tensorrt.conformance.view import GraphView, Shape

_BETWEEN = frozenset(
    {"Mul", "Div", "Add", "Sub", "Where", "Clip", "Cast", "Reshape", "Transpose", "Identity"}
    | {"QuantizeLinear", "DequantizeLinear", "Squeeze", "Unsqueeze", "Expand"}
)


@dataclass(frozen=True, kw_only=True)
class OnnxAttention:
    """One attention.

    Args:
        softmax: Its softmax.
        scores: The product of query and key.
        context: The product of attention weights and value.
        between: Nodes between `scores` and the softmax, from the softmax backwards.
        query, key, weights, value: The operands of the two products.
        head_size: Channels of a head, None if unknown.
        heads: How many, None if unknown.
        sequence: Number of queries or keys, whichever is larger; None if unknown.
    """

    softmax: onnx.NodeProto
    scores: onnx.NodeProto
    context: onnx.NodeProto
    between: tuple[onnx.NodeProto, ...]
    query: Operand
    key: Operand
    weights: Operand
    value: Operand
    head_size: int | None
    heads: int | None
    sequence: int | None

    @property
    def operands(self) -> dict[str, Operand]:
        """The four operands by name."""
        return {
            "query": self.query,
            "key": self.key,
            "softmax output": self.weights,
            "value": self.value,
        }

    @property
    def code_types(self) -> set[int]:
        """Element types of the codes of its quantized operands."""
        return {found.code_type for found in self.operands.values() if found.dequantizer}


def attentions(view: GraphView) -> Iterator[OnnxAttention]:
    """Yield every softmax that stands between two products of activations."""
    for node in view.nodes:
        if node.op_type != "Softmax":
            continue
        scores = _scores(view, node.input[0])
        context = _context(view, node.output[0])
        if scores is not None and context is not None:
            yield _attention(view, node, scores, context)


def moving_product(view: GraphView, node: onnx.NodeProto) -> bool:
    """Return whether a node multiplies two tensors of which neither is constant."""
    return node.op_type == "MatMul" and not any(view.rooted(name) for name in node.input)


def _scores(view: GraphView, name: str) -> tuple[onnx.NodeProto, tuple[onnx.NodeProto, ...]] | None:
    """Search backwards, also behind a mask that is added, and keep the way taken."""
    pending: list[tuple[str, tuple[onnx.NodeProto, ...]]] = [(name, ())]
    seen = {name}
    while pending:
        current, path = pending.pop()
        node = view.producer(current)
        if node is None:
            continue
        if moving_product(view, node):
            return node, path
        if node.op_type in _BETWEEN:
            fresh = [x for x in node.input if x and x not in seen and not view.rooted(x)]
            seen.update(fresh)
            pending += [(x, (*path, node)) for x in reversed(fresh)]
    return None


def _context(view: GraphView, name: str) -> tuple[onnx.NodeProto, str] | None:
    """Return the product that reads the softmax, and which of its inputs does."""
    ops = {"QuantizeLinear", "DequantizeLinear", "Cast", "Reshape", "Transpose", "Dropout"}
    for node, read in view.ahead(name, ops | {"Identity", "Squeeze", "Unsqueeze"}):
        if moving_product(view, node):
            return node, read
    return None


def _attention(
    view: GraphView,
    softmax: onnx.NodeProto,
    scores: tuple[onnx.NodeProto, tuple[onnx.NodeProto, ...]],
    context: tuple[onnx.NodeProto, str],
) -> OnnxAttention:
    first, between = scores
    second, read = context
    other = next((name for name in second.input if name != read), read)
    head_size, sequence = _sizes(view.shape(first.input[0]), view.shape(first.input[1]))
    return OnnxAttention(
        softmax=softmax,
        scores=first,
        context=second,
        between=between,
        query=operand_of(view, first.input[0]),
        key=operand_of(view, first.input[1]),
        weights=operand_of(view, read),
        value=operand_of(view, other),
        head_size=head_size,
        heads=_heads(view.shape(first.output[0])),
        sequence=sequence,
    )


def _heads(scores: Shape | None) -> int | None:
    """Return H of [B, H, S_q, S_k], 1 of [B, S_q, S_k]."""
    if scores is None or len(scores) < 3:
        return None
    heads = scores[-3] if len(scores) > 3 else 1
    return heads if isinstance(heads, int) else None


def _sizes(left: Shape | None, right: Shape | None) -> tuple[int | None, int | None]:
    """Return head size and sequence length of [.., S_q, D] x [.., D, S_k]."""
    head, lengths = None, []
    if left is not None and len(left) > 1:
        head = left[-1] if isinstance(left[-1], int) else None
        lengths += [left[-2]]
    if right is not None and len(right) > 1:
        lengths += [right[-1]]
        head = head if head is not None or not isinstance(right[-2], int) else right[-2]
    known = [size for size in lengths if isinstance(size, int)]
    return head, max(known) if known else None
