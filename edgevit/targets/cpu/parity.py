"""Checks layer by layer that the engine computes the integers the simulation computes.

The engine runs the very graph that ships, with its tensors around every product made visible.
Each product is then simulated from the input the engine itself had there, so that differences
do not travel from layer to layer: codes and float32 outputs must be equal, bit for bit. A second
run without the biases shows the int32 sums, which the scale alone then separates from the output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
import torch.fx
from onnx import numpy_helper

from edgevit.quantizers.quantized_graph import Grid, IntegerLayer, QuantizedGraph
from edgevit.runner.engines.onnxruntime.installed import onnxruntime_module
from edgevit.targets.cpu.kernels import kernels_of, session_options
from edgevit.targets.cpu.products import IntegerProbes, QuantizedWriter
from edgevit.targets.onnx.builder import whole_model
from edgevit.targets.onnx.lowering import lower_graph

onnxruntime = onnxruntime_module()
Tensors = dict[str, npt.NDArray[Any]]
Engine = Callable[[bytes, list[str], npt.NDArray[np.float32]], tuple[Tensors, dict[str, str]]]
"""Runs a model on images; returns the tensors named, and tensor name -> kernel that wrote it."""
_EXACT = 1 << 24  # sums up to here can be read off the float32 output without loss


@dataclass(frozen=True, kw_only=True)
class IntegerLayerParity:
    """The comparison of one quantized product of the engine with its simulation.

    Args:
        module: Layer.
        kernel: The operator that computes it in the engine's own optimised graph.
        codes: Number of operand codes compared; `wrong_codes` of them differ.
        sums: Number of int32 sums compared; `wrong_sums` of them differ.
        wrong_outputs: float32 outputs that are not bit-identical.
        fused_outputs: Of these, outputs that are the same sum times scale plus bias, rounded once
            instead of twice: what processors compute that fuse the two operations, such as Arm's.
    """

    module: str
    kernel: str
    codes: int
    wrong_codes: int
    sums: int
    wrong_sums: int
    wrong_outputs: int
    fused_outputs: int = 0

    @property
    def is_exact_up_to_fusing(self) -> bool:
        """True if nothing differs but the number of roundings after the integer sum."""
        integers = self.wrong_codes == self.wrong_sums == 0
        return integers and self.wrong_outputs == self.fused_outputs

    @property
    def is_exact(self) -> bool:
        """True if nothing differs."""
        return self.wrong_codes == self.wrong_sums == self.wrong_outputs == 0


def integer_layer_parity(
    quantized: QuantizedGraph,
    images: npt.NDArray[np.float32],
    *,
    layers_at_once: int = 24,
    engine: Engine | None = None,
) -> list[IntegerLayerParity]:
    """Compare every quantized product on these images, float32 [B, 3, H, W].

    Args:
        quantized: The model in integers.
        images: float32 [B, 3, H, W].
        layers_at_once: Products whose tensors are held in memory together.
        engine: What runs the graph, this machine's ONNX Runtime if left out; another machine's is
            held against the same simulation.
    """
    engine = engine_here if engine is None else engine
    layers = quantized.integer_layers
    writer = QuantizedWriter(layers=layers)
    builder = lower_graph(quantized.graph, writer)
    skeleton = builder.model(quantized.graph.input_size)
    model = onnx.ModelProto.FromString(whole_model(skeleton, builder.tensors))
    biases = {probes.bias for probes in writer.probes.values() if probes.bias is not None}
    names = list(writer.probes)
    modules = {gemm.name: gemm.module for gemm in quantized.graph.gemms}
    rows = []
    for start in range(0, len(names), layers_at_once):
        part = {name: writer.probes[name] for name in names[start : start + layers_at_once]}
        values, kernels = _run_tapped(engine, model, part, images)
        unbiased, _ = _run_tapped(engine, _without(model, biases), part, images)
        for name, probes in part.items():
            layer = layers[name]
            row = _compare(modules[name], kernels[probes.output], layer, probes, values)
            rows.append(_with_sums(row, layer, probes, unbiased))
    return rows


def _without(model: onnx.ModelProto, biases: set[str]) -> onnx.ModelProto:
    """Return a copy of the model whose biases are zero."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for constant in copy.graph.initializer:
        if constant.name in biases:
            zeros = np.zeros_like(numpy_helper.to_array(constant))
            constant.CopyFrom(numpy_helper.from_array(zeros, constant.name))
    return copy


