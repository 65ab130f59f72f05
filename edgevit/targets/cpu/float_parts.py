"""The float parts of a simulation, computed by ONNX Runtime's own kernels.

Its LayerNorm, softmax and GELU differ from torch's in the last bit, on each kind of processor in
another way. Every part between two products is written as the lowering writes it, constants
included, and runs in a session of its own, optimised and fused as within the whole graph: the very
kernels that the engine runs here. An addition goes into the convolution before it only where the
engine can tell that both have as many images, so a part gets the names that the whole graph's
dimensions have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, cast

import onnx
import torch
from torch import Tensor, fx

from edgevit.graph.interpret import Part
from edgevit.graph.model import Graph
from edgevit.graph.operators import LAYOUT
from edgevit.graph.regions import float_regions, reads_of
from edgevit.quantizers.layer import Layer
from edgevit.quantizers.quantized_graph import IntegerLayer
from edgevit.runner.engines.onnxruntime.installed import onnxruntime_module
from edgevit.targets.cpu.kernels import session_options
from edgevit.targets.cpu.products import QuantizedWriter
from edgevit.targets.onnx.builder import whole_model
from edgevit.targets.onnx.lowering import lower_graph, lower_part
from edgevit.targets.onnx.reference import FloatWriter

onnxruntime = onnxruntime_module()


Shape = Sequence["int | str | None"]


def engine_parts(graph: Graph, layers: Mapping[str, Layer]) -> dict[str, Part]:
    """Return all that the engine runs in float, but what only moves values.

    Args:
        graph: The graph.
        layers: The gemms that run in integers, by name.
    """
    found = {}
    shapes = cache(lambda: shapes_in_engine(graph, layers))
    for nodes in float_regions(graph, layers):
        if any(node.target not in LAYOUT for node in nodes):
            part = EnginePart(graph=graph, nodes=nodes, shapes=shapes)
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
        shapes: Returns what `shapes_in_engine` does.
    """

    graph: Graph
    nodes: tuple[fx.Node, ...]
    shapes: Callable[[], Mapping[str, Shape]]

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
        ends = {node.name: self._shape(node) for node in (*self.reads, self.nodes[-1])}
        model = whole_model(builder.part(ends), builder.tensors)
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def _shape(self, node: fx.Node) -> Shape:
        """Return the shape of a tensor as the engine knows it within the whole graph."""
        sizes = node.meta["shape"]
        known = self.shapes().get(node.name, ())
        known = known if len(known) == len(sizes) else [None] * len(sizes)
        return [name if size < 0 else size for size, name in zip(sizes, known, strict=True)]


def shapes_in_engine(graph: Graph, layers: Mapping[str, Layer]) -> dict[str, Shape]:
    """Return tensor -> its shape as ONNX Runtime infers it; dimensions that vary have names."""
    writer = QuantizedWriter(layers=cast("dict[str, IntegerLayer]", dict(layers)))
    builder = lower_graph(graph, writer)
    whole = whole_model(builder.model(graph.input_size), builder.tensors)
    model = onnx.ModelProto.FromString(whole)
    names = {node.name for node in graph.module.graph.nodes} - set(graph.outputs)
    written = [name for node in model.graph.node for name in node.output if name in names]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in written)
    options = session_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return {one.name: one.shape for one in (*session.get_inputs(), *session.get_outputs())}
