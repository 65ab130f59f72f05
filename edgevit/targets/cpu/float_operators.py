"""The float operators of a simulation, computed by ONNX Runtime's own kernels, one at a time.

Its LayerNorm, softmax and GELU differ from torch's in the last bit, on each kind of processor in
another way. Every operator is written as the lowering writes it, constants included, and runs in a
session of its own, optimised like the whole graph: the very kernel that the engine runs here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from edgevit.graph.interpret import Operator
from edgevit.graph.model import Graph
from edgevit.graph.operators import LAYOUT
from edgevit.graph.shapes import activations_of
from edgevit.runner.engines.onnxruntime.installed import onnxruntime_module
from edgevit.targets.cpu.kernels import session_options
from edgevit.targets.onnx.builder import whole_model
from edgevit.targets.onnx.lowering import OperatorWriter
from edgevit.targets.onnx.reference import FloatWriter

onnxruntime = onnxruntime_module()


def engine_operators(graph: Graph) -> dict[str, Operator]:
    """Return fx name -> what computes it, for every node that does more than move values."""
    writer = OperatorWriter(graph=graph, products=FloatWriter())
    return {
        node.name: EngineOperator(writer=writer, node=node)
        for node in graph.module.graph.nodes
        if node.op == "call_function" and node.target not in LAYOUT and activations_of(node)
    }


@dataclass(frozen=True, kw_only=True)
class EngineOperator:
    """One operator of a graph in ONNX Runtime.

    Results do not depend on the number of threads, so one is enough: there are many sessions.

    Args:
        writer: Writes operators of its graph.
        node: Which of them.
    """

    writer: OperatorWriter
    node: fx.Node

    def __call__(self, *operands: Tensor) -> Tensor:
        """Return the float32 output for the tensors of `activations_of` the node, in order."""
        names = [source.name for source in activations_of(self.node)]
        arrays = [x.detach().cpu().contiguous().numpy() for x in operands]
        (output,) = self._session.run(None, dict(zip(names, arrays, strict=True)))
        return torch.from_numpy(output).to(operands[0].device)

    @cached_property
    def _session(self) -> Any:
        """The session; made when the operator first runs."""
        options = session_options()
        options.intra_op_num_threads = 1
        builder = self.writer.write(self.node)
        model = whole_model(builder.operator(self.writer.ends(self.node)), builder.tensors)
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
