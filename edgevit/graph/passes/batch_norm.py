"""Folds batch normalisation, which in evaluation is one factor and one shift a channel.

Rules:
1. A batch normalisation of nothing but a convolution's or linear's output -> that with other
   weights: w' = w s, b' = (b - mean) s + shift with s = gain / sqrt(variance + eps).
2. Any other -> a multiplication and an addition.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

from edgevit.graph.operators import aten
from edgevit.graph.rewrite import add_constant, call, replace
from edgevit.graph.shapes import args_of, shape_of
from edgevit.graph.tracing import constant_of

_FOLDS_INTO = {aten.conv2d.default, aten.linear.default}


def batch_norm(module: GraphModule) -> int:
    """Return how many normalisations were rewritten."""
    changed = 0
    for node in list(module.graph.nodes):
        found = _normalisation(module, node)
        if found is None:
            continue
        source, scale, shift = found
        with module.graph.inserting_before(node):
            replace(node, _folded(module, node, source, scale, shift))
        changed += 1
    return changed


def _normalisation(module: GraphModule, node: Node) -> tuple[Node, Tensor, Tensor] | None:
    """Return what a node normalises, with factor and shift [C]; None if it is something else."""
    whole: Any = node
    if node.target is operator.getitem and args_of(node)[1] == 0:
        whole = args_of(node)[0]
        if whole.target is not aten._native_batch_norm_legit_no_training.default:
            return None
        x, weight, bias, mean, variance, _, epsilon = args_of(whole)
    elif node.target is aten.batch_norm.default and not args_of(node)[5]:
        x, weight, bias, mean, variance, _, _, epsilon, *_ = args_of(node)
    else:
        return None
    constants = [one for one in (weight, bias, mean, variance) if one is not None]
    if any(one.op != "get_attr" for one in constants) or mean is None:
        return None
    scale = (constant_of(module, variance).double() + epsilon).rsqrt()  # [C]
    if weight is not None:
        scale = scale * constant_of(module, weight).double()
    shift = -constant_of(module, mean).double() * scale
    if bias is not None:
        shift = shift + constant_of(module, bias).double()
    return x, scale, shift


def _folded(module: GraphModule, node: Node, x: Node, scale: Tensor, shift: Tensor) -> Node:
    axis = 1 - len(shape_of(x))  # of the channels, from the end
    on_channels = x.target is aten.conv2d.default or axis == -1
    if x.target in _FOLDS_INTO and on_channels and len(x.users) == 1 and _is_constant(x):
        return _into_weights(module, x, scale, shift)
    sizes = [-1] + [1] * (-axis - 1)
    path = f"{node.meta.get('module', '')}.norm"
    factor = add_constant(module, f"{path}_scale", scale.reshape(sizes))  # [C, 1, 1]
    offset = add_constant(module, f"{path}_shift", shift.reshape(sizes))
    return call(node, aten.add.Tensor, call(node, aten.mul.Tensor, x, factor), offset)


def _is_constant(x: Node) -> bool:
    """Return whether weight and bias of a product are constants."""
    operands = [one for one in args_of(x)[1:3] if one is not None]
    return all(isinstance(one, Node) and one.op == "get_attr" for one in operands)


def _into_weights(module: GraphModule, x: Node, scale: Tensor, shift: Tensor) -> Node:
    _, weight, *rest = args_of(x)
    value = constant_of(module, weight).double()  # [out, ...]
    bias = constant_of(module, rest[0]).double() if rest and rest[0] is not None else 0.0
    value = value * scale.reshape(-1, *[1] * (value.ndim - 1))
    stem = str(weight.meta["fqn"])
    new = add_constant(module, stem, value)
    offset = add_constant(module, f"{stem}.bias", bias * scale + shift)
    with module.graph.inserting_before(x):
        return call(x, x.target, args_of(x)[0], new, offset, *rest[1:], **x.kwargs)  # type: ignore[arg-type]
