"""Turns products that have attention probabilities on the right.

Rules:
1. ``a @ p^T`` with p the output of a softmax -> ``(p @ a^T)^T``: probabilities stand on the left,
   where integer kernels take numbers without a sign, and the layouts around it mostly cancel.
   EfficientViT and SHViT write attention so, with tokens in the columns.
"""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Node

from edgevit.graph.operators import aten
from edgevit.graph.rewrite import call, permute, replace
from edgevit.graph.shapes import args_of, shape_of


def turned_attention(module: GraphModule) -> int:
    """Return how many products were turned."""
    changed = 0
    for node in list(module.graph.nodes):
        if node.target is not aten.matmul.default:
            continue
        left, right = args_of(node)[:2]
        if _is_turned_softmax(right) and len(shape_of(left)) == len(shape_of(right)):
            with module.graph.inserting_before(node):
                product = call(node, aten.matmul.default, args_of(right)[0], _turned(left))
                replace(node, _turned(product))
            changed += 1
    return changed


def _turned(node: Node) -> Node:
    return permute(node, _last_two_swapped(node))


def _last_two_swapped(node: Node) -> list[int]:
    rank = len(shape_of(node))
    return [*range(rank - 2), rank - 1, rank - 2]


def _is_turned_softmax(node: Any) -> bool:
    if node.target is not aten.permute.default:
        return False
    source, dims = args_of(node)
    rank = len(dims)
    is_softmax = source.target is aten.softmax.int
    return is_softmax and [d % rank for d in dims] == _last_two_swapped(node)
