"""Merges constants that are added one after the other.

Rules:
1. ``c + x`` -> ``x + c``; ``x - c`` -> ``x + (-c)``.
2. ``(x + c1) + c2`` -> ``x + (c1 + c2)`` when the sum is no larger than the larger of the two.
3. ``pad(x + c1) + c2`` -> ``pad(x) + (pad(c1) + c2)`` with a pad of zeros.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

from edgevit.graph.operators import aten
from edgevit.graph.rewrite import add_constant, call, replace
from edgevit.graph.shapes import args_of, shape_of, target_of
from edgevit.graph.tracing import constant_of


def merge_adds(module: GraphModule) -> int:
    """Return how many additions were rewritten."""
    changed = 0
    for node in list(module.graph.nodes):
        if node.op == "call_function":
            with module.graph.inserting_before(node):
                new = _order(module, node)
                if new is not None:
                    replace(node, new)
                    changed += 1
                merged = _merge(module, node if new is None else new)
            if merged is not None:
                replace(node if new is None else new, merged)
                changed += 1
    return changed


def _is_constant(node: Any) -> bool:
    return isinstance(node, Node) and node.op == "get_attr"


def _order(module: GraphModule, node: Node) -> Node | None:
    """Apply rule 1."""
    if len(args_of(node)) != 2 or node.kwargs:
        return None
    left, right = args_of(node)
    if node.target in {aten.add.Tensor, aten.mul.Tensor} and _is_constant(left):
        return None if _is_constant(right) else call(node, target_of(node), right, left)
    if node.target is aten.sub.Tensor and isinstance(right, Node) and right.op == "get_attr":
        negative = add_constant(module, right.meta["fqn"], -constant_of(module, right))
        return call(node, aten.add.Tensor, left, negative)
    return None


def _merge(module: GraphModule, node: Node) -> Node | None:
    """Apply rules 2 and 3."""
    if not _adds_constant(node):
        return None
    inner, outer = args_of(node)
    pad = (
        inner if isinstance(inner, Node) and inner.target is aten.constant_pad_nd.default else None
    )
    summed: Any = inner if pad is None else args_of(pad)[0]
    if not isinstance(summed, Node) or not _adds_constant(summed) or len(summed.users) > 1:
        return None
    if pad is not None and (len(pad.users) > 1 or args_of(pad)[2] != 0.0):
        return None
    x, first = args_of(summed)
    value = _total(module, first, outer, pad)
    if value is None:
        return None
    base = x if pad is None else call(pad, aten.constant_pad_nd.default, x, *args_of(pad)[1:])
    return call(node, aten.add.Tensor, base, add_constant(module, outer.meta["fqn"], value))


def _total(module: GraphModule, first: Any, second: Any, pad: Node | None) -> Tensor | None:
    one, two = constant_of(module, first), constant_of(module, second)
    if pad is not None:
        inside = shape_of(args_of(pad)[0])
        one = one.expand([1 if d < 0 else d for d in inside])  # [1, N, C]
        one = aten.constant_pad_nd.default(one, args_of(pad)[1], 0.0)
    total = one + two
    return total if total.numel() <= max(one.numel(), two.numel()) else None


def _adds_constant(node: Node) -> bool:
    return node.target is aten.add.Tensor and not node.kwargs and _is_constant(args_of(node)[1])
