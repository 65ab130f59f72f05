"""Folds multiplications by constants into the linear that makes the tensor.

Rules:
1. ``y * c`` where y is a pure rearrangement of one linear's output, c is the same for all tokens
   of a channel and nobody else reads those channels: weight rows and bias are multiplied instead.
   This takes the query scale and LayerScale out of the graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgevit.graph.operators import aten
from edgevit.graph.rewrite import add_constant, replace
from edgevit.graph.shapes import args_of, shape_of
from edgevit.graph.tracing import constant_of, readers_of, trace_channels


def fold_scale(module: GraphModule) -> int:
    """Return how many multiplications were folded."""
    changed = 0
    for node in list(module.graph.nodes):
        if node.target in {aten.mul.Tensor, aten.div.Tensor} and not node.kwargs:
            changed += _fold(module, node)
    return changed


def _fold(module: GraphModule, node: Node) -> int:
    tensor, factor = args_of(node)[0], _factor(module, node)
    if factor is None or not isinstance(tensor, Node) or shape_of(tensor) != shape_of(node):
        return 0
    found = trace_channels(module, tensor)
    if found is None:
        return 0
    linear, channels = found
    rows = _rows(channels, factor, shape_of(linear)[-1])
    if rows is None or _others_read(module, linear, node, channels):
        return 0
    for at, shape in ((1, (-1, 1)), (2, (-1,))):
        old: Any = args_of(linear)[at]
        scaled = constant_of(module, old) * rows.reshape(shape)
        linear.update_arg(at, add_constant(module, old.meta["fqn"], scaled))
    replace(node, tensor)
    return 1


def _factor(module: GraphModule, node: Node) -> Tensor | None:
    value = args_of(node)[1]
    if isinstance(value, Node):
        if value.op != "get_attr":
            return None
        factor = constant_of(module, value)
    else:
        factor = torch.tensor(float(value), dtype=torch.float64)
    return factor.double() if node.target is aten.mul.Tensor else 1.0 / factor.double()


def _rows(channels: Tensor, factor: Tensor, width: int) -> Tensor | None:
    """Return float64 [out], the factor of every output channel, None if it varies in one."""
    spread = factor.expand(channels.shape)
    inside = channels >= 0
    rows = torch.ones(width, dtype=torch.float64)
    rows[channels[inside]] = spread[inside]
    return rows if torch.equal(rows[channels[inside]], spread[inside]) else None


def _others_read(module: GraphModule, linear: Node, node: Node, channels: Tensor) -> bool:
    """Return whether any other user than `node` sees one of these channels of the linear."""
    mine = torch.zeros(shape_of(linear)[-1], dtype=torch.bool)
    mine[channels[channels >= 0]] = True
    for reader, tensor in readers_of(linear):
        if reader is not node:
            found = trace_channels(module, tensor)
            if found is None or bool(mine[found[1][found[1] >= 0]].any()):
                return True
    return False
