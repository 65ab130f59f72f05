"""Splits a fused q, k, v projection into three linears.

On ONNX Runtime's CPU provider three products are faster than one whose output is then copied
apart; they read the same codes. The function computed stays the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgevit.graph.model import Graph
from edgevit.graph.rewrite import add_constant, call, replace, reshape
from edgevit.graph.shapes import shape_of

aten = torch.ops.aten
_NAMES = {2: ("k", "v"), 3: ("q", "k", "v")}


def with_split_linears(graph: Graph) -> Graph:
    """Return a copy in which ``select(reshape(linear))`` is a linear of its own per index."""
    graph = graph.clone()
    for node in list(graph.module.graph.nodes):
        if node.target is aten.linear.default and len(node.users) == 1:
            _split(graph, node)
    graph.module.graph.eliminate_dead_code()
    graph.refresh()
    return graph


def _split(graph: Graph, linear: fx.Node) -> None:
    apart = next(iter(linear.users))
    if apart.target is not aten.reshape.default:
        return
    selects = list(apart.users)
    if not selects or any(user.target is not aten.select.int for user in selects):
        return
    axes = {int(user.args[1]) for user in selects}  # type: ignore[arg-type]
    shape, axis = shape_of(apart), axes.pop()
    if axes or shape[:axis] != shape_of(linear)[:-1]:  # the axis must cut the channels only
        return
    for user in selects:
        _replace_select(graph, linear, user, shape[axis], shape[:axis] + shape[axis + 1 :])


def _replace_select(
    graph: Graph, linear: fx.Node, select: fx.Node, parts: int, shape: tuple[int, ...]
) -> None:
    x, weight, bias = _operands(linear)
    place: Any = select.args[2]
    index = int(place)
    rows = graph.constant(weight).shape[0] // parts
    part = slice(index * rows, (index + 1) * rows)
    name = _NAMES.get(parts, tuple(map(str, range(parts))))[index]
    module = f"{linear.meta.get('module', '')}.{name}"
    w = add_constant(graph.module, f"{module}_weight", graph.constant(weight)[part])
    b = add_constant(graph.module, f"{module}_bias", graph.constant(bias)[part])
    with graph.module.graph.inserting_before(select):
        alone = call(linear, aten.linear.default, x, w, b)
        alone.meta["module"] = module
        replace(select, reshape(alone, shape))


def _operands(linear: fx.Node) -> tuple[fx.Node, str, str]:
    x, weight, bias = (argument for argument in linear.args)
    values: Any = (x, weight, bias)
    return values[0], str(values[1].target), str(values[2].target)
