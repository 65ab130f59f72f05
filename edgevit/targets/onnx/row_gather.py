"""Turns cyclic shift and window partition into one gather of token rows.

Swin moves whole token rows in three steps (roll along two axes, then a transpose into windows),
and back. Each step copies the tensor; together they are one fixed permutation of rows, which
one Gather does in one copy. A LayerNorm works on rows, so the gather may as well go before it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgevit.graph.model import Graph
from edgevit.graph.rewrite import add_constant, call, replace
from edgevit.graph.shapes import Shape, args_of, at_batch, infer, reshape_argument, shape_of

aten = torch.ops.aten
_MOVES = {aten.reshape.default, aten.permute.default, aten.roll.default}


def with_gathered_rows(graph: Graph) -> Graph:
    """Return the graph, or a copy in which every chain that holds a roll became one gather."""
    chains = list(_chains(graph))
    if not chains:
        return graph
    graph = graph.clone()
    nodes = {node.name: node for node in graph.module.graph.nodes}
    for names in chains:
        _replace(graph, [nodes[name] for name in names])
    graph.module.graph.eliminate_dead_code()
    graph.refresh()
    return graph


def with_rows_before_norms(graph: Graph) -> Graph:
    """Return a copy in which rows that are moved behind a LayerNorm are moved in front of it.

    NVIDIA's compiler makes one kernel of a gather, a LayerNorm and a rounding in this order, and
    two where the gather comes last. The numbers are the same; names of LayerNorms stay.
    """
    graph = graph.clone()
    for norm in list(graph.module.graph.nodes):
        if norm.target is aten.layer_norm.default and len(args_of(norm)[1]) == 1:
            chain = _chain_behind(norm)
            if any(node.target is not aten.reshape.default for node in chain):
                _move_before(graph, norm, chain)
    graph.module.graph.eliminate_dead_code()
    graph.refresh()
    return graph


def _chain_behind(node: fx.Node) -> list[fx.Node]:
    """Return the layout nodes behind a node, each read by the next alone."""
    chain: list[fx.Node] = []
    while len(node.users) == 1 and next(iter(node.users)).target in _MOVES:
        node = next(iter(node.users))
        chain.append(node)
    return chain


def _move_before(graph: Graph, norm: fx.Node, chain: list[fx.Node]) -> None:
    source, last = args_of(norm)[0], chain[-1]
    before, after = shape_of(norm), shape_of(last)
    rows = _row_order(before, chain)
    if rows is None or before[-1] != after[-1]:
        return
    index = add_constant(graph.module, f"{last.name}_rows", rows)
    with graph.module.graph.inserting_before(norm):
        flat = call(norm, aten.reshape.default, source, [-1, len(rows), before[-1]])  # [B, T, C]
        moved = call(norm, aten.index_select.default, flat, 1, index)  # [B, T, C]
    norm.args = (moved, *norm.args[1:])
    norm.meta.update(infer(norm))
    with graph.module.graph.inserting_before(last):
        laid_out = call(last, aten.reshape.default, norm, reshape_argument(after, last))
    replace(last, laid_out)


def _chains(graph: Graph) -> list[list[str]]:
    """Return maximal chains of single-use layout nodes that hold at least one roll."""
    found: list[list[str]] = []
    seen: set[str] = set()
    for node in graph.module.graph.nodes:
        if node.target not in _MOVES or node.name in seen:
            continue
        chain = [node]
        while len(chain[-1].users) == 1 and next(iter(chain[-1].users)).target in _MOVES:
            chain.append(next(iter(chain[-1].users)))
        seen.update(member.name for member in chain)
        if any(member.target is aten.roll.default for member in chain):
            found.append([member.name for member in chain])
    return found


def _replace(graph: Graph, chain: list[fx.Node]) -> None:
    source: Any = chain[0].args[0]
    last = chain[-1]
    before, after = shape_of(source), shape_of(last)
    rows = _row_order(before, chain)
    if rows is None or before[-1] != after[-1]:
        return
    index = add_constant(graph.module, f"{last.name}_rows", rows)
    with graph.module.graph.inserting_before(last):
        flat = call(last, aten.reshape.default, source, [-1, len(rows), before[-1]])  # [B, T, C]
        moved = call(last, aten.index_select.default, flat, 1, index)  # [B, T, C]
        replace(last, call(last, aten.reshape.default, moved, reshape_argument(after, last)))


def _row_order(before: Shape, chain: list[fx.Node]) -> Tensor | None:
    """Return int64 [T]: which row of an image each row of the result is, or None.

    None when the chain takes rows apart or mixes images, or its rows are of the batch.

    Args:
        before: Shape of the chain's source.
        chain: The layout nodes in order.
    """
    channels, orders = before[-1], []
    if channels < 0:
        return None
    for batch in (1, 2):
        shape = at_batch(before, batch)
        moved = torch.arange(torch.Size(shape).numel()).reshape(shape)
        for node in chain:
            target: Any = node.target
            moved = target(moved, *node.args[1:], **node.kwargs)
        rows = moved.reshape(-1, channels)  # [batch * T, C]
        if not torch.equal(rows, rows[:, :1] + torch.arange(channels)):
            return None
        orders.append(rows[:, 0] // channels)
    one, two = orders
    both = torch.cat([one, one + len(one)])
    return one if torch.equal(two, both) else None