def engine_here(
    model: bytes, wanted: list[str], images: npt.NDArray[np.float32]
) -> tuple[Tensors, dict[str, str]]:
    """Run a model in this machine's ONNX Runtime, as `Engine` says."""
    options = session_options()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    values = dict(zip(wanted, session.run(wanted, {"image": images}), strict=True))
    return values, kernels_of(model)


def _run_tapped(
    engine: Engine,
    model: onnx.ModelProto,
    probes: dict[str, IntegerProbes],
    images: npt.NDArray[np.float32],
) -> tuple[Tensors, dict[str, str]]:
    """Run with the tapped tensors as extra outputs; also return the kernels of that graph."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    wanted = [n for t in probes.values() for n in (*t.inputs, *t.codes, t.output) if n != "image"]
    wanted = list(dict.fromkeys(wanted))
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    values, kernels = engine(proto.SerializeToString(), wanted, images)
    return {**values, "image": images}, kernels


@torch.no_grad()
def _compare(
    module: str,
    kernel: str,
    layer: IntegerLayer,
    probes: IntegerProbes,
    values: Tensors,
) -> IntegerLayerParity:
    """Compare codes and outputs; `_with_sums` fills in the sums."""
    inputs = _inputs(probes, values)
    carried = [_carry(grid, x) for grid, x in zip(layer.input_grids, inputs, strict=True)]
    engine_codes = [values[name] for name in probes.codes]
    output = values[probes.output]
    wrong = layer(*inputs).numpy() != output
    return IntegerLayerParity(
        module=module,
        kernel=kernel,
        codes=sum(codes.size for codes in engine_codes),
        wrong_codes=sum(int((a != b).sum()) for a, b in zip(carried, engine_codes, strict=True)),
        sums=0,
        wrong_sums=0,
        wrong_outputs=int(wrong.sum()),
        fused_outputs=int((wrong & (_fuse(layer, inputs) == output)).sum()) if wrong.any() else 0,
    )


def _fuse(layer: IntegerLayer, inputs: list[torch.Tensor]) -> npt.NDArray[np.float32]:
    """Return float32 outputs of which scale and bias are rounded once; float64 holds them whole."""
    sums = layer.sums(*inputs).to(torch.float32).to(torch.float64)
    bias = torch.zeros(()) if layer.bias is None else layer.bias
    return (sums * layer.scale.to(torch.float64) + bias).to(torch.float32).numpy()


@torch.no_grad()
def _with_sums(
    row: IntegerLayerParity, layer: IntegerLayer, probes: IntegerProbes, unbiased: Tensors
) -> IntegerLayerParity:
    """Read the sums off the outputs of a run without biases and compare them."""
    sums = layer.sums(*_inputs(probes, unbiased)).numpy()
    scale = layer.scale.numpy().astype(np.float64)
    recovered = np.rint(unbiased[probes.output].astype(np.float64) / scale)
    readable = np.abs(sums.astype(np.int64)) < _EXACT
    wrong = int((recovered != sums)[readable].sum())
    return replace(row, sums=int(readable.sum()), wrong_sums=wrong)


def _inputs(probes: IntegerProbes, values: Tensors) -> list[torch.Tensor]:
    """Return the float operands of a product in the layout in which it reads them."""
    found = [
        _move(torch.from_numpy(values[name]), layout)
        for name, layout in zip(probes.inputs, probes.layouts, strict=True)
    ]
    if probes.window is not None:
        return [probes.window.unfold(x).flatten(0, 1) for x in found]  # [B H' W', kh kw C]
    return found


def _move(x: torch.Tensor, layout: tuple[torch.fx.Node, ...]) -> torch.Tensor:
    """Bring a float operand into the layout in which the product reads it."""
    for node in layout:
        rest: Any = node.args[1:]
        target: Any = node.target
        if target is torch.ops.aten.index_select.default:
            module: Any = node.graph.owning_module
            rest = (rest[0], module.get_buffer(rest[1].target))
        x = target(x, *rest)
    return x


def _carry(grid: Grid, x: torch.Tensor) -> npt.NDArray[Any]:
    """Return the 8-bit integers the engine carries for x."""
    return (grid.operand(grid.codes(x)) + grid.operand_offset).numpy()
