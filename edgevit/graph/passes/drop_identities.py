"""Drops operators that return their input unchanged.

Rules:
1. Copies and markers: clone, contiguous, alias, detach, lift_fresh, a cast to the same dtype.
2. Dropout in evaluation.
3. Slices of everything, pads of nothing, expands and repeats to the same shape.
4. Multiplication and division by 1, addition and subtraction of 0: Python numbers or constants
   that hold nothing else (a mask that hides nothing).
5. Operands of a concatenation that hold nothing, and a concatenation of one tensor.
"""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Node

from edgevit.graph.operators import aten
from edgevit.graph.rewrite import replace
from edgevit.graph.shapes import args_of
from edgevit.graph.tracing import constant_of

_ALWAYS = {
    aten.clone.default,
    aten.contiguous.default,
    aten.alias.default,
    aten.detach.default,
    aten.detach_.default,
    aten.lift_fresh.default,
    aten.lift_fresh_copy.default,
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
}
_CASTS = {aten._to_copy.default, aten.to.dtype, aten.to.device, aten.type_as.default}
_SAME_SHAPE = {
    aten.slice.Tensor,
    aten.expand.default,
    aten.expand_as.default,
    aten.repeat.default,
    aten.pad.default,
    aten.constant_pad_nd.default,
}
_NEUTRAL: dict[Any, float] = {
    aten.mul.Tensor: 1.0,
    aten.mul.Scalar: 1.0,
    aten.div.Tensor: 1.0,
    aten.div.Scalar: 1.0,
    aten.add.Tensor: 0.0,
    aten.add.Scalar: 0.0,
    aten.sub.Tensor: 0.0,
    aten.sub.Scalar: 0.0,
}


def drop_identities(module: GraphModule) -> int:
    """Return how many operators were dropped."""
    changed = 0
    for node in module.graph.nodes:
        if node.target is aten.cat.default:
            changed += _without_empty(node)
        elif node.op == "call_function" and (_is_identity(node) or _is_neutral(module, node)):
            replace(node, args_of(node)[0])
            changed += 1
    return changed


def _without_empty(node: Node) -> int:
    """Leave out what a concatenation joins that has no elements; return 1 if there was any."""
    parts, *rest = args_of(node)
    full = [part for part in parts if 0 not in (part.meta.get("shape") or ())]
    if not full or 1 < len(full) == len(parts):
        return 0
    if len(full) == 1:
        replace(node, full[0])
    else:
        node.args = (full, *rest)
    return 1


def _is_identity(node: Node) -> bool:
    source = args_of(node)[0] if args_of(node) else None
    if not isinstance(source, Node) or "size" in node.meta:
        return False
    if node.target in _CASTS:
        return bool(source.meta.get("dtype") == node.meta["dtype"])
    if node.target in _SAME_SHAPE:
        return _is_alike(source, node) and _keeps_order(node)
    return node.target in _ALWAYS


def _is_neutral(module: GraphModule, node: Node) -> bool:
    """Return whether an elementwise operator adds 0 or multiplies by 1."""
    arguments = args_of(node)
    if node.target not in _NEUTRAL or len(arguments) != 2 or "size" in node.meta:
        return False
    source, other = arguments
    if not isinstance(source, Node) or not _is_alike(source, node):
        return False
    if isinstance(other, Node):
        return other.op == "get_attr" and bool(
            (constant_of(module, other) == _NEUTRAL[node.target]).all()
        )
    return bool(other == _NEUTRAL[node.target])


def _is_alike(source: Node, node: Node) -> bool:
    """Return whether two tensors have one shape, known at every batch, and one dtype."""
    known = source.meta.get("shape") is not None
    return known and all(source.meta[key] == node.meta.get(key) for key in ("shape", "dtype"))


def _keeps_order(node: Node) -> bool:
    """Return whether an operator that keeps the shape keeps the elements (a pad may also crop)."""
    if node.target in {aten.pad.default, aten.constant_pad_nd.default}:
        return all(width == 0 for width in args_of(node)[1])
    return True
