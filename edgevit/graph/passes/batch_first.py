"""Brings the batch to the front of every linear's tokens, and of products with a constant.

Rules:
1. A linear treats every token alike: when its input was rearranged so that the batch is not the
   outermost token dimension ([N, B, C], as in torch's MultiheadAttention), it gets [B, N, C] and
   its output is brought to the order that was expected. The permutes around it then cancel.
2. ``x @ c`` with x [G, k B, C] and a constant c [G, C, K], as einsum writes relative positions ->
   the product of x [B, G, k, C], whose output is brought back.
3. ``c @ x`` with the batch in the columns of x -> ``(x^T @ c^T)^T``, then rule 2.
"""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Node

from edgevit.graph.operators import aten
from edgevit.graph.rearrange import Rearrangement, is_rearranging
from edgevit.graph.rewrite import add_constant, call, permute, replace, reshape
from edgevit.graph.shapes import args_of, shape_of
from edgevit.graph.tracing import constant_of


def batch_first(module: GraphModule) -> int:
    """Return how many products were turned."""
    changed = 0
    for node in list(module.graph.nodes):
        if node.target is aten.linear.default:
            changed += _turn(module, node)
        elif node.target is aten.matmul.default:
            with module.graph.inserting_before(node):
                new = _constant_product(module, node)
            if new is not None:
                replace(node, new)
                changed += 1
    return changed


def _constant_product(module: GraphModule, node: Node) -> Node | None:
    left, right = args_of(node)[:2]
    if right.op == "get_attr" and shape_of(left)[-2] < 0:
        return _with_batch_in_front(node, left, right)
    if left.op == "get_attr" and shape_of(right)[-1] < 0:
        matrix = constant_of(module, left).transpose(-1, -2)
        constant = add_constant(module, f"{left.meta['fqn']}.transposed", matrix)
        product = _with_batch_in_front(node, _transposed(right), constant)
        return _transposed(product)
    return None


def _transposed(node: Node) -> Node:
    rank = len(shape_of(node))
    return permute(node, [*range(rank - 2), rank - 1, rank - 2])


def _with_batch_in_front(node: Node, x: Node, constant: Node) -> Node:
    """Return x [..., k B, C] @ constant [..., C, K] by way of [B, ..., k, K]."""
    *groups, rows, width = shape_of(x)
    rank = len(groups)
    apart = reshape(x, (*groups, -1, -rows, width))  # [..., B, k, C]
    front = permute(apart, [rank, *range(rank), rank + 1, rank + 2])  # [B, ..., k, C]
    product = call(node, aten.matmul.default, front, constant)  # [B, ..., k, K]
    back = permute(product, [*range(1, rank + 1), 0, rank + 1, rank + 2])
    return reshape(back, (*groups, rows, shape_of(product)[-1]))


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
