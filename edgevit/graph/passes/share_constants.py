"""Gives every weight one owner and every other constant one copy.

Rules:
1. Weights and biases of linear, convolution and normalisation belong to one operator: a second
   user (tied weights) gets a copy, so that calibration can change one layer alone.
2. All other constants with identical content, such as Swin's masks, are stored once.
"""

from __future__ import annotations

import hashlib

from torch import Tensor
from torch.fx import GraphModule, Node

from edgevit.graph.operators import aten
from edgevit.graph.rewrite import add_constant, replace
from edgevit.graph.tracing import constant_of

_OWNERS = {
    aten.linear.default,
    aten.conv2d.default,
    aten.layer_norm.default,
    aten.group_norm.default,
    aten.batch_norm.default,
}


def share_constants(module: GraphModule) -> int:
    """Return how many constants were copied or merged."""
    changed = 0
    first: dict[tuple[object, ...], Node] = {}
    for node in [n for n in module.graph.nodes if n.op == "get_attr"]:
        owners = [user for user in node.users if user.target in _OWNERS]
        spared = len(node.users) == len(owners)
        for user in owners[1:] if spared else owners:
            copied = add_constant(module, node.meta["fqn"], constant_of(module, node))
            user.replace_input_with(node, copied)
            changed += 1
        if not owners or not spared:
            key = _key(constant_of(module, node))
            if key in first:
                replace(node, first[key])
                changed += 1
            first.setdefault(key, node)
    return changed


def _key(value: Tensor) -> tuple[object, ...]:
    content = hashlib.sha256(value.contiguous().numpy().tobytes()).digest()
    return (value.dtype, tuple(value.shape), content)
