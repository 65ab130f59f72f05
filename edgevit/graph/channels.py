"""Follows output channels of a linear through pure layout operators.

Channel numbers are run through the layout operators themselves, as an integer tensor for one
image: what arrives says for every element which channel it is, whatever the layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edgevit.graph.operators import LAYOUT, aten
from edgevit.graph.rewrite import constant_of
from edgevit.graph.shapes import args_of, at_batch, shape_of, target_of

if TYPE_CHECKING:
    from edgevit.graph.model import Graph
    from edgevit.graph.roles import Gemm, Site

PADDING = -1
"""Stands where a pad put a zero."""


def channels_of(graph: Graph, node_name: str) -> tuple[str, Tensor] | None:
    """Return which channel of which linear each element of a tensor is.

    Args:
        graph: A canonical graph.
        node_name: fx node name of the tensor.

    Returns:
        The linear's fx node name and int64 channels in the tensor's shape for one image
        (`PADDING` where a pad put a zero), or None when the tensor is not a pure rearrangement
        of one linear's output.
    """
    found = trace_channels(graph.module, _node(graph, node_name))
    return None if found is None else (found[0].name, found[1])


def head_channels(graph: Graph, site: Site) -> tuple[str, Tensor] | None:
    """Return the linear and the output rows that make each head of q, k or v.

    Args:
        graph: A canonical graph.
        site: A query, key or value site; its operand is [B, H, N, D] (key: [B, H, D, N]).

    Returns:
        The linear's fx node name and int64 [H, D], or None when the operand is not a pure
        rearrangement of one linear's output by whole channels.
    """
    found = channels_of(graph, site.producer)
    if found is None or found[1].ndim != 4:
        return None
    linear, channels = found
    if graph.gemm(site.gemm).kind == "qk" and site.operand == 1:
        channels = channels.transpose(-1, -2)  # [B, H, N, D]
    rows = channels[0, :, 0, :]  # [H, D]
    if not bool((channels == rows[None, :, None, :]).all()) or bool((rows < 0).any()):
        return None
    return linear, rows.contiguous()


def input_head_channels(graph: Graph, gemm: Gemm) -> tuple[str, Tensor] | None:
    """Return the linear behind P V and the input columns that each head feeds.

    Args:
        graph: A canonical graph.
        gemm: A gemm of kind "pv"; its output is [B, H, N, D].

    Returns:
        The linear's fx node name and int64 [H, D], or None when the output goes anywhere else
        or isn't rearranged by whole channels.
    """
    product = _node(graph, gemm.name)
    shape = at_batch(shape_of(product), 1)
    linear = _only_linear(product)
    if linear is None or len(shape) != 4:
        return None
    heads, width = shape[1], shape[3]
    tags = torch.arange(heads * width).reshape(1, heads, 1, width).expand(shape)  # [B, H, N, D]
    arrived = _run(graph.module, args_of(linear)[0], {product: tags})
    columns = None if arrived is None else arrived.reshape(-1, arrived.shape[-1])  # [T, in]
    if columns is None or not bool((columns == columns[:1]).all()):
        return None
    order = columns[0]  # [in]
    if not torch.equal(order.sort().values, torch.arange(heads * width)):
        return None
    return linear.name, order.argsort().reshape(heads, width)


def trace_channels(module: GraphModule, node: Node) -> tuple[Node, Tensor] | None:
    """`channels_of` on nodes, for graph passes."""
    linears = source_linears(node)
    if linears is None or len(linears) != 1:
        return None
    linear = linears.pop()
    shape = at_batch(shape_of(linear), 1)
    tags = torch.arange(shape[-1]).expand(shape)  # [..., out]
    channels = _run(module, node, {linear: tags})
    return None if channels is None else (linear, channels)


def source_linears(node: Node) -> set[Node] | None:
    """Return the linears a tensor is laid out from, None if anything else enters."""
    found: set[Node] = set()
    todo, seen = [node], {node}
    while todo:
        current = todo.pop()
        if current.target is aten.linear.default:
            found.add(current)
        elif current.target in LAYOUT:
            sources = [n for n in current.all_input_nodes if n.op != "get_attr" and n not in seen]
            seen.update(sources)
            todo += sources
        else:
            return None
    return found


def _run(module: GraphModule, node: Any, values: dict[Node, Tensor]) -> Tensor | None:
    """Run layout operators up to `node`, starting from known integer tensors."""
    if node not in values:
        if node.op == "get_attr":
            values[node] = constant_of(module, node)
        elif node.target not in LAYOUT or not _ready(module, node, values):
            return None
        else:
            args = args_of(node)
            if node.target is aten.constant_pad_nd.default:
                args = (*args[:2], PADDING)
            values[node] = target_of(node)(*map_arg(args, values.__getitem__))
    return values[node]


def _ready(module: GraphModule, node: Node, values: dict[Node, Tensor]) -> bool:
    return all(_run(module, source, values) is not None for source in node.all_input_nodes)


def _only_linear(node: Node) -> Node | None:
    """Return the linear a tensor's layout leads to, if nothing else uses it."""
    while len(node.users) == 1:
        user = next(iter(node.users))
        if user.target is aten.linear.default and args_of(user)[0] is node:
            return user
        if user.target not in LAYOUT:
            return None
        node = user
    return None


def _node(graph: Graph, name: str) -> Node:
    for node in graph.module.graph.nodes:
        if node.name == name:
            found: Node = node
            return found
    raise KeyError(name)
