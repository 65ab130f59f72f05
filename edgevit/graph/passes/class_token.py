"""Writes class, distillation and register tokens as a pad and an addition.

Rules:
1. ``cat([c, x], d)`` with constants c before and after activations x -> pad x with zeros to the
   full length, add a constant that is c there and zero elsewhere. Exact: x + 0 = x, 0 + c = c.
2. Several activations between the constants are concatenated first.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgevit.graph.operators import aten
from edgevit.graph.rewrite import add_constant, call, replace
from edgevit.graph.shapes import args_of, shape_of
from edgevit.graph.tracing import constant_of


def class_token(module: GraphModule) -> int:
    """Return how many concatenations were rewritten."""
    changed = 0
    for node in list(module.graph.nodes):
        if node.target is aten.cat.default and _has_outer_constants(node):
            with module.graph.inserting_before(node):
                replace(node, _pad(module, node))
            changed += 1
    return changed


def _parts(node: Node) -> list[Any]:
    return list(args_of(node)[0])


def _has_outer_constants(node: Node) -> bool:
    is_constant = [part.op == "get_attr" for part in _parts(node)]
    changes = sum(a != b for a, b in itertools.pairwise(is_constant))
    most = int(is_constant[0]) + int(is_constant[-1])
    return any(is_constant) and not all(is_constant) and changes <= most


def _pad(module: GraphModule, node: Node) -> Node:
    dim = int(args_of(node)[1])
    parts, shape = _parts(node), shape_of(node)
    inner = [part for part in parts if part.op != "get_attr"]
    at = parts.index(inner[0])
    lengths = [sum(shape_of(p)[dim] for p in ps) for ps in (parts[:at], parts[at + len(inner) :])]
    x = inner[0] if len(inner) == 1 else call(node, aten.cat.default, inner, dim)
    pads = [0, 0] * (len(shape) - 1 - dim) + lengths
    padded = call(node, aten.constant_pad_nd.default, x, pads, 0.0)  # [B, N + tokens, C]
    single = tuple(1 if d < 0 else d for d in shape)
    token = torch.zeros(single)  # [1, N + tokens, C]
    start = 0
    for part in parts:
        length = shape_of(part)[dim]
        if part.op == "get_attr":
            token.narrow(dim, start, length).copy_(constant_of(module, part))
        start += length
    name = next(part.meta["fqn"] for part in parts if part.op == "get_attr")
    return call(node, aten.add.Tensor, padded, add_constant(module, name, token))
