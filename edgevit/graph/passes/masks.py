"""Attention masks that are repeated for every image become one constant per window.

Rules:
1. ``x + (c1 + c2)`` with constants whose sum is larger than both -> ``(x + c1) + c2``: a position
   bias and a window mask stay two small tensors.
2. ``x + c`` with x [k B, ...] and c [k, ...] (k windows per image) -> reshape x to [B, k, ...],
   add c as [1, k, ...], reshape back.
3. ``masked_fill(x, c, v)`` and ``where(c, x, v)`` with constant c and v -> ``x * keep + fill``;
   only ``x + fill`` for v = -inf, and x where c hides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgevit.graph.operators import ELEMENTWISE, aten
from edgevit.graph.passes.fold_constants import constant_nodes
from edgevit.graph.rewrite import add_constant, call, replace, reshape
from edgevit.graph.shapes import Shape, args_of, at_batch, shape_of, target_of
from edgevit.graph.tracing import constant_of


def split_masks(module: GraphModule) -> int:
    """Apply rule 1; return how many sums were split."""
    constant = constant_nodes(module)
    changed = 0
    for node in list(module.graph.nodes):
        if node.target is not aten.add.Tensor or node in constant or len(args_of(node)) != 2:
            continue
        x, total = args_of(node) if args_of(node)[1] in constant else reversed(args_of(node))
        if total not in constant or not _is_wasteful(total):
            continue
        with module.graph.inserting_before(node):
            first = call(node, aten.add.Tensor, x, args_of(total)[0])
            second = call(node, aten.add.Tensor, first, args_of(total)[1])
        replace(node, second)
        changed += 1
    return changed


def _is_wasteful(total: Any) -> bool:
    if total.target is not aten.add.Tensor or len(total.all_input_nodes) != 2:
        return False
    parts = sum(_numel(shape_of(n)) for n in total.all_input_nodes)
    return _numel(shape_of(total)) > parts


def _numel(shape: Shape) -> int:
    return math.prod(at_batch(shape, 1))


def fill_masks(module: GraphModule) -> int:
    """Apply rule 3; return how many operators were rewritten."""
    return _apply(module, _fill)


def window_masks(module: GraphModule) -> int:
    """Apply rule 2; return how many operators were rewritten."""
    return _apply(module, _window)


def _apply(module: GraphModule, rule: Callable[[GraphModule, Node], Node | None]) -> int:
    changed = 0
    for node in list(module.graph.nodes):
        if node.op == "call_function":
            with module.graph.inserting_before(node):
                new = rule(module, node)
            if new is not None:
                replace(node, new)
                changed += 1
    return changed


def _window(module: GraphModule, node: Node) -> Node | None:
    """Rewrite x op c where c repeats for every image."""
    if node.target not in ELEMENTWISE or len(node.all_input_nodes) != 2:
        return None
    x, c = node.all_input_nodes
    if x.op == "get_attr" or c.op != "get_attr" or args_of(node)[0] is not x:
        return None
    shape, mask = shape_of(node), shape_of(c)
    mask = (1,) * (len(shape) - len(mask)) + mask
    axis = next((i for i, (s, m) in enumerate(zip(shape, mask, strict=True)) if s < 0 < m - 1), -1)
    if axis < 0 or shape[axis] != -mask[axis] or shape_of(x) != shape:
        return None
    windows = mask[axis]
    value = constant_of(module, c).reshape((*mask[:axis], 1, *mask[axis:]))  # [..., 1, k, ...]
    split = (*shape[:axis], -1, windows, *shape[axis + 1 :])
    spread = call(x, aten.reshape.default, x, list(split))  # [..., B, k, ...]
    done = call(node, target_of(node), spread, add_constant(module, c.meta["fqn"], value))
    return reshape(done, shape)  # [..., k B, ...]


def _fill(module: GraphModule, node: Node) -> Node | None:
    """Rewrite masked_fill and where with a constant condition and a constant filling."""
    parts = _fill_parts(node)
    if parts is None or any(isinstance(p, Node) and p.op != "get_attr" for p in parts[1:]):
        return None
    x: Node = parts[0]
    condition, value, hides = parts[1:]
    hidden = constant_of(module, condition) == hides
    number = constant_of(module, value) if isinstance(value, Node) else torch.tensor(value)
    if not bool(hidden.any()):
        return x
    stem = f"{node.meta['module']}.{node.name}"
    if bool((number != -math.inf).any()):
        x = call(node, aten.mul.Tensor, x, add_constant(module, f"{stem}.keep", (~hidden).float()))
    fill = torch.where(hidden, number.float(), torch.zeros(()))
    return call(node, aten.add.Tensor, x, add_constant(module, f"{stem}.fill", fill))


def _fill_parts(node: Node) -> tuple[Any, ...] | None:
    """Return (tensor, condition, filling, the value of the condition that hides the tensor)."""
    if node.target in {aten.masked_fill.Scalar, aten.masked_fill.Tensor}:
        return (*args_of(node), True)
    if node.target in {aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf}:
        condition, kept, other = args_of(node)
        if isinstance(kept, Node) and kept.op != "get_attr":
            return kept, condition, other, False
        return other, condition, kept, True
    return None
