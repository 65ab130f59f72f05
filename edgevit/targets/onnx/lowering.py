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
from edgevit.graph.shapes import Shape, reshape_argument, shape_of
from edgevit.targets.onnx.builder import OnnxBuilder
from edgevit.targets.onnx.row_gather import with_gathered_rows

aten = torch.ops.aten
LAST = (1 << 31) - 1
"""An end no axis reaches; TensorRT refuses larger numbers."""


class ProductWriter(Protocol):
    """Writes one product into the ONNX model."""

    def write(self, context: Lowering, gemm: Gemm, operands: list[fx.Node], output: str) -> None:
        """Emit nodes that compute `output` from the operands."""


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
    shapes: dict[str, Shape]
    gemms: dict[str, Gemm] = field(default_factory=dict)
    nodes: dict[str, fx.Node] = field(default_factory=dict)
    flats: dict[str, str] = field(default_factory=dict)
    unshaped: set[str] = field(default_factory=set)

    def operand(self, value: Any) -> str:
        """Return the ONNX name of an operand: a node's output, or a scalar constant."""
        if isinstance(value, fx.Node):
            if value.op == "get_attr":
                tensor = self.graph.constant(str(value.target))
                return self.builder.constant(str(value.target), array_of(tensor))
            if value.name in self.unshaped:
                self.unshaped.remove(value.name)
                shape = self.integers("shape", list(self.shapes[value.name]))
                self.builder.add("Reshape", [self.flats[value.name], shape], value.name)
            return value.name
        scalar = np.float32(value)
        return self.builder.constant(f"scalar_{float(value)!r}", scalar)

    def integers(self, stem: str, values: list[int]) -> str:
        """Return the name of an int64 constant [len(values)]."""
        return self.builder.constant(
            f"{stem}_{'_'.join(map(str, values))}", np.array(values, np.int64)
        )

    def flat(self, value: fx.Node) -> str:
        """Return the name of a node's output viewed as [tokens, channels]; made once."""
        if len(self.shapes[value.name]) == 2:
            return self.operand(value)
        if value.name not in self.flats:
            shape = self.integers("shape", [-1, self.shapes[value.name][-1]])
            flat = self.builder.add("Reshape", [self.operand(value), shape], f"{value.name}_2d")
            self.flats[value.name] = flat
        return self.flats[value.name]

    def flat_output(self, name: str) -> str:
        """Return the name under which a node's output is written as [tokens, channels].

        Its own shape is made only when something asks for it.
        """
        if len(self.shapes[name]) == 2:
            return name
        self.flats[name] = f"{name}_2d"
        self.unshaped.add(name)
        return self.flats[name]

    def rank(self, node: fx.Node) -> int:
        """Return the number of dimensions of a node's output."""
        return len(self.shapes[node.name])


