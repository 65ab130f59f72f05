"""Drops expansions that broadcasting does anyway.

Rules:
1. ``x op expand(y)`` -> ``x op y`` for an elementwise op when x has the full shape already.
"""

from __future__ import annotations

from torch.fx import GraphModule, Node

from edgevit.graph.operators import ELEMENTWISE, aten
from edgevit.graph.rewrite import replace
from edgevit.graph.shapes import args_of, shape_of

_EXPANDS = {aten.expand.default, aten.expand_as.default}


def broadcast(module: GraphModule) -> int:
    """Return how many expansions were dropped."""
    changed = 0
    for node in list(module.graph.nodes):
        if node.target in _EXPANDS and all(_broadcasts(user, node) for user in node.users):
            replace(node, args_of(node)[0])
            changed += 1
    return changed


def _broadcasts(user: Node, expanded: Node) -> bool:
    others = [n for n in user.all_input_nodes if n is not expanded]
    full = any(shape_of(other) == shape_of(expanded) for other in others)
    return user.target in ELEMENTWISE and full
