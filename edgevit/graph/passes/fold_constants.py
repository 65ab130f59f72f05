"""Computes everything that depends on no image once and for all.

Rules:
1. An operator whose inputs are all constants (or batch-sized integers) is a constant.
2. ``new_zeros(x, ...)`` and its like need only the shape of x: they are constants too.
3. Constants are evaluated at batches 1 and 2 and must not change with the batch, but in the last
   digit, as a sum in another order does. A dimension that grows with it must hold the same for
   every image; then the value for one image is kept and
   broadcasting does the rest. Where it doesn't, in a concatenation or for a mask of windows,
   `class_token` and `window_masks` write what does; the shape of the user stays that of a batch.
4. Only constants an activation meets are stored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edgevit.graph.operators import aten
from edgevit.graph.rewrite import add_constant, replace
from edgevit.graph.shapes import args_of, at_batch, batch_error, size_of, target_of
from edgevit.graph.tracing import constant_of

_BATCHES = (1, 2)
_SHAPE_ONLY = {
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
}


def fold_constants(module: GraphModule) -> int:
    """Return how many constants were computed."""
    constant = constant_nodes(module)
    values: dict[Node, tuple[Any, ...]] = {}
    changed = 0
    nodes = [node for node in module.graph.nodes if node in constant]
    for node in nodes:  # all of them, before any is replaced that another is made from
        values[node] = tuple(_evaluate(module, node, values, at) for at in range(len(_BATCHES)))
    for node in nodes:
        met = node.op == "call_function" and any(user not in constant for user in node.users)
        if met and isinstance(values[node][0], Tensor):
            value = _for_every_batch(node, *values[node])
            replace(node, add_constant(module, _hint(node), value))
            changed += 1
    return changed


def constant_nodes(module: GraphModule) -> set[Node]:
    """Return all nodes whose value doesn't depend on the image."""
    found: set[Node] = set()
    for node in module.graph.nodes:
        constant = node.op == "get_attr" or "size" in node.meta
        if node.op == "call_function" and not constant:
            constant = node.target in _SHAPE_ONLY or all(n in found for n in node.all_input_nodes)
        if constant:
            found.add(node)
    return found


def _evaluate(module: GraphModule, node: Node, values: dict[Node, tuple[Any, ...]], at: int) -> Any:
    if node.op == "get_attr":
        return constant_of(module, node)
    if "size" in node.meta:
        return size_of(node, _BATCHES[at])

    def argument(source: Node) -> Any:
        if source in values:
            return values[source][at]
        sizes = at_batch(source.meta["shape"], _BATCHES[at])
        return torch.empty(sizes, dtype=source.meta["dtype"])

    args, kwargs = map_arg((args_of(node), node.kwargs), argument)
    return target_of(node)(*args, **kwargs)


def _for_every_batch(node: Node, one: Tensor, two: Tensor) -> Tensor:
    """Return the value at batch 1 if the value at batch 2 is its repetition."""
    repeats = [b // max(a, 1) for a, b in zip(one.shape, two.shape, strict=True)]
    many = one.repeat(repeats)
    if many.shape != two.shape or not _is_same(many, two):
        raise batch_error(node, "its value differs between the images of a batch")
    return one


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Return whether two values are the same but for the order of sums."""
    if not one.is_floating_point():
        return torch.equal(one, other)
    finite = one.nan_to_num(0.0, 0.0, 0.0).abs()
    absolute = 1e-6 * float(finite.max()) if finite.numel() else 0.0
    return bool(torch.isclose(one, other, 1e-6, absolute, equal_nan=True).all())


def _hint(node: Node) -> str:
    """Return a name: that of the one parameter it is made from, or module and operator."""
    sources: set[str] = set()
    todo, seen = [node], {node}
    while todo:
        current = todo.pop()
        todo += [source for source in current.all_input_nodes if source not in seen]
        seen.update(current.all_input_nodes)
        if current.op == "get_attr" and current.meta["dtype"].is_floating_point:
            sources.add(current.meta["fqn"])
    return sources.pop() if len(sources) == 1 else f"{node.meta['module']}.{node.name}"