def array_of(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Return a contiguous numpy copy of a constant."""
    array: np.ndarray[Any, Any] = tensor.detach().contiguous().numpy().copy()
    return array


def args(node: fx.Node) -> tuple[Any, ...]:
    """Return a node's positional arguments; what they are depends on its operator."""
    return node.args


def arguments(node: fx.Node, **defaults: Any) -> list[Any]:
    """Return positional or keyword arguments in the order of `defaults`, filled up from it."""
    given = args(node)
    late = list(defaults.items())[len(given) :]
    return [*given, *(node.kwargs.get(name, default) for name, default in late)]


def lower_graph(graph: Graph, writer: ProductWriter) -> OnnxBuilder:
    """Write the whole graph and return the builder; the last node writes "logits"."""
    graph = with_gathered_rows(graph)
    context = Lowering(graph=graph, builder=OnnxBuilder(), shapes=_onnx_shapes(graph))
    context.gemms = {gemm.name: gemm for gemm in graph.gemms}
    context.nodes = {node.name: node for node in graph.module.graph.nodes}
    for node in graph.module.graph.nodes:
        if node.op == "call_function":
            _lower_node(context, node, writer)
        elif node.op == "output":
            result = args(node)[0][0] if isinstance(args(node)[0], (tuple, list)) else args(node)[0]
            context.builder.add("Identity", [context.operand(result)], "logits")
    context.builder.prune("logits")
    return context.builder


def _onnx_shapes(graph: Graph) -> dict[str, Shape]:
    """Return fx node name -> shape, -1 for the dimension that follows the batch.

    Raises:
        UnsupportedError: More than one dimension of a tensor follows the batch (EV303).
    """
    nodes = (node for node in graph.module.graph.nodes if node.op != "output")
    return {node.name: tuple(reshape_argument(shape_of(node), node)) for node in nodes}


def _lower_node(context: Lowering, node: fx.Node, writer: ProductWriter) -> None:
    gemm = context.gemms.get(node.name)
    if gemm is not None:
        count = 1 if gemm.weight is not None else 2
        writer.write(context, gemm, list(args(node)[:count]), node.name)
        return
    if _lower_flat(context, node):
        return
    emit = OPERATORS.get(node.target)
    if emit is None:
        raise UnsupportedError(
            "EV312",
            f"The operator {node.target} can't be written for this target.",
            where=str(node.meta.get("module") or node.name),
            why="EdgeViT has no exact ONNX form for it.",
            try_next="Replace it in the model by operators ViT, DeiT or Swin use, or report it.",
        )
    emit(context, node)


_ROW_OPERATORS: dict[Any, str] = {
    aten.gelu.default: "Gelu",
    aten.layer_norm.default: "LayerNormalization",
}


def _lower_flat(context: Lowering, node: fx.Node) -> bool:
    """Write an operator that works on token rows in 2-D if an operand is there in 2-D already.

    Linears read and write [tokens, channels]; between them this saves changing shapes.
    """
    op = _ROW_OPERATORS.get(node.target)
    operands = [x for x in args(node)[:2] if isinstance(x, fx.Node) and x.op != "get_attr"]
    if node.target is aten.add.Tensor and len(operands) == 2 and not node.kwargs:
        op = "Add" if len({context.shapes[x.name] for x in operands}) == 1 else None
    if op is None or not any(x.name in context.flats for x in operands):
        return False
    inputs = [context.flat(x) for x in operands]
    attributes: dict[str, Any] = {}
    if op == "Gelu":
        attributes["approximate"] = arguments(node, input=None, approximate="none")[1]
    elif op == "LayerNormalization":
        if len(args(node)[1]) != 1:
            return False
        affine, attributes = layer_norm_attributes(context, node)
        inputs += affine
    context.builder.add(op, inputs, context.flat_output(node.name), **attributes)
    return True


def _binary(op: str) -> Callable[[Lowering, fx.Node], None]:
    def emit(context: Lowering, node: fx.Node) -> None:
        if node.kwargs.get("alpha", 1) != 1 or node.kwargs.get("rounding_mode") is not None:
            raise UnsupportedError(
                "EV313",
                f"{node.target} with {dict(node.kwargs)} has no ONNX form here.",
                where=str(node.meta.get("module") or node.name),
                why="Only the plain form is written.",
                try_next="Write the factor as a separate multiplication in the model.",
            )
        context.builder.add(op, [context.operand(a) for a in args(node)[:2]], node.name)

    return emit


def _unary(op: str) -> Callable[[Lowering, fx.Node], None]:
    def emit(context: Lowering, node: fx.Node) -> None:
        context.builder.add(op, [context.operand(args(node)[0])], node.name)

    return emit


def _softmax(context: Lowering, node: fx.Node) -> None:
    context.builder.add("Softmax", [context.operand(args(node)[0])], node.name, axis=args(node)[1])


def layer_norm_attributes(context: Lowering, node: fx.Node) -> tuple[list[str], dict[str, Any]]:
    """Return the names of weight and bias, and the attributes of a LayerNormalization."""
    _, normalized, weight, bias, epsilon, *_ = arguments(
        node, input=None, normalized_shape=None, weight=None, bias=None, eps=1e-5
    )
    affine = [context.operand(value) for value in (weight, bias) if value is not None]
    return affine, {"axis": -len(normalized), "epsilon": float(epsilon)}


def _layer_norm(context: Lowering, node: fx.Node) -> None:
    affine, attributes = layer_norm_attributes(context, node)
    inputs = [context.operand(args(node)[0]), *affine]
    context.builder.add("LayerNormalization", inputs, node.name, **attributes)


def _gelu(context: Lowering, node: fx.Node) -> None:
    x, approximate = arguments(node, input=None, approximate="none")
    context.builder.add("Gelu", [context.operand(x)], node.name, approximate=approximate)


def _reshape(context: Lowering, node: fx.Node) -> None:
    shape = context.integers("shape", list(context.shapes[node.name]))
    context.builder.add("Reshape", [context.operand(args(node)[0]), shape], node.name)


def _permute(context: Lowering, node: fx.Node) -> None:
    rank = context.rank(node)
    order = [axis % rank for axis in args(node)[1]]
    context.builder.add("Transpose", [context.operand(args(node)[0])], node.name, perm=order)


def _slice(context: Lowering, node: fx.Node) -> None:
    x, dim, start, end, step = arguments(node, input=None, dim=0, start=None, end=None, step=1)
    bounds = [0 if start is None else start, LAST if end is None else min(end, LAST), dim, step]
    names = [context.integers("index", [value]) for value in bounds]
    context.builder.add("Slice", [context.operand(x), *names], node.name)


def _select(context: Lowering, node: fx.Node) -> None:
    x, dim, index = args(node)
    name = context.builder.constant(f"select_{index}", np.int64(index))
    context.builder.add("Gather", [context.operand(x), name], node.name, axis=dim)


def _cat(context: Lowering, node: fx.Node) -> None:
    tensors, dim = arguments(node, tensors=None, dim=0)
    context.builder.add("Concat", [context.operand(x) for x in tensors], node.name, axis=dim)


def _pad(context: Lowering, node: fx.Node) -> None:
    x, amounts = args(node)[0], list(args(node)[1])
    value = float(args(node)[2]) if len(args(node)) > 2 else 0.0
    rank = context.rank(node)
    before, after = [0] * rank, [0] * rank
    for pair in range(len(amounts) // 2):  # ATen lists the last axis first
        before[rank - 1 - pair], after[rank - 1 - pair] = amounts[2 * pair : 2 * pair + 2]
    pads = context.integers("pads", before + after)
    inputs = [context.operand(x), pads, context.operand(value)]
    context.builder.add("Pad", inputs, node.name)


def _roll(context: Lowering, node: fx.Node) -> None:
    """Roll axis by axis: the last `shift` entries come first."""
    name = context.operand(args(node)[0])
    shifts, dims = list(args(node)[1]), list(args(node)[2])
    for step, (shift, dim) in enumerate(zip(shifts, dims, strict=True)):
        size = context.shapes[node.name][dim]
        order = np.roll(np.arange(size), shift)
        index = context.builder.constant(f"roll_{size}_{shift}", order.astype(np.int64))
        last = step == len(dims) - 1
        output = node.name if last else f"{node.name}_{step}"
        name = context.builder.add("Gather", [name, index], output, axis=dim)


def _mean(context: Lowering, node: fx.Node) -> None:
    x, dims, keep, *_ = arguments(node, input=None, dim=None, keepdim=False)
    inputs = [context.operand(x), context.integers("axes", list(dims))]
    context.builder.add("ReduceMean", inputs, node.name, keepdims=int(keep))


def _index(context: Lowering, node: fx.Node) -> None:
    indices = args(node)[1]
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    if len(axes) != 1:
        raise UnsupportedError(
            "EV314",
            "Indexing along more than one axis has no ONNX form here.",
            where=str(node.meta.get("module") or node.name),
            why="Only a gather along one axis is written.",
            try_next="Index one axis at a time in the model.",
        )
    inputs = [context.operand(args(node)[0]), context.operand(indices[axes[0]])]
    context.builder.add("Gather", inputs, node.name, axis=axes[0])


def _index_select(context: Lowering, node: fx.Node) -> None:
    x, dim, index = args(node)
    inputs = [context.operand(x), context.operand(index)]
    context.builder.add("Gather", inputs, node.name, axis=dim)


def _conv(context: Lowering, node: fx.Node) -> None:
    one, nothing = [1, 1], [0, 0]
    x, weight, bias, stride, padding, dilation, groups = arguments(
        node,
        input=None,
        weight=None,
        bias=None,
        stride=one,
        padding=nothing,
        dilation=one,
        groups=1,
    )
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
