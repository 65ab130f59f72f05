"""Collects every scalar factor of the attention scores on the query.

Rules:
1. A scalar multiplied on the scores right behind q k^T moves to q.
2. A scalar multiplied on k, or on q before its layout operators, moves to q.
3. All of them become one ``q * s`` in front of the layout that makes q's heads, so that
   `fold_scale` can fold it into the linear behind.
"""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Node

from edgevit.graph.attention import find_attention
from edgevit.graph.operators import LAYOUT, aten
from edgevit.graph.rewrite import call, replace
from edgevit.graph.shapes import args_of, shape_of
from edgevit.graph.tracing import constant_of

_LAYOUT_OF_ONE = LAYOUT - {aten.cat.default, aten.constant_pad_nd.default}


def query_scale(module: GraphModule) -> int:
    """Return how many attentions were rewritten."""
    changed = 0
    for attention in list(find_attention(module)):
        changed += _collect(module, attention.scores)
    return changed


def _collect(module: GraphModule, scores: Node) -> int:
    factor, found = 1.0, 0
    while len(scores.users) == 1:
        user = next(iter(scores.users))
        value = _scalar(module, user, scores)
        if value is None:
            break
        replace(user, scores)
        module.graph.erase_node(user)
        factor, found = factor * value, found + 1
    for operand in list(args_of(scores)):
        value = _take(module, operand)
        if value is not None:
            factor, found = factor * value, found + 1
    if not found or factor == 1.0:
        return found
    query: Any = args_of(scores)[0]
    with module.graph.inserting_before(scores):
        scaled = call(scores, aten.mul.Tensor, query, factor)
    scores.update_arg(0, scaled)
    return found


def _scalar(module: GraphModule, node: Node, operand: Node) -> float | None:
    """Return f if the node is operand * f (or / (1 / f)) for a scalar f, in the same shape."""
    if node.target not in {aten.mul.Tensor, aten.div.Tensor} or node.kwargs:
        return None
    if shape_of(node) != shape_of(operand):
        return None
    left, right = args_of(node)
    if node.target is aten.mul.Tensor and right is operand:
        left, right = right, left
    if left is not operand:
        return None
    if (
        isinstance(right, Node)
        and right.op == "get_attr"
        and constant_of(module, right).numel() == 1
    ):
        right = float(constant_of(module, right))
    if not isinstance(right, int | float):
        return None
    return float(right) if node.target is aten.mul.Tensor else 1.0 / float(right)


def _take(module: GraphModule, node: Any) -> float | None:
    """Remove a scalar factor from an operand and return it."""
    while len(node.users) == 1:
        for source in node.all_input_nodes:
            value = None if source.op == "get_attr" else _scalar(module, node, source)
            if value is not None:
                replace(node, source)
                module.graph.erase_node(node)
                return value
        if node.target not in _LAYOUT_OF_ONE:
            return None
        node = args_of(node)[0]
    return None
