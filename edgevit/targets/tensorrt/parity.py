"""Compares a TensorRT graph, run by ONNX Runtime on the CPU, with its simulation layer by layer.

ONNX Runtime runs the graph as it is written, with all optimisations off: float16 operators are
computed in float32 and rounded. Each product is simulated from the input the engine itself had
there. Codes have to be equal; float outputs can't be, because here DequantizeLinear rounds to
float16 before the products are summed, which integer kernels never do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor

from edgevit import __version__
from edgevit.quantizers.float8 import Float8Grid, Float8Linear
from edgevit.quantizers.half import to_half
from edgevit.quantizers.simulation import IntegerLinear, Layer, QuantizedGraph
from edgevit.targets.onnx_builder import whole_model
from edgevit.targets.tensorrt.products import Taps
from edgevit.targets.tensorrt.target import written

Values = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class LayerParity:
    """How one quantized product of the graph compares with its simulation.

    Args:
        module: Layer.
        codes: Number of rounded operands compared; `wrong_codes` of them differ.
        error: Largest difference of the outputs, in units of their root mean square.
    """

    module: str
    codes: int
    wrong_codes: int
    error: float


def layer_parity(
    quantized: QuantizedGraph, images: npt.NDArray[np.float32], *, layers_at_once: int = 24
) -> list[LayerParity]:
    """Compare every quantized product on these images, float32 [B, 3, H, W]."""
    builder, writer = written(quantized)
    skeleton = builder.model(
        image_shape=["batch", *quantized.graph.input_size],
        logits_shape=["batch", "classes"],
        producer=f"edgevit {__version__}",
    )
    model = whole_model(skeleton, builder.tensors)
    modules = {gemm.name: gemm.module for gemm in quantized.graph.gemms}
    taps = list(writer.taps.items())
    rows = []
    for start in range(0, len(taps), layers_at_once):
        part = taps[start : start + layers_at_once]
        values = run_tapped(model, [one for _, one in part], images)
        rows += [_compare(modules[n], quantized.layers[n], one, values) for n, one in part]
    return rows


def run_tapped(model: bytes, taps: list[Taps], images: npt.NDArray[np.float32]) -> Values:
    """Return the tensors around products, by name, with all optimisations off."""
    proto = onnx.ModelProto.FromString(model)
    types = {info.name: info for info in onnx.shape_inference.infer_shapes(proto).graph.value_info}
    wanted = [n for t in taps for n in (*t.inputs, *t.codes, *t.values, t.output)]
    float8 = onnx.TensorProto.FLOAT8E4M3FN  # numpy has no such type to return them in
    wanted = [
        name for name in dict.fromkeys(wanted) if types[name].type.tensor_type.elem_type != float8
    ]
    proto.graph.output.extend(types[name] for name in wanted)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return dict(zip(wanted, session.run(wanted, {"image": images}), strict=True))


@torch.no_grad()
def _compare(module: str, layer: Layer, taps: Taps, values: Values) -> LayerParity:
    inputs = [torch.from_numpy(values[name].astype(np.float32)) for name in taps.inputs]
    expected = to_half(layer(*inputs))
    output = torch.from_numpy(values[taps.output].astype(np.float32))
    wrong = [
        _wrong_codes(grid, x, values, codes, value)
        for grid, x, codes, value in zip(
            _grids(layer), inputs, taps.codes, taps.values, strict=True
        )
    ]
    rms = expected.square().mean().sqrt().clamp_min(1e-12)
    return LayerParity(
        module=module,
        codes=sum(x.numel() for x in inputs),
        wrong_codes=sum(wrong),
        error=float((output - expected).abs().max() / rms),
    )


def _grids(layer: Layer) -> tuple[Any, ...]:
    if isinstance(layer, (IntegerLinear, Float8Linear)):
        return (layer.grid,)
    return layer.left, layer.right


def _wrong_codes(grid: Any, x: Tensor, values: Values, codes: str, value: str) -> int:
    """Return how many codes differ; of floating point grids how many values do."""
    if isinstance(grid, Float8Grid):
        found = torch.from_numpy(values[value].astype(np.float32))
        return int((to_half(grid.fake_quantize(x)) != found).sum())
    return int((grid.codes(x).numpy() != values[codes]).sum())
