"""Writes class, distillation and register tokens as a pad and an addition.

Rules:
1. ``cat([c, x], d)`` with constants c before, between and after activations x -> each x padded with
   zeros in place of the constants next to it, these concatenated, and a constant added that is c
   there and zero elsewhere. Exact: x + 0 = x, 0 + c = c.
2. Several activations between the constants are concatenated first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgevit.graph.operators import aten
from edgevit.graph.rewrite import add_constant, call, replace, reshape
from edgevit.graph.shapes import args_of, shape_of
from edgevit.graph.tracing import constant_of


def class_token(module: GraphModule) -> int:
    """Return how many concatenations were rewritten."""
    changed = 0
    for node in list(module.graph.nodes):
        if node.target is aten.cat.default and _has_constants(node):
            with module.graph.inserting_before(node):
                replace(node, _pad(module, node))
            changed += 1
    return changed


def _parts(node: Node) -> list[Any]:
    return list(args_of(node)[0])


def _has_constants(node: Node) -> bool:
    is_constant = [part.op == "get_attr" for part in _parts(node)]
    return any(is_constant) and not all(is_constant)


def _pad(module: GraphModule, node: Node) -> Node:
    dim, shape = int(args_of(node)[1]), shape_of(node)
    parts = _parts(node)
    runs = _padded(node, parts, dim)
    x = runs[0] if len(runs) == 1 else call(node, aten.cat.default, runs, dim)
    token = torch.zeros([abs(size) for size in shape])  # [1, N + tokens, C]
    start = 0
    for part in parts:
        length = shape_of(part)[dim]
        if part.op == "get_attr":
            token.narrow(dim, start, length).copy_(constant_of(module, part))
        start += length
    name = next(part.meta["fqn"] for part in parts if part.op == "get_attr")
    return _sum(module, node, x, token, name)


def _sum(module: GraphModule, node: Node, x: Node, token: Tensor, name: str) -> Node:
    """Add what is the same for every image; of [k B, N, C] every image has k."""
    shape = shape_of(x)
    axis = next((axis for axis, size in enumerate(shape) if size < -1), None)
    if axis is None:
        return call(node, aten.add.Tensor, x, add_constant(module, name, token))
    apart = reshape(x, (*shape[:axis], -1, -shape[axis], *shape[axis + 1 :]))  # [B, k, N, C]
    constant = add_constant(module, name, token.unsqueeze(axis))
    return reshape(call(node, aten.add.Tensor, apart, constant), shape)


def _padded(node: Node, parts: list[Any], dim: int) -> list[Node]:
    """Return the activations, each with zeros in place of the constants next to it."""
    found: list[list[Any]] = []  # zeros before, activations, zeros behind
    before = 0
    for part in parts:
        length = shape_of(part)[dim]
        if part.op != "get_attr":
            if found and not found[-1][2]:
                found[-1][1].append(part)
            else:
                found.append([before, [part], 0])
            before = 0
        elif found:
            found[-1][2] += length
        else:
            before += length
    return [_zeros(node, first, xs, last, dim) for first, xs, last in found]


def _zeros(node: Node, before: int, parts: list[Node], behind: int, dim: int) -> Node:
    x = parts[0] if len(parts) == 1 else call(node, aten.cat.default, parts, dim)
    if not before and not behind:
        return x
    pads = [0, 0] * (len(shape_of(x)) - 1 - dim) + [before, behind]
    return call(node, aten.constant_pad_nd.default, x, pads, 0.0)
