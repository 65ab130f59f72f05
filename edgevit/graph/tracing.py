"""Walks through pure layout operators: where a tensor comes from and where its channels go.

Channel numbers are run through the layout operators themselves, as an integer tensor for one
image: what arrives says for every element which channel it is, whatever the layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edgevit.graph.operators import LAYOUT, aten
from edgevit.graph.shapes import args_of, at_batch, shape_of, target_of

PADDING = -1
"""Stands where a pad put a zero."""
MIXED = -2
"""Stands where a mean mixed several channels."""
MOVING = LAYOUT | {aten.mean.dim}
"""Operators that channel numbers can be run through; a mean over tokens keeps channels."""


def sources_of(node: Any, through: frozenset[Any] = LAYOUT) -> set[Node]:
    """Return the operators (or the image) that a tensor is laid out from."""
    found: set[Node] = set()
    todo: list[Node] = [node]
    seen = {node}
    while todo:
        current = todo.pop()
        if current.target not in through:
            found.add(current)
            continue
        sources = [n for n in current.all_input_nodes if n.op != "get_attr" and n not in seen]
        seen.update(sources)
        todo += sources
    return found


def readers_of(node: Node, through: frozenset[Any] = LAYOUT) -> Iterator[tuple[Node, Node]]:
    """Yield (operator, the tensor it reads) for all that read a tensor behind its layout."""
    todo, seen = [node], {node}
    while todo:
        current = todo.pop()
        for user in current.users:
            if user.target not in through:
                yield user, current
            elif user not in seen:
                seen.add(user)
                todo.append(user)


def channel_numbers(node: Node) -> Tensor:
    """Return int64 [..., C]: the output of a node for one image, each element its channel."""
    shape = at_batch(shape_of(node), 1)
    return torch.arange(shape[-1]).expand(shape)  # [..., C]


def run_layout(module: GraphModule, node: Any, values: dict[Node, Tensor]) -> Tensor | None:
    """Run layout operators up to `node` on integer tensors.

    Args:
        module: The graph.
        node: Where to stop.
        values: Node -> integers to start from; filled with what is computed on the way.

    Returns:
        The integers that arrive at `node`; None if anything else than layout is on the way.
    """
    if node in values:
        return values[node]
    if node.op == "get_attr":
        return constant_of(module, node)
    if node.target not in MOVING:
        return None
    found = {source: run_layout(module, source, values) for source in node.all_input_nodes}
    if any(value is None for value in found.values()):
        return None
    values[node] = move(node, found)
    return values[node]


def move(node: Node, inputs: dict[Node, Any]) -> Tensor:
    """Return a layout operator's output for integers in place of each node that it reads."""
    args = map_arg(args_of(node), inputs.__getitem__)
    if node.target is aten.mean.dim:
        low, high = args[0].amin(args[1]), args[0].amax(args[1])
        return torch.where(low == high, low, MIXED)
    if node.target is aten.constant_pad_nd.default:
        args = (*args[:2], PADDING)
    moved: Tensor = target_of(node)(*args)
    return moved


def trace_channels(module: GraphModule, node: Node) -> tuple[Node, Tensor] | None:
    """Return the one linear a tensor is laid out from, and the channel of each element.

    Returns:
        The linear and int64 in the tensor's shape for one image (`PADDING` where a pad put a
        zero), or None when the tensor is anything else.
    """
    sources = sources_of(node)
    if len(sources) != 1:
        return None
    linear = sources.pop()
    if linear.target is not aten.linear.default:
        return None
    channels = run_layout(module, node, {linear: channel_numbers(linear)})
    return None if channels is None else (linear, channels)


def constant_of(module: GraphModule, node: Node) -> Tensor:
    """Return the constant a get_attr node stands for."""
    return module.get_buffer(str(node.target))
