"""Canonical ATen graph to ONNX, one operator at a time.

Products (linear, matmul) are written by a `ProductWriter`, which is where a target's number
grids come in; everything else is the same float32 operator in every lowering.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, fx

from edgevit.errors import UnsupportedError
from edgevit.graph.model import Gemm, Graph
from edgevit.targets.onnx_builder import OnnxBuilder
from edgevit.targets.shapes import Shapes, shapes_of

aten = torch.ops.aten


class ProductWriter(Protocol):
    """Writes one product into the ONNX model."""

    def write(self, context: Lowering, gemm: Gemm, operands: list[str], output: str) -> None:
        """Emit nodes that compute `output` from the operands' ONNX names."""


@dataclass(kw_only=True)
class Lowering:
    """The state of one lowering.

    Args:
        graph: What is lowered.
        builder: Where nodes and constants go.
        shapes: fx node name -> shape, -1 for the dimension that follows the batch.
    """

    graph: Graph
    builder: OnnxBuilder
    shapes: Shapes
    gemms: dict[str, Gemm] = field(default_factory=dict)

    def operand(self, value: Any) -> str:
        """Return the ONNX name of an operand: a node's output, or a scalar constant."""
        if isinstance(value, fx.Node):
            if value.op == "get_attr":
                tensor = self.graph.constant(str(value.target))
                return self.builder.constant(str(value.target), array_of(tensor))
            return value.name
        scalar = np.float32(value)
        return self.builder.constant(f"scalar_{float(value)!r}", scalar)

    def integers(self, stem: str, values: list[int]) -> str:
        """Return the name of an int64 constant [len(values)]."""
        return self.builder.constant(f"{stem}_{'_'.join(map(str, values))}", np.int64(values))

    def rank(self, node: fx.Node) -> int:
        """Return the number of dimensions of a node's output."""
        return len(self.shapes[node.name])


