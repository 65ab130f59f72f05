"""Canonical ATen graph to ONNX, one operator at a time.

Products (linear, matmul) are written by a `ProductWriter`, which is where a target's number
grids come in; everything else is the same float32 operator in every lowering.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import fx

from edgevit.errors import UnsupportedError
from edgevit.graph.model import Gemm, Graph
from edgevit.graph.outputs import output_nodes
from edgevit.graph.shapes import Shape, args_of, arguments_of, reshape_argument, shape_of
from edgevit.targets.onnx.builder import OnnxBuilder
from edgevit.targets.onnx.context import Lowering
from edgevit.targets.onnx.emitters import EMITTERS
from edgevit.targets.onnx.emitters.normalisation import layer_norm_attributes
from edgevit.targets.onnx.row_gather import with_gathered_rows

aten = torch.ops.aten


class ProductWriter(Protocol):
    """Writes one product into the ONNX model."""

    def write(self, context: Lowering, gemm: Gemm, operands: list[fx.Node], output: str) -> None:
        """Emit nodes that compute `output` from the operands."""


def lower_graph(graph: Graph, writer: ProductWriter) -> OnnxBuilder:
    """Write the whole graph and return the builder; the last nodes write its outputs."""
    graph = with_gathered_rows(graph)
    context = Lowering(
        graph=graph, builder=OnnxBuilder(), shapes=_onnx_shapes(graph.module.graph.nodes)
    )
    context.gemms = {gemm.name: gemm for gemm in graph.gemms}
    context.nodes = {node.name: node for node in graph.module.graph.nodes}
    for node in graph.module.graph.nodes:
        if node.op == "call_function":
            _lower_node(context, node, writer)
    for name, node in zip(graph.outputs, output_nodes(graph.module), strict=True):
        context.builder.add("Identity", [context.operand(node)], name)
    context.builder.outputs = _declared(graph)
    context.builder.prune(graph.outputs)
    return context.builder


def _declared(graph: Graph) -> dict[str, list[int | str]]:
    """Return output -> its dimensions, as the model declares them."""
    if graph.is_classifier:
        return {graph.outputs[0]: ["batch", "classes"]}
    return {name: ["batch", *shape[1:]] for name, shape in graph.output_shapes.items()}


def _onnx_shapes(nodes: Iterable[fx.Node]) -> dict[str, Shape]:
    """Return fx node name -> shape, -1 for the dimension that follows the batch.

    Raises:
        UnsupportedError: More than one dimension of a tensor follows the batch (EV303).
    """
    return {
        node.name: tuple(reshape_argument(shape_of(node), node))
        for node in nodes
        if node.op != "output"
    }


def _lower_node(context: Lowering, node: fx.Node, writer: ProductWriter) -> None:
    if node.name in context.flats:
        return  # a product has written it
    gemm = context.gemms.get(node.name)
    if gemm is not None:
        count = 1 if gemm.weight is not None else 2
        writer.write(context, gemm, list(args_of(node)[:count]), node.name)
        return
    if _lower_flat(context, node):
        return
    emit = EMITTERS.get(node.target)
    if emit is None:
        raise UnsupportedError(
            "EV312",
            f"The operator {node.target} can't be written for this target.",
            where=str(node.meta.get("module") or node.name),
            why="EdgeViT has no exact ONNX form for it.",
            try_next="Replace it in the model by operators ViT, DeiT or Swin use, or report it.",
        )
    emit(context, node)


def lower_part(
    graph: Graph, part: Sequence[fx.Node], reads: Sequence[fx.Node], writer: ProductWriter
) -> OnnxBuilder:
    """Write some nodes as they are written within the whole graph; the last one gives the output.

    Args:
        graph: The graph.
        part: The nodes, in order of execution.
        reads: Nodes whose output they read.
        writer: Writes the products among them.
    """
    nodes = [*reads, *part, *(c for node in part for c in node.all_input_nodes)]
    context = Lowering(graph=graph, builder=OnnxBuilder(), shapes=_onnx_shapes(nodes))
    context.gemms = {gemm.name: gemm for gemm in graph.gemms}
    context.nodes = {node.name: node for node in nodes}
    for node in part:
        _lower_node(context, node, writer)
    context.operand(part[-1])  # in its own shape, a linear's output too
    return context.builder


_ROW_OPERATORS: dict[Any, str] = {
    aten.gelu.default: "Gelu",
    aten.layer_norm.default: "LayerNormalization",
}


def _lower_flat(context: Lowering, node: fx.Node) -> bool:
    """Write an operator that works on token rows in 2-D if an operand is there in 2-D already.

    Linears read and write [tokens, channels]; between them this saves changing shapes.
    """
    op = _ROW_OPERATORS.get(node.target)
    operands = [x for x in args_of(node)[:2] if isinstance(x, fx.Node) and x.op != "get_attr"]
    if node.target is aten.add.Tensor and len(operands) == 2 and not node.kwargs:
        op = "Add" if len({context.shapes[x.name] for x in operands}) == 1 else None
    if op is None or not any(x.name in context.flats for x in operands):
        return False
    inputs = [context.flat(x) for x in operands]
    attributes: dict[str, Any] = {}
    if op == "Gelu":
        attributes["approximate"] = arguments_of(node, input=None, approximate="none")[1]
    elif op == "LayerNormalization":
        if len(args_of(node)[1]) != 1:
            return False
        affine, attributes = layer_norm_attributes(context, node)
        inputs += affine
    context.builder.add(op, inputs, context.flat_output(node.name), **attributes)
    return True
