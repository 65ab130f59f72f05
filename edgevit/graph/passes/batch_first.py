"""Brings the batch to the front of every linear's tokens.

Rules:
1. A linear treats every token alike: when its input was rearranged so that the batch is not the
   outermost token dimension ([N, B, C], as in torch's MultiheadAttention), it gets [B, N, C] and
   its output is brought to the order that was expected. The permutes around it then cancel.
"""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Node

from edgevit.graph.operators import aten
from edgevit.graph.rearrange import Rearrangement, is_rearranging
from edgevit.graph.rewrite import call, permute, replace, reshape
from edgevit.graph.shapes import args_of, shape_of


def batch_first(module: GraphModule) -> int:
    """Return how many linears were turned."""
    changed = 0
    for node in list(module.graph.nodes):
        if node.target is aten.linear.default:
            changed += _turn(module, node)
    return changed


def _turn(module: GraphModule, node: Node) -> int:
    source: Any = args_of(node)[0]
    chain: list[Node] = []
    while is_rearranging(source):
        chain.insert(0, source)
        source = args_of(source)[0]
    order = Rearrangement(shape_of(source))
    if not chain or not all(order.follow(each) for each in chain):
        return 0
    tokens = [atom for group in order.groups[:-1] for atom in group]
    first = next((atom for atom in tokens if order.has_batch(atom)), None)
    if first is None or tokens[0] == first:
        return 0
    rest = [atom for atom in tokens if atom != first]
    order.groups = [[first], rest, order.groups[-1]]
    with module.graph.inserting_before(node):
        turned = call(
            node, aten.linear.default, order.apply(source), *args_of(node)[1:]
        )  # [B, N, C]
        width = shape_of(turned)[-1]
        split = (order.size([first]), *(order.size([a]) for a in rest), width)
        back = [1 + rest.index(a) if a != first else 0 for a in tokens]
        spread = permute(reshape(turned, split), [*back, len(split) - 1])
        replace(node, reshape(spread, shape_of(node)))
    return 1
