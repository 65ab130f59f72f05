"""Writes global pooling as a mean over tokens, without a permute in front.

Rules:
1. adaptive_avg_pool to one value -> mean over the last dimensions, reshaped to keep them as 1.
2. A mean that keeps its dimensions -> a mean that drops them, and a reshape.
3. A mean of permuted tensors -> a mean over the dimensions before the permute, when the rest
   stays in order.
"""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Node

from edgevit.graph.operators import aten
from edgevit.graph.rewrite import call, replace, reshape
from edgevit.graph.shapes import args_of, shape_of

_POOLS = {
    aten.adaptive_avg_pool1d.default: 1,
    aten.adaptive_avg_pool2d.default: 2,
    aten.adaptive_avg_pool3d.default: 3,
}


def pooling(module: GraphModule) -> int:
    """Return how many operators were rewritten."""
    changed = 0
    for node in list(module.graph.nodes):
        with module.graph.inserting_before(node):
            new = _rewritten(node)
        if new is not None:
            replace(node, new)
            changed += 1
    return changed


def _rewritten(node: Node) -> Node | None:
    if node.target in _POOLS and all(size == 1 for size in args_of(node)[1]):
        rank = len(shape_of(node))
        return _mean(node, list(range(rank - _POOLS[node.target], rank)))
    if node.target is aten.mean.dim and not node.kwargs:
        rank = len(shape_of(args_of(node)[0]))
        return _mean(node, sorted(int(d) % rank for d in args_of(node)[1]))
    return None


def _mean(node: Node, dims: list[int]) -> Node:
    source: Any = args_of(node)[0]
    while source.target is aten.permute.default:
        order = args_of(source)[1]
        kept = [d for i, d in enumerate(order) if i not in dims]
        if kept != sorted(kept):
            break
        dims = sorted(order[d] for d in dims)
        source = args_of(source)[0]
    return reshape(call(node, aten.mean.dim, source, dims), shape_of(node))
