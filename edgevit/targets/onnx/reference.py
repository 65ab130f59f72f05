"""The float32 model of a graph, which engines' other forms are compared with."""

from __future__ import annotations

from torch import fx

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


def float_reference(graph: Graph) -> Lowered:
    """Return the graph in float32, for any engine that reads ONNX."""
    builder = lower_graph(graph, FloatWriter())
    return Lowered(onnx=builder.model(graph.input_size), tensors=builder.tensors)
