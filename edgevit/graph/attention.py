"""Finds attention in a graph by its shape: q k^T -> softmax -> P V, never by class names.

Also what stands in for a softmax: a product whose result is divided by a part of itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule, Node

from edgevit.graph.operators import LAYOUT, aten
from edgevit.graph.shapes import args_of, shape_of
from edgevit.graph.tracing import sources_of

_ON_SCORES = {
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.reshape.default,
    aten.permute.default,
}
_ON_DIVISORS = LAYOUT | {
    aten.add.Tensor,
    aten.mul.Tensor,
    aten.clamp.default,
    aten.clamp_min.default,
    aten.reciprocal.default,
}


@dataclass(frozen=True, kw_only=True)
class Attention:
    """One attention: the product q k^T, the softmax of its scores, the product P V."""

    scores: Node
    softmax: Node
    output: Node


def find_attention(module: GraphModule) -> Iterator[Attention]:
    """Yield every attention in execution order.

    A softmax over the last dimension whose scores trace back through additions, scalings, reshapes
    and permutes to one product of two activations, and whose output is the left operand of another.
    """
    for node in module.graph.nodes:
        if node.target is aten.softmax.int and args_of(node)[1] in (-1, len(shape_of(node)) - 1):
            scores, output = _scores_of(args_of(node)[0]), _output_of(node)
            if scores is not None and output is not None:
                yield Attention(scores=scores, softmax=node, output=output)


def _scores_of(node: Any) -> Node | None:
    """Return the product whose scores these are, of several the one of two activations.

    The others have a table of relative positions on the right, as in SAM and MViTv2.
    """
    found = _products_behind(node)
    if len(found) > 1:
        found = [product for product in found if args_of(product)[1].op != "get_attr"]
    return found[0] if len(found) == 1 else None


def _products_behind(node: Node) -> list[Node]:
    """Return the products from which scores come through additions, scalings and reshapes."""
    found: dict[Node, None] = {}
    todo, seen = [node], {node}
    while todo:
        current = todo.pop()
        if current.target is aten.matmul.default:
            found[current] = None
        elif current.target in _ON_SCORES:
            sources = [n for n in current.all_input_nodes if n not in seen]
            seen.update(sources)
            todo += sources
    return list(found)


def _output_of(softmax: Node) -> Node | None:
    """Return the product whose left operand is the softmax, through reshapes."""
    node = softmax
    while len(node.users) == 1:
        user = next(iter(node.users))
        if user.target is aten.matmul.default and args_of(user)[0] is node:
            return user
        if user.target is not aten.reshape.default:
            return None
        node = user
    return None


def find_self_divided(module: GraphModule) -> set[Node]:
    """Return the products whose result is divided by a part of itself.

    So does linear attention, whose values have a column of ones for the divisor (Cai et al.,
    EfficientViT, arXiv 2205.14756, section 3.1).
    """
    found: set[Node] = set()
    for node in module.graph.nodes:
        operands = [x for x in node.args if isinstance(x, Node)]
        if len(operands) == 2 and _divides(node, operands[1]):
            above, below = (sources_of(x, _ON_DIVISORS) for x in operands)
            found |= {n for n in above & below if n.target is aten.matmul.default}
    return found


def _divides(node: Node, right: Node) -> bool:
    is_product = node.target is aten.mul.Tensor
    return node.target is aten.div.Tensor or (
        is_product and right.target is aten.reciprocal.default
    )
