"""Finds the residual streams that can be rotated: all that writes to them, all that reads them.

A rotation of the channels is undone only by constants on both sides: rows of the linears that
write, columns of those that read, and LayerNorms in between whose affine the readers take over
(Ashkboos et al., SliceGPT, arXiv 2401.15024, and QuaRot, arXiv 2404.00456, for RMSNorm).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from edgevit.graph.layernorm import LayerNormFeed, ln_of
from edgevit.graph.model import Graph
from edgevit.graph.operators import aten
from edgevit.graph.shapes import args_of, shape_of
from edgevit.graph.tracing import MOVING, PADDING, channel_numbers, constant_of, move


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Tensors with the same channels, added up and laid out but never mixed.

    Args:
        channels: C, how many there are.
        writers: fx node names of the linears whose outputs [..., C] it is the sum of.
        tables: Names of the constants [..., C] added to it, such as position embeddings.
        feeds: The LayerNorms that read it, over C channels or several tokens' side by side.
        readers: fx node names of the linears that read it as it is.
    """

    channels: int
    writers: tuple[str, ...]
    tables: tuple[str, ...]
    feeds: tuple[LayerNormFeed, ...]
    readers: tuple[str, ...]


def find_streams(graph: Graph) -> list[Stream]:
    """Return every stream, each of which one orthogonal matrix can rotate, in execution order."""
    order = list(graph.module.graph.nodes)
    feeds = {feed.ln: feed for gemm in graph.gemms if (feed := ln_of(graph, gemm)) is not None}
    found: list[Stream] = []
    seen: set[Node] = set()
    for node in order:
        if node.name not in feeds or args_of(node)[0] in seen:
            continue
        tensors = _connected(args_of(node)[0])
        seen |= tensors
        stream = _stream(graph, [n for n in order if n in tensors], feeds)
        if stream is not None:
            found.append(stream)
    return found


def _is_sum(node: Node) -> bool:
    return node.target is aten.add.Tensor and all(isinstance(n, Node) for n in args_of(node)[:2])


def _moves(node: Node) -> bool:
    return node.target in MOVING or _is_sum(node)


def _is_index(node: Node) -> bool:
    """Return whether a node is a constant of numbers of tokens, as gathers read them."""
    return node.op == "get_attr" and not node.meta["dtype"].is_floating_point


def _connected(start: Node) -> set[Node]:
    """Return all tensors that sums and layout join with `start`, in both directions."""
    todo, found = [start], {start}
    while todo:
        node = todo.pop()
        before = [n for n in node.all_input_nodes if not _is_index(n)] if _moves(node) else []
        for other in (*before, *(user for user in node.users if _moves(user))):
            if other not in found:
                found.add(other)
                todo.append(other)
    return found


def _stream(graph: Graph, tensors: list[Node], feeds: dict[str, LayerNormFeed]) -> Stream | None:
    """Return the stream that these tensors, in execution order, are; None if it mixes channels."""
    linears = {gemm.name for gemm in graph.gemms if gemm.kind == "linear"}
    writers = [node for node in tensors if node.name in linears]
    tables = [node for node in tensors if node.op == "get_attr"]
    sources = {*writers, *tables}
    if not writers or any(node not in sources and not _moves(node) for node in tensors):
        return None
    channels = shape_of(writers[0])[-1]
    if not _in_order(graph, tensors, sources, channels):
        return None
    inside = set(tensors)
    readers = [user for node in tensors for user in node.users if user not in inside]
    norms = [feeds.get(user.name) for user in readers if user.name not in linears]
    plain = [user for user in readers if user.name in linears and args_of(user)[0] in inside]
    if None in norms or len(norms) + len(plain) != len(readers):
        return None
    if not all(_alone(node, graph) for node in tables):
        return None
    return Stream(
        channels=channels,
        writers=tuple(node.name for node in writers),
        tables=tuple(str(node.target) for node in tables),
        feeds=tuple({feed.ln: feed for feed in norms if feed is not None}.values()),
        readers=tuple(dict.fromkeys(node.name for node in plain)),
    )


def _in_order(graph: Graph, tensors: list[Node], sources: set[Node], channels: int) -> bool:
    """Return whether the last axis of every tensor is all the channels in order, maybe repeated.

    Tokens that a pad put there are zero, and stay zero in whatever direction the channels turn.
    """
    numbers: dict[Node, Tensor] = {}
    for node in tensors:
        if node in sources:
            if len(shape_of(node)) < 1 or shape_of(node)[-1] != channels:
                return False
            numbers[node] = channel_numbers(node)
        elif node.target in MOVING:
            indices = [source for source in node.all_input_nodes if _is_index(source)]
            places = {source: constant_of(graph.module, source) for source in indices}
            numbers[node] = move(node, numbers | places)
        else:
            one, other = (numbers[source] for source in args_of(node)[:2])
            clash = (one != other) & (one != PADDING) & (other != PADDING)
            if bool(clash.any()) or node.kwargs:
                return False
            numbers[node] = torch.maximum(one, other)
        if not _whole(numbers[node], channels):
            return False
    return True


def _whole(numbers: Tensor, channels: int) -> bool:
    width = numbers.shape[-1] if numbers.ndim else 0
    if width == 0 or width % channels:
        return False
    wanted = torch.arange(channels).repeat(width // channels)
    return bool(((numbers == wanted) | (numbers == PADDING).all(-1, keepdim=True)).all())


def _alone(constant: Node, graph: Graph) -> bool:
    """Return whether a constant is read once: who changes it changes nothing else."""
    readers = [
        user
        for node in graph.module.graph.nodes
        if node.op == "get_attr" and node.target == constant.target
        for user in node.users
    ]
    return len(readers) == 1
