"""Writes a patch embedding, a convolution whose kernel is its stride, as a linear.

Rules:
1. conv2d with kernel = stride, no padding, dilation 1, one group, on a multiple of the kernel:
   [B, C, H, W] -> reshape, permute, reshape to patches [B, N, C p p] -> linear -> [B, N, D]
   -> reshape and permute back to [B, D, H/p, W/p], which the consumers' layout then cancels.
"""

from __future__ import annotations

from torch.fx import GraphModule, Node

from edgevit.graph.operators import aten
from edgevit.graph.rewrite import add_constant, call, permute, replace, reshape
from edgevit.graph.shapes import shape_of
from edgevit.graph.tracing import constant_of
from edgevit.graph.window import convolution_arguments


def patchify(module: GraphModule) -> int:
    """Return how many convolutions were rewritten."""
    changed = 0
    for node in list(module.graph.nodes):
        if node.target is aten.conv2d.default and _is_patchify(node):
            with module.graph.inserting_before(node):
                replace(node, _linear_of_patches(module, node))
            changed += 1
    return changed


def _is_patchify(node: Node) -> bool:
    x, weight, bias, stride, padding, dilation, groups = convolution_arguments(node)
    if any(not isinstance(c, Node) or c.op != "get_attr" for c in (weight, bias)):
        return False
    kernel = shape_of(weight)[2:]
    fits = all(size % k == 0 for size, k in zip(shape_of(x)[2:], kernel, strict=True))
    plain = tuple(padding) == (0, 0) and tuple(dilation) == (1, 1) and groups == 1
    return fits and plain and tuple(stride) == kernel


def _linear_of_patches(module: GraphModule, node: Node) -> Node:
    x, weight, bias, *_ = convolution_arguments(node)
    batch, channels, height, width = shape_of(x)
    out, _, p, q = shape_of(weight)
    rows, columns = height // p, width // q
    cut = reshape(x, (batch, channels, rows, p, columns, q))  # [B, C, H/p, p, W/q, q]
    cut = permute(cut, [0, 2, 4, 1, 3, 5])  # [B, H/p, W/q, C, p, q]
    patches = reshape(cut, (batch, rows * columns, channels * p * q))  # [B, N, C p q]
    matrix = constant_of(module, weight).reshape(out, -1)  # [D, C p q]
    name = weight.meta["fqn"]
    flat = add_constant(module, name, matrix)
    tokens = call(node, aten.linear.default, patches, flat, bias)  # [B, N, D]
    grid = reshape(tokens, (batch, rows, columns, out))  # [B, H/p, W/q, D]
    return permute(grid, [0, 3, 1, 2])  # [B, D, H/p, W/q]
