"""Writes adaptive average pooling to more than one value; that to one is a mean, see `pooling`.

Rules:
1. Windows that are all alike -> avg_pool2d.
2. Others -> axis by axis, a mean of each window and cat: window i of n begins at floor(i L / n) and
   ends at ceil((i + 1) L / n), and a mean of equal windows along the other axis is the whole mean.
"""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Node

from edgevit.graph.operators import aten
from edgevit.graph.rewrite import call, replace, reshape
from edgevit.graph.shapes import args_of, shape_of

_AXES: dict[Any, int] = {aten.adaptive_avg_pool1d.default: 1, aten.adaptive_avg_pool2d.default: 2}


def adaptive_pool(module: GraphModule) -> int:
    """Return how many operators were rewritten."""
    changed = 0
    for node in list(module.graph.nodes):
        if node.target in _AXES and any(
            size != 1 for size in shape_of(node)[-_AXES[node.target] :]
        ):
            with module.graph.inserting_before(node):
                replace(node, _pooled(node))
            changed += 1
    return changed


def _pooled(node: Node) -> Node:
    x: Node = args_of(node)[0]
    axes = _AXES[node.target]
    before, after = shape_of(x)[-axes:], shape_of(node)[-axes:]
    if axes == 2 and not any(b % a for b, a in zip(before, after, strict=True)):
        kernel = [b // a for b, a in zip(before, after, strict=True)]
        return x if kernel == [1, 1] else call(node, aten.avg_pool2d.default, x, kernel, kernel)
    rank = len(shape_of(x))
    for dim in range(rank - axes, rank):
        x = _along(node, x, dim, shape_of(node)[dim])
    return reshape(x, shape_of(node))


def _along(node: Node, x: Node, dim: int, count: int) -> Node:
    """Return the means of `count` windows along one dimension."""
    size = shape_of(x)[dim]
    if size == count:
        return x
    means: list[Any] = []
    for i in range(count):
        start, end = i * size // count, -(-(i + 1) * size // count)
        part = call(node, aten.slice.Tensor, x, dim, start, end, 1)
        means.append(call(node, aten.mean.dim, part, [dim], True))
    return means[0] if count == 1 else call(node, aten.cat.default, means, dim)
