"""Cuts q, k and v out of one projection head by head: one reshape, one slice and one permute each.

NVIDIA's compiler moves a cut that it can follow through the product in front of it, between the
product and the codes of its weight, and then has no integer kernel for it. It can't follow a cut
along heads: the projection stays one integer product, and one kernel lays out all three. Separate
projections of one tensor are put side by side first, for the same reason.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgevit.graph.attention import find_attention
from edgevit.graph.channels import head_channels
from edgevit.graph.model import Gemm, Graph, Site
from edgevit.graph.rewrite import call, permute, replace, reshape
from edgevit.graph.shapes import args_of, at_batch, shape_of
from edgevit.graph.tracing import run_layout

aten = torch.ops.aten
_ORDERS = {"query": [0, 2, 1, 3], "key": [0, 2, 3, 1], "value": [0, 2, 1, 3]}
"""From [B, N, H, D] to what the products of attention read."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """An operand of attention: heads `first` to `first + heads` of a linear's output.

    Args:
        node: The operand, [B, H, N, D] or for a key [B, H, D, N].
        operand: "query", "key" or "value".
        linear: Its source, [B, N, C].
        width: Channels of a head.
    """

    node: fx.Node
    operand: str
    linear: fx.Node
    first: int
    heads: int
    width: int


def with_cut_heads(graph: Graph, *, apart: Collection[str] = ()) -> Graph:
    """Return a copy in which every attention reads slices along the heads of one tensor.

    Args:
        graph: A canonical graph.
        apart: fx node names of linears that are not put beside others.
    """
    graph = graph.clone()
    for scores, output in _attentions(graph):
        parts = [_part(graph, site) for site in (scores.left, scores.right, output.right)]
        found = [part for part in parts if part is not None]
        if len(found) == len(parts) and _are_side_by_side(found, apart):
            _cut(graph, found)
    graph.module.graph.eliminate_dead_code()
    graph.refresh()
    return graph


def _attentions(graph: Graph) -> list[tuple[Gemm, Gemm]]:
    """Return the products q k^T and P V of every attention."""
    gemms = {gemm.name: gemm for gemm in graph.gemms}
    found = find_attention(graph.module)
    return [(gemms[one.scores.name], gemms[one.output.name]) for one in found]


def _part(graph: Graph, site: Site) -> _Part | None:
    """Return where an operand is cut from; None where that is no run of whole heads."""
    found = head_channels(graph, site, shared=True)
    if found is None:
        return None
    nodes = {node.name: node for node in graph.module.graph.nodes}
    linear, rows = nodes[found[0]], found[1]  # rows [H, D]
    start, width = int(rows[0, 0]), rows.shape[1]
    in_order = torch.equal(rows, torch.arange(start, start + rows.numel()).reshape(rows.shape))
    whole = start % width == 0 and shape_of(linear)[-1] % width == 0
    if not in_order or not whole or len(shape_of(linear)) != 3:
        return None
    return _Part(
        node=nodes[site.producer],
        operand=site.name.rpartition(":")[2],
        linear=linear,
        first=start // width,
        heads=len(rows),
        width=width,
    )


def _are_side_by_side(parts: Sequence[_Part], apart: Collection[str]) -> bool:
    """Return whether all come from one linear, or from linears of one tensor."""
    linears = {part.linear.name for part in parts}
    if len(linears) > 1 and not linears.isdisjoint(apart):
        return False
    sources = {args_of(part.linear)[0] for part in parts}
    lengths = {shape_of(part.linear)[:-1] for part in parts}
    return len(sources) == len(lengths) == len({part.width for part in parts}) == 1


def _cut(graph: Graph, parts: Sequence[_Part]) -> None:
    linears = list(dict.fromkeys(part.linear for part in parts))
    order = {node: at for at, node in enumerate(graph.module.graph.nodes)}
    last, width = max(linears, key=order.__getitem__), parts[0].width
    if any(order[user] <= order[last] for part in parts for user in part.node.users):
        return  # an operand is read before the last of the projections is computed
    with graph.module.graph.inserting_before(last.next):
        heads = [_in_heads(linear, width) for linear in linears]  # [B, N, H, D] each
        whole: Any = heads[0] if len(heads) == 1 else call(last, aten.cat.default, heads, 2)
        firsts = _firsts([shape_of(one)[2] for one in heads])
        news = [_piece(whole, part, firsts[linears.index(part.linear)]) for part in parts]
    for part, new in zip(parts, news, strict=True):
        if _is_same(graph, part, new):
            replace(part.node, new)


def _in_heads(linear: fx.Node, width: int) -> fx.Node:
    shape = shape_of(linear)
    return reshape(linear, (*shape[:-1], shape[-1] // width, width))


def _firsts(sizes: Sequence[int]) -> list[int]:
    """Return where each of several tensors put one behind the other begins."""
    return [sum(sizes[:at]) for at in range(len(sizes))]


def _piece(whole: fx.Node, part: _Part, offset: int) -> fx.Node:
    first = offset + part.first
    piece = call(part.node, aten.slice.Tensor, whole, 2, first, first + part.heads)  # [B, N, H, D]
    return permute(piece, _ORDERS[part.operand])


def _is_same(graph: Graph, part: _Part, new: fx.Node) -> bool:
    """Return whether the new operand is the old one, element by element, for two images."""
    if shape_of(new) != shape_of(part.node):
        return False
    shape = torch.Size(at_batch(shape_of(part.linear), 2))
    numbers = torch.arange(shape.numel()).reshape(shape)
    nothing = torch.tensor(-1)
    others = {x: nothing.expand(x_shape) for x, x_shape in _other_linears(graph, part)}
    values = [
        run_layout(graph.module, x, {**others, part.linear: numbers}) for x in (part.node, new)
    ]
    return all(x is not None for x in values) and torch.equal(*values)  # type: ignore[arg-type]


def _other_linears(graph: Graph, part: _Part) -> list[tuple[fx.Node, torch.Size]]:
    linears = [x for x in graph.module.graph.nodes if x.target is aten.linear.default]
    return [(x, torch.Size(at_batch(shape_of(x), 2))) for x in linears if x is not part.linear]
