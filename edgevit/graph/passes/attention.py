"""Opens scaled dot product attention into the operators it stands for.

Rules:
1. ``sdpa(q, k, v)`` -> ``softmax(matmul(q * scale, k^T) + mask) @ v``; scale is 1 / sqrt(D)
   unless given.
2. A Boolean mask becomes ``where(mask, scores, -inf)``, a causal mask an added constant.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgevit.errors import UnsupportedError
from edgevit.graph.operators import aten
from edgevit.graph.rewrite import add_constant, call, permute, replace
from edgevit.graph.shapes import args_of, shape_of

_DEFAULTS: tuple[Any, ...] = (None, 0.0, False)
_SDPA = aten.scaled_dot_product_attention.default


def open_attention(module: GraphModule) -> int:
    """Return how many attentions were opened."""
    changed = 0
    for node in list(module.graph.nodes):
        if node.target is _SDPA:
            with module.graph.inserting_before(node):
                replace(node, _open(module, node))
            changed += 1
    return changed


def _open(module: GraphModule, node: Node) -> Node:
    q, k, v, mask, dropout, causal = (*args_of(node), *_DEFAULTS[len(args_of(node)) - 3 :])
    mask = node.kwargs.get("attn_mask", mask)
    causal = node.kwargs.get("is_causal", causal)
    if node.kwargs.get("enable_gqa") or node.kwargs.get("dropout_p", dropout):
        raise _unsupported_error(node)
    query, key = shape_of(q), shape_of(k)
    scale = node.kwargs.get("scale") or 1.0 / math.sqrt(query[-1])
    rank = len(key)
    transposed = permute(k, [*range(rank - 2), rank - 1, rank - 2])
    scores = call(node, aten.matmul.default, call(node, aten.mul.Tensor, q, scale), transposed)
    if causal:
        value = torch.full((query[-2], key[-2]), -math.inf).triu(1)  # [N, N]
        mask = add_constant(module, f"{node.meta['module']}.causal_mask", value)
    if isinstance(mask, Node) and mask.meta["dtype"] == torch.bool:
        scores = call(node, aten.where.ScalarOther, mask, scores, -math.inf)
    elif isinstance(mask, Node):
        scores = call(node, aten.add.Tensor, scores, mask)
    weights = call(node, aten.softmax.int, scores, -1)  # [B, H, N, N]
    return call(node, aten.matmul.default, weights, v)  # [B, H, N, D]


def _unsupported_error(node: Node) -> UnsupportedError:
    return UnsupportedError(
        "EV316",
        "This kind of scaled_dot_product_attention has no canonical form.",
        where=node.meta.get("module") or "model",
        why="It drops attention weights or groups queries.",
        try_next="Use plain multi-head attention in evaluation mode.",
    )
