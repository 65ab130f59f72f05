"""Cuts what lies between the products of a graph into parts that have one result each.

An engine fuses operators whose results nobody else reads. A part holds an operator and all before
it that lead to nothing but it, so that the engine, given the part alone, fuses what it fuses within
the whole graph.
"""

from __future__ import annotations

from collections.abc import Collection

from torch.fx import Node

from edgevit.graph.model import Graph
from edgevit.graph.shapes import activations_of


def float_regions(graph: Graph, products: Collection[str]) -> list[tuple[Node, ...]]:
    """Return the parts, their nodes in order of execution; the last one is the result.

    Args:
        graph: The graph.
        products: fx names of the nodes that belong to no part.
    """
    result: dict[Node, Node] = {}
    parts: dict[Node, list[Node]] = {}
    for node in reversed(graph.module.graph.nodes):
        if node.op == "call_function" and node.name not in products and activations_of(node):
            lead = {result.get(user) for user in node.users}
            only = next(iter(lead)) if len(lead) == 1 else None
            result[node] = last = node if only is None else only
            parts.setdefault(last, []).append(node)
    return [tuple(part[::-1]) for part in parts.values()]


def reads_of(part: Collection[Node]) -> list[Node]:
    """Return what the nodes of a part read and what is neither constant nor in it, each once."""
    read = (source for node in part for source in activations_of(node))
    return list(dict.fromkeys(source for source in read if source not in part))
