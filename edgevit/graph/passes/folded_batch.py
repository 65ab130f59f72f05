"""Takes a batch that was folded into another dimension out again where a constant meets it.

torch's attention folds batch and heads into one dimension, [B h, N, D]. A constant of it, such as
the query of an attention pool, is kept for one image as [h, N, D] and does not broadcast.

Rules:
1. ``c op x`` with a constant c [h, ...] and x [B h, ...] -> x [B, h, ...], c [1, h, ...] and back.
"""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Node

from edgevit.graph.operators import ELEMENTWISE, aten
from edgevit.graph.rewrite import call, replace, reshape
from edgevit.graph.shapes import args_of, shape_of

_MEETS = ELEMENTWISE | {aten.matmul.default, aten.bmm.default}


def folded_batch(module: GraphModule) -> int:
    """Return how many operators were rewritten."""
    changed = 0
    for node in list(module.graph.nodes):
        heads = _heads(node)
        if heads:
            with module.graph.inserting_before(node):
                replace(node, _unfolded(node, heads))
            changed += 1
    return changed


def _heads(node: Node) -> int:
    """Return how many parts of an image a constant has along the batch's dimension, 0 for none."""
    if node.target not in _MEETS or len(node.all_input_nodes) != 2:
        return 0
    ends = [(one, shape_of(one)) for one in node.all_input_nodes]
    constant = [shape for one, shape in ends if one.op == "get_attr"]
    folded = [shape for one, shape in ends if one.op != "get_attr"]
    if len(constant) != 1 or not constant[0] or len(constant[0]) != len(folded[0]):
        return 0
    heads = constant[0][0]
    return heads if heads > 1 and folded[0][0] == -heads else 0


def _unfolded(node: Node, heads: int) -> Node:
    def apart(value: Any) -> Any:
        if not isinstance(value, Node):
            return value
        batch = 1 if value.op == "get_attr" else -1
        return reshape(value, (batch, heads, *shape_of(value)[1:]))

    target: Any = aten.matmul.default if node.target is aten.bmm.default else node.target
    found = call(node, target, *[apart(value) for value in args_of(node)], **node.kwargs)
    return reshape(found, shape_of(node))