def array_of(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Return a contiguous numpy copy of a constant."""
    return tensor.detach().contiguous().numpy().copy()


def lower_graph(graph: Graph, writer: ProductWriter) -> OnnxBuilder:
    """Write the whole graph and return the builder; the last node writes "logits"."""
    context = Lowering(graph=graph, builder=OnnxBuilder(), shapes=shapes_of(graph))
    context.gemms = {gemm.name: gemm for gemm in graph.gemms}
    for node in graph.module.graph.nodes:
        if node.op == "call_function":
            _lower_node(context, node, writer)
        elif node.op == "output":
            result = node.args[0][0] if isinstance(node.args[0], (tuple, list)) else node.args[0]
            context.builder.add("Identity", [result.name], "logits")
    return context.builder


def _lower_node(context: Lowering, node: fx.Node, writer: ProductWriter) -> None:
    gemm = context.gemms.get(node.name)
    if gemm is not None:
        count = 1 if gemm.weight is not None else 2
        writer.write(context, gemm, [context.operand(a) for a in node.args[:count]], node.name)
        return
    emit = OPERATORS.get(node.target)
    if emit is None:
        raise UnsupportedError(
            "EV302",
            f"The operator {node.target} can't be written for this target.",
            where=str(node.meta.get("module") or node.name),
            why="EdgeViT has no exact ONNX form for it.",
            try_next="Replace it in the model by operators ViT, DeiT or Swin use, or report it.",
        )
    emit(context, node)


def _binary(op: str) -> Callable[[Lowering, fx.Node], None]:
    def emit(context: Lowering, node: fx.Node) -> None:
        if node.kwargs.get("alpha", 1) != 1 or node.kwargs.get("rounding_mode") is not None:
            raise UnsupportedError(
                "EV302",
                f"{node.target} with {dict(node.kwargs)} has no ONNX form here.",
                where=str(node.meta.get("module") or node.name),
                why="Only the plain form is written.",
                try_next="Write the factor as a separate multiplication in the model.",
            )
        context.builder.add(op, [context.operand(a) for a in node.args[:2]], node.name)

    return emit


def _unary(op: str) -> Callable[[Lowering, fx.Node], None]:
    def emit(context: Lowering, node: fx.Node) -> None:
        context.builder.add(op, [context.operand(node.args[0])], node.name)

    return emit


def _softmax(context: Lowering, node: fx.Node) -> None:
    context.builder.add("Softmax", [context.operand(node.args[0])], node.name, axis=node.args[1])


def _layer_norm(context: Lowering, node: fx.Node) -> None:
    x, normalized, weight, bias, *rest = [*node.args, *[None] * (5 - len(node.args))]
    epsilon = rest[0] if rest and rest[0] is not None else node.kwargs.get("eps", 1e-5)
    inputs = [context.operand(value) for value in (x, weight, bias) if value is not None]
    context.builder.add(
        "LayerNormalization", inputs, node.name, axis=-len(normalized), epsilon=float(epsilon)
    )


def _gelu(context: Lowering, node: fx.Node) -> None:
    approximate = node.kwargs.get("approximate", "none")
    context.builder.add("Gelu", [context.operand(node.args[0])], node.name, approximate=approximate)


def _reshape(context: Lowering, node: fx.Node) -> None:
    shape = context.integers("shape", list(context.shapes[node.name]))
    context.builder.add("Reshape", [context.operand(node.args[0]), shape], node.name)


def _permute(context: Lowering, node: fx.Node) -> None:
    rank = context.rank(node)
    order = [axis % rank for axis in node.args[1]]
    context.builder.add("Transpose", [context.operand(node.args[0])], node.name, perm=order)


def _slice(context: Lowering, node: fx.Node) -> None:
    x, dim, start, end, step = [*node.args, *[None, 0, None, None, 1][len(node.args) :]]
    bounds = [0 if start is None else start, (1 << 62) if end is None else end, dim, step or 1]
    names = [context.integers("index", [value]) for value in bounds]
    context.builder.add("Slice", [context.operand(x), *names], node.name)


def _select(context: Lowering, node: fx.Node) -> None:
    x, dim, index = node.args
    name = context.builder.constant(f"select_{index}", np.int64(index))
    context.builder.add("Gather", [context.operand(x), name], node.name, axis=dim)


def _cat(context: Lowering, node: fx.Node) -> None:
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    context.builder.add("Concat", [context.operand(a) for a in node.args[0]], node.name, axis=dim)


def _pad(context: Lowering, node: fx.Node) -> None:
    x, amounts = node.args[0], list(node.args[1])
    value = float(node.args[2]) if len(node.args) > 2 else 0.0
    rank = context.rank(node)
    before, after = [0] * rank, [0] * rank
    for pair in range(len(amounts) // 2):  # ATen lists the last axis first
        before[rank - 1 - pair], after[rank - 1 - pair] = amounts[2 * pair : 2 * pair + 2]
    pads = context.integers("pads", before + after)
    inputs = [context.operand(x), pads, context.operand(value)]
    context.builder.add("Pad", inputs, node.name)


def _roll(context: Lowering, node: fx.Node) -> None:
    """Roll axis by axis: the last `shift` entries come first."""
    name = context.operand(node.args[0])
    shifts, dims = list(node.args[1]), list(node.args[2])
    for step, (shift, dim) in enumerate(zip(shifts, dims, strict=True)):
        size = context.shapes[node.name][dim]
        order = np.roll(np.arange(size), shift)
        index = context.builder.constant(f"roll_{size}_{shift}", order.astype(np.int64))
        last = step == len(dims) - 1
        output = node.name if last else f"{node.name}_{step}"
        name = context.builder.add("Gather", [name, index], output, axis=dim)


def _mean(context: Lowering, node: fx.Node) -> None:
    keep = bool(node.args[2]) if len(node.args) > 2 else bool(node.kwargs.get("keepdim", False))
    axes = context.integers("axes", list(node.args[1]))
    inputs = [context.operand(node.args[0]), axes]
    context.builder.add("ReduceMean", inputs, node.name, keepdims=int(keep))


def _index(context: Lowering, node: fx.Node) -> None:
    indices = node.args[1]
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    if len(axes) != 1:
        raise UnsupportedError(
            "EV302",
            "Indexing along more than one axis has no ONNX form here.",
            where=str(node.meta.get("module") or node.name),
            why="Only a gather along one axis is written.",
            try_next="Index one axis at a time in the model.",
        )
    inputs = [context.operand(node.args[0]), context.operand(indices[axes[0]])]
    context.builder.add("Gather", inputs, node.name, axis=axes[0])


def _index_select(context: Lowering, node: fx.Node) -> None:
    x, dim, index = node.args
    inputs = [context.operand(x), context.operand(index)]
    context.builder.add("Gather", inputs, node.name, axis=dim)


def _conv(context: Lowering, node: fx.Node) -> None:
    x, weight, bias, stride, padding, dilation, groups = [
        *node.args,
        *[None, None, None, [1, 1], [0, 0], [1, 1], 1][len(node.args) :],
    ]
    inputs = [context.operand(value) for value in (x, weight, bias) if value is not None]
    context.builder.add(
        "Conv",
        inputs,
        node.name,
        strides=list(stride),
        pads=list(padding) * 2,
        dilations=list(dilation),
        group=groups,
    )


OPERATORS: dict[Any, Callable[[Lowering, fx.Node], None]] = {
    aten.add.Tensor: _binary("Add"),
    aten.sub.Tensor: _binary("Sub"),
    aten.mul.Tensor: _binary("Mul"),
    aten.div.Tensor: _binary("Div"),
    aten.matmul.default: _binary("MatMul"),
    operator.add: _binary("Add"),
    aten.relu.default: _unary("Relu"),
    aten.sigmoid.default: _unary("Sigmoid"),
    aten.tanh.default: _unary("Tanh"),
    aten.hardswish.default: _unary("HardSwish"),
    aten.sqrt.default: _unary("Sqrt"),
    aten.exp.default: _unary("Exp"),
    aten.neg.default: _unary("Neg"),
    aten.softmax.int: _softmax,
    aten.layer_norm.default: _layer_norm,
    aten.gelu.default: _gelu,
    aten.reshape.default: _reshape,
    aten.view.default: _reshape,
    aten.permute.default: _permute,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.cat.default: _cat,
    aten.constant_pad_nd.default: _pad,
    aten.roll.default: _roll,
    aten.mean.dim: _mean,
    aten.index.Tensor: _index,
    aten.index_select.default: _index_select,
    aten.conv2d.default: _conv,
}
