"""Emitters of operators that move values: reshape, permute, slice, pad and their kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from edgevit.errors import UnsupportedError
from edgevit.graph.shapes import args_of, arguments_of
from edgevit.targets.onnx.context import LAST, Emitter, Lowering

aten = torch.ops.aten


def _reshape(context: Lowering, node: fx.Node) -> None:
    shape = context.integers("shape", list(context.shapes[node.name]))
    context.builder.add("Reshape", [context.operand(args_of(node)[0]), shape], node.name)


def _permute(context: Lowering, node: fx.Node) -> None:
    rank = context.rank(node)
    order = [axis % rank for axis in args_of(node)[1]]
    context.builder.add("Transpose", [context.operand(args_of(node)[0])], node.name, perm=order)


def _slice(context: Lowering, node: fx.Node) -> None:
    x, dim, start, end, step = arguments_of(node, input=None, dim=0, start=None, end=None, step=1)
    bounds = [0 if start is None else start, LAST if end is None else min(end, LAST), dim, step]
    names = [context.integers("index", [value]) for value in bounds]
    context.builder.add("Slice", [context.operand(x), *names], node.name)


def _select(context: Lowering, node: fx.Node) -> None:
    x, dim, index = args_of(node)
    name = context.builder.constant(f"select_{index}", np.int64(index))
    context.builder.add("Gather", [context.operand(x), name], node.name, axis=dim)


def _cat(context: Lowering, node: fx.Node) -> None:
    tensors, dim = arguments_of(node, tensors=None, dim=0)
    context.builder.add("Concat", [context.operand(x) for x in tensors], node.name, axis=dim)


def _pad(context: Lowering, node: fx.Node) -> None:
    x, amounts = args_of(node)[0], list(args_of(node)[1])
    value = float(args_of(node)[2]) if len(args_of(node)) > 2 else 0.0
    rank = context.rank(node)
    before, after = [0] * rank, [0] * rank
    for pair in range(len(amounts) // 2):  # ATen lists the last axis first
        before[rank - 1 - pair], after[rank - 1 - pair] = amounts[2 * pair : 2 * pair + 2]
    pads = context.integers("pads", before + after)
    inputs = [context.operand(x), pads, context.operand(value)]
    context.builder.add("Pad", inputs, node.name)


def _roll(context: Lowering, node: fx.Node) -> None:
    """Roll axis by axis: the last `shift` entries come first."""
    x, shifts, dims = arguments_of(node, input=None, shifts=None, dims=())
    name = context.operand(x)
    for step, (shift, dim) in enumerate(zip(shifts, dims, strict=True)):
        size = context.shapes[node.name][dim]
        order = np.roll(np.arange(size), shift)
        index = context.builder.constant(f"roll_{size}_{shift}", order.astype(np.int64))
        last = step == len(dims) - 1
        output = node.name if last else f"{node.name}_{step}"
        name = context.builder.add("Gather", [name, index], output, axis=dim)


def _index(context: Lowering, node: fx.Node) -> None:
    indices = args_of(node)[1]
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    if len(axes) != 1:
        raise UnsupportedError(
            "EV314",
            "Indexing along more than one axis has no ONNX form here.",
            where=str(node.meta.get("module") or node.name),
            why="Only a gather along one axis is written.",
            try_next="Index one axis at a time in the model.",
        )
    inputs = [context.operand(args_of(node)[0]), context.operand(indices[axes[0]])]
    context.builder.add("Gather", inputs, node.name, axis=axes[0])


def _index_select(context: Lowering, node: fx.Node) -> None:
    x, dim, index = args_of(node)
    inputs = [context.operand(x), context.operand(index)]
    context.builder.add("Gather", inputs, node.name, axis=dim)


def _expand(context: Lowering, node: fx.Node) -> None:
    """Write Expand; a dimension of 1 in its shape leaves that of the input as it is."""
    sizes = [1 if size < 0 else size for size in context.shapes[node.name]]
    inputs = [context.operand(args_of(node)[0]), context.integers("shape", sizes)]
    context.builder.add("Expand", inputs, node.name)


EMITTERS: dict[Any, Emitter] = {
    aten.reshape.default: _reshape,
    aten.permute.default: _permute,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.cat.default: _cat,
    aten.constant_pad_nd.default: _pad,
    aten.roll.default: _roll,
    aten.index.Tensor: _index,
    aten.index_select.default: _index_select,
    aten.expand.default: _expand,
}
