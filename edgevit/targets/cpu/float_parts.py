"""The float parts of a simulation, computed by ONNX Runtime's own kernels.

Its LayerNorm, softmax and GELU differ from torch's in the last bit, on each kind of processor in
another way. Every part between two products is written as the lowering writes it, constants
included, and runs in a session of its own, optimised and fused as within the whole graph: the very
kernels that the engine runs here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from edgevit.graph.interpret import Part
from edgevit.graph.model import Graph
from edgevit.graph.operators import LAYOUT
from edgevit.graph.regions import float_regions, reads_of
from edgevit.runner.engines.onnxruntime.installed import onnxruntime_module
from edgevit.targets.cpu.kernels import session_options
from edgevit.targets.onnx.builder import whole_model
from edgevit.targets.onnx.lowering import lower_part
from edgevit.targets.onnx.reference import FloatWriter

onnxruntime = onnxruntime_module()


def engine_parts(graph: Graph, products: Collection[str]) -> dict[str, Part]:
    """Return all that the engine runs in float, but what only moves values.

    Args:
        graph: The graph.
        products: Names of the gemms that run in integers.
    """
    found = {}
    for nodes in float_regions(graph, products):
        if any(node.target not in LAYOUT for node in nodes):
            part = EnginePart(graph=graph, nodes=nodes)
            found[nodes[-1].name] = Part(
                inner=tuple(node.name for node in nodes[:-1]),
                reads=tuple(node.name for node in part.reads),
                compute=part,
            )
    return found


@dataclass(frozen=True, kw_only=True)
class EnginePart:
    """A part of a graph in ONNX Runtime.

    Results do not depend on the number of threads, so one is enough: there are many sessions.

    Args:
        graph: The graph.
        nodes: The part's, in order of execution.
    """

    graph: Graph
    nodes: tuple[fx.Node, ...]

    @cached_property
    def reads(self) -> list[fx.Node]:
        """The nodes whose output it reads."""
        return reads_of(self.nodes)

    def __call__(self, *operands: Tensor) -> Tensor:
        """Return the float32 output of the last node for the outputs of `reads`, in order."""
        names = [node.name for node in self.reads]
        arrays = [x.detach().cpu().contiguous().numpy() for x in operands]
        (output,) = self._session.run(None, dict(zip(names, arrays, strict=True)))
        return torch.from_numpy(output).to(operands[0].device)

    @cached_property
    def _session(self) -> Any:
        """The session; made when the part first runs."""
        options = session_options()
        options.intra_op_num_threads = 1
        builder = lower_part(self.graph, self.nodes, self.reads, FloatWriter())
        ends = {node.name: node.meta["shape"] for node in (*self.reads, self.nodes[-1])}
        model = whole_model(builder.part(ends), builder.tensors)
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
