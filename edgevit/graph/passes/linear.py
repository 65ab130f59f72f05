"""Writes every product with a constant matrix as linear with a bias.

Rules:
1. ``x @ c``, ``mm`` and ``addmm`` with a constant matrix [in, out] -> linear with its transpose.
2. A linear, or a convolution in one group, without a bias gets one of zeros: calibration corrects
   biases.
3. bmm and matmul of two activations are matmul.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgevit.graph.operators import aten
from edgevit.graph.rewrite import add_constant, call, replace
from edgevit.graph.shapes import args_of, shape_of
from edgevit.graph.tracing import constant_of
from edgevit.graph.window import convolution_arguments

_MATMULS = {aten.matmul.default, aten.mm.default, aten.bmm.default}


def linear(module: GraphModule) -> int:
    """Return how many products were rewritten."""
    changed = 0
    for node in list(module.graph.nodes):
        with module.graph.inserting_before(node):
            new = _rewritten(module, node)
        if new is not None:
            replace(node, new)
            changed += 1
    return changed


def _rewritten(module: GraphModule, node: Node) -> Node | None:
    if node.target in _MATMULS:
        x, right = args_of(node)
        if _is_matrix(right):
            return _linear(module, node, x, right, None)
        return (
            None
            if node.target is aten.matmul.default
            else call(node, aten.matmul.default, x, right)
        )
    if node.target is aten.addmm.default and not node.kwargs and _is_matrix(args_of(node)[2]):
        bias = args_of(node)[0]
        if isinstance(bias, Node) and bias.op == "get_attr" and len(shape_of(bias)) == 1:
            return _linear(
                module, node, args_of(node)[1], args_of(node)[2], constant_of(module, bias)
            )
    if node.target is aten.linear.default and (len(args_of(node)) < 3 or args_of(node)[2] is None):
        x, weight = args_of(node)[:2]
        if isinstance(weight, Node) and weight.op == "get_attr":
            zeros = torch.zeros(shape_of(weight)[0])
            return call(node, aten.linear.default, x, weight, _bias(module, weight, zeros))
    if node.target is aten.conv2d.default:
        x, weight, bias, *rest, groups = convolution_arguments(node)
        if bias is None and groups == 1 and weight.op == "get_attr":
            nothing = _bias(module, weight, torch.zeros(shape_of(weight)[0]))
            return call(node, aten.conv2d.default, x, weight, nothing, *rest)
    return None


def _is_matrix(node: object) -> bool:
    return isinstance(node, Node) and node.op == "get_attr" and len(shape_of(node)) == 2


def _linear(module: GraphModule, node: Node, x: object, right: object, bias: Tensor | None) -> Node:
    assert isinstance(right, Node)
    matrix = constant_of(module, right)  # [in, out]
    weight = add_constant(module, right.meta["fqn"], matrix.T)  # [out, in]
    bias = torch.zeros(matrix.shape[1]) if bias is None else bias
    return call(node, aten.linear.default, x, weight, _bias(module, weight, bias))


def _bias(module: GraphModule, weight: Node, value: Tensor) -> Node:
    stem = str(weight.meta["fqn"])
    name = stem[: -len("weight")] + "bias" if stem.endswith("weight") else f"{stem}.bias"
    return add_constant(module, name, value)
