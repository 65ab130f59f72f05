"""Takes slices before permutes, so that each part is permuted once and straight to its place.

Rules:
1. ``select(permute(x), d, i)`` -> ``permute(select(x, d', i))`` when the permute serves selects
   and slices only; the same for slices. q, k and v then take one permute each.
"""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Node

from edgevit.graph.operators import aten
from edgevit.graph.rewrite import call, permute, replace
from edgevit.graph.shapes import args_of, target_of

_PARTS = {aten.select.int, aten.slice.Tensor}


def select_first(module: GraphModule) -> int:
    """Return how many selects and slices moved."""
    changed = 0
    for node in list(module.graph.nodes):
        if node.target is not aten.permute.default:
            continue
        if all(user.target in _PARTS for user in node.users):
            for user in list(node.users):
                with module.graph.inserting_before(user):
                    replace(user, _move(user, node))
                changed += 1
    return changed


def _move(part: Node, permutation: Node) -> Node:
    source: Any = args_of(permutation)[0]
    dims: list[int] = list(args_of(permutation)[1])
    dim = dims[int(args_of(part)[1])]
    taken = call(part, target_of(part), source, dim, *args_of(part)[2:])
    if part.target is aten.select.int:
        dims = [d - (d > dim) for d in dims if d != dim]
    return permute(taken, dims)
