"""Finds the channels of linears that make each attention head, and the columns each head feeds.

Calibration rescales heads with it: rows of the linear in front, columns of the one behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.fx import Node

from edgevit.graph.operators import aten
from edgevit.graph.shapes import args_of, at_batch, shape_of
from edgevit.graph.tracing import readers_of, run_layout, trace_channels

if TYPE_CHECKING:
    from edgevit.graph.model import Graph
    from edgevit.graph.roles import Gemm, Site


def channels_of(graph: Graph, node_name: str) -> tuple[str, Tensor] | None:
    """Return which channel of which linear each element of a tensor is.

    Args:
        graph: A canonical graph.
        node_name: fx node name of the tensor.

    Returns:
        The linear's fx node name and int64 channels in the tensor's shape for one image
        (`tracing.PADDING` where a pad put a zero), or None when the tensor is not a pure
        rearrangement of one linear's output.
    """
    found = trace_channels(graph.module, _node(graph, node_name))
    return None if found is None else (found[0].name, found[1])


def head_channels(graph: Graph, site: Site, *, shared: bool = False) -> tuple[str, Tensor] | None:
    """Return the linear and the output rows that make each head of q, k or v.

    Args:
        graph: A canonical graph.
        site: A query, key or value site; its operand is [B, H, N, D] (key: [B, H, D, N]).
        shared: Also where another operator reads these channels: who rescales them must not.

    Returns:
        The linear's fx node name and int64 [H, D], or None when the operand is not a pure
        rearrangement of one linear's output by whole channels, or something else reads them.
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
    if len(torch.unique(rows)) < rows.numel():  # heads that share rows are rescaled together
        return None
    if not shared and not _read_alone(graph, linear, rows, site.gemm):
        return None
    return linear, rows.contiguous()


def _read_alone(graph: Graph, linear: str, rows: Tensor, gemm: str) -> bool:
    """Return whether no operator but one product reads these channels of a linear."""
    for reader, tensor in readers_of(_node(graph, linear)):
        if reader.name == gemm:
            continue
        found = trace_channels(graph.module, tensor)
        if found is None or bool(torch.isin(found[1], rows).any()):
            return False
    return True


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
    readers = list(readers_of(product))
    if len(readers) != 1 or readers[0][0].target is not aten.linear.default or len(shape) != 4:
        return None
    linear, heads, width = readers[0][0], shape[1], shape[3]
    numbers = torch.arange(heads * width).reshape(1, heads, 1, width).expand(shape)  # [B, H, N, D]
    arrived = run_layout(graph.module, args_of(linear)[0], {product: numbers})
    columns = None if arrived is None else arrived.reshape(-1, arrived.shape[-1])  # [T, in]
    if columns is None or not bool((columns == columns[:1]).all()):
        return None
    order = columns[0]  # [in]
    if not torch.equal(order.sort().values, torch.arange(heads * width)):
        return None
    return linear.name, order.argsort().reshape(heads, width)


def _node(graph: Graph, name: str) -> Node:
    for node in graph.module.graph.nodes:
        if node.name == name:
            found: Node = node
            return found
    raise KeyError(name)
