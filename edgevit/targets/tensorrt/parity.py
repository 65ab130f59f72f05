"""Compares a TensorRT graph, run by ONNX Runtime on the CPU, with its simulation layer by layer.

ONNX Runtime has few float16 operators on the CPU: it computes the others in float32 between two
casts, and drops the casts where one such operator follows another, so that what the graph says is
rounded to float16 is not. Fences keep the casts: an Identity behind every float16 operator, whose
result is an output of the graph. With them, and all optimisations off, the graph is computed as it
is written. Each product is simulated from the input the engine itself had there: codes have to be
equal, float outputs differ in the last digit where float32 sums in another order fall on the other
side of a rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor

from edgevit.quantizers.fp16 import to_half
from edgevit.quantizers.quantized_graph import Grid, QuantizedGraph
from edgevit.runner.engines.onnxruntime.installed import onnxruntime_module
from edgevit.targets.onnx.builder import whole_model
from edgevit.targets.tensorrt.products import QdqProbes
from edgevit.targets.tensorrt.target import write_model

onnxruntime = onnxruntime_module()
Values = dict[str, npt.NDArray[Any]]


_FENCED = onnx.TensorProto.FLOAT16


def add_fences(model: bytes) -> onnx.ModelProto:
    """Return the model with a fence behind every operator that writes float16."""
    proto = onnx.ModelProto.FromString(model)
    inferred = onnx.shape_inference.infer_shapes(proto).graph.value_info
    halves = {v.name: v for v in inferred if v.type.tensor_type.elem_type == _FENCED}
    nodes = []
    for node in proto.graph.node:
        nodes.append(node)
        output = node.output[0]
        if output in halves:
            node.output[0] = f"{output}_unfenced"
            nodes.append(onnx.helper.make_node("Identity", list(node.output), [output]))
            proto.graph.output.append(halves[output])
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


class AsWritten:
    """Runs a float16 model on the CPU as it is written.

    Args:
        model: Serialized ModelProto.
        extra: Further tensors to make visible, beside the float16 ones.
    """

    def __init__(self, model: bytes, extra: tuple[str, ...] = ()) -> None:
        proto = add_fences(model)
        known = {v.name: v for v in onnx.shape_inference.infer_shapes(proto).graph.value_info}
        visible = {output.name for output in proto.graph.output}
        proto.graph.output.extend(known[name] for name in extra if name not in visible)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # raised, not logged
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name

    def run(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return logits float32 [B, classes] of images float32 [B, 3, H, W]."""
        logits: npt.NDArray[np.float32] = self.tensors(images, ["logits"])["logits"]
        return logits

    def tensors(self, images: npt.NDArray[Any], names: list[str]) -> Values:
        """Return tensors of the model by name; of a part of a model, `images` is its one input."""
        return dict(zip(names, self._session.run(names, {self._input: images}), strict=True))


@dataclass(frozen=True, kw_only=True)
class QdqLayerParity:
    """The comparison of one quantized product of the graph with its simulation.

    Args:
        module: Layer.
        codes: Number of rounded operands compared; `wrong_codes` of them differ.
        error: Largest difference of the outputs, in units of their root mean square.
    """

    module: str
    codes: int
    wrong_codes: int
    error: float


def qdq_layer_parity(
    quantized: QuantizedGraph, images: npt.NDArray[np.float32], *, layers_at_once: int = 24
) -> list[QdqLayerParity]:
    """Compare every quantized product on these images, float32 [B, 3, H, W]."""
    builder, writer = write_model(quantized)
    skeleton = builder.model(quantized.graph.input_size)
    probes = list(writer.probes.items())
    codes = {
        code
        for name, one in probes
        for code, grid in zip(one.codes, quantized.layers[name].input_grids, strict=True)
        if grid.has_integer_sums  # numpy has no such type to return them in
    }
    floats = {n for _, one in probes for n in (*one.inputs, *one.values, one.output)}
    model = AsWritten(whole_model(skeleton, builder.tensors), (*sorted(codes), *sorted(floats)))
    rows = []
    for start in range(0, len(probes), layers_at_once):
        part = probes[start : start + layers_at_once]
        values = model.tensors(images, _wanted([one for _, one in part], codes))
        rows += [_compare(quantized, name, one, values) for name, one in part]
    return rows


def _wanted(probes: list[QdqProbes], codes: set[str]) -> list[str]:
    """Return the tensors around products that can be had, each once."""
    names = [n for t in probes for n in (*t.inputs, *t.values, t.output)]
    names += [n for t in probes for n in t.codes if n in codes]
    return list(dict.fromkeys(names))


@torch.no_grad()
def _compare(
    quantized: QuantizedGraph, name: str, probes: QdqProbes, values: Values
) -> QdqLayerParity:
    gemm, layer = quantized.graph.gemm(name), quantized.layers[name]
    inputs = [torch.from_numpy(values[name].astype(np.float32)) for name in probes.inputs]
    right = inputs[1] if len(inputs) > 1 else None
    if gemm.window is None:
        product = quantized.compute(gemm, inputs[0], right)
    else:
        product = quantized.convolve(gemm, inputs[0])
    expected = quantized.kept(name, product)
    output = torch.from_numpy(values[probes.output].astype(np.float32))
    wrong = [
        _wrong_codes(grid, x, values, codes, value)
        for grid, x, codes, value in zip(
            layer.input_grids, inputs, probes.codes, probes.values, strict=True
        )
    ]
    rms = expected.square().mean().sqrt().clamp_min(1e-12)
    return QdqLayerParity(
        module=gemm.module,
        codes=sum(x.numel() for x in inputs),
        wrong_codes=sum(wrong),
        error=float((output - expected).abs().max() / rms),
    )


def _wrong_codes(grid: Grid, x: Tensor, values: Values, codes: str, value: str) -> int:
    """Return how many codes differ; of floating point grids how many values do."""
    if not grid.has_integer_sums:
        found = torch.from_numpy(values[value].astype(np.float32))
        return int((to_half(grid.fake_quantize(x)) != found).sum())
    return int((grid.codes(x).numpy() != values[codes]).sum())
