"""The float32 model of a graph, which engines' other forms are compared with."""

from __future__ import annotations

import re

from torch import fx

from edgevit.bundle.cost import cost_of
from edgevit.bundle.graph import read_graph
from edgevit.bundle.manifest import GRAPH
from edgevit.bundle.outputs import Output
from edgevit.bundle.shape_rules import Value
from edgevit.errors import BundleError, UnsupportedError
from edgevit.graph.model import Gemm, Graph
from edgevit.targets.base import Lowered
from edgevit.targets.onnx.context import Lowering, array_of
from edgevit.targets.onnx.emitters import EMITTERS
from edgevit.targets.onnx.lowering import lower_graph


class FloatWriter:
    """Writes every product in float32; linears on a 2-D view, as one Gemm each."""

    def write(self, context: Lowering, gemm: Gemm, operands: list[fx.Node], output: str) -> None:
        """Emit one float32 product."""
        if gemm.window is not None:
            write_convolution(context, gemm)
            return
        if gemm.weight is None:
            context.builder.add("MatMul", [context.operand(x) for x in operands], output)
            return
        weight = array_of(context.graph.weight(gemm))
        inputs = [context.flat(operands[0])]
        inputs.append(context.builder.constant(f"{gemm.weight}_t", weight.T))  # [in, out]
        if gemm.bias is not None:
            bias = array_of(context.graph.constant(gemm.bias))
            inputs.append(context.builder.constant(gemm.bias, bias))
        context.builder.add("Gemm", inputs, context.flat_output(output))


def write_convolution(context: Lowering, gemm: Gemm) -> None:
    """Emit a convolution in float as the operator that it is in the model."""
    node = context.nodes[gemm.name]
    EMITTERS[node.target](context, node)


def check_written(graph: Graph, written: Lowered) -> None:
    """Refuse a graph of which no bundle could be opened again.

    Args:
        graph: The graph.
        written: It in ONNX, in any precision.

    Raises:
        UnsupportedError: Names the operator and its module (EV322).
    """
    shapes = graph.output_shapes
    outputs = [Output(name, shape[1:]) for name, shape in shapes.items()]
    tensors = {
        name: Value(array.shape, array.dtype.name, is_constant=True)
        for name, array in written.tensors.items()
    }
    try:
        cost_of(
            read_graph(written.onnx, GRAPH),
            tensors,
            model_bytes=0,
            input_size=graph.input_size,
            outputs=outputs,
            where=GRAPH,
        )
    except BundleError as error:
        raise UnsupportedError(
            "EV322",
            "The model has an operator in a form that bundles do not hold.",
            where=_module_in(graph, str(error.why)),
            why=str(error.why),
            try_next="Write this part of the model in another way, or report it.",
        ) from error


def _module_in(graph: Graph, text: str) -> str:
    """Return the module of the operator that a text names."""
    words = set(re.findall(r"\w+", text))
    named = (node for node in graph.module.graph.nodes if node.name in words)
    return next((str(node.meta.get("module") or node.name) for node in named), "model")


def float_reference(graph: Graph) -> Lowered:
    """Return the graph in float32, for any engine that reads ONNX."""
    builder = lower_graph(graph, FloatWriter())
    return Lowered(onnx=builder.model(graph.input_size), tensors=builder.tensors)
