"""Products outside attention on TensorRT: a Q/DQ pair on both operands, stored codes of tables."""

from __future__ import annotations

import numpy as np
import onnx
import paired_models
import pytest
import torch
from paired_models import KINDS, HeadMatrices, LinearAttention, RelativePositions, TalkingHeads
from torch import Tensor, nn

from edgevit.calibration.methods import METHODS
from edgevit.calibration.run import Run, calibrate
from edgevit.calibration.search.variants import calibrate_variant
from edgevit.graph.capture import graph_from_module
from edgevit.quantizers.quantized_graph import QuantizedGraph
from edgevit.runner.engines.tensorrt.layer_table import product_rows
from edgevit.targets.divided import SELF_DIVIDED
from edgevit.targets.onnx.builder import whole_model
from edgevit.targets.registry import TARGETS
from edgevit.targets.tensorrt.conformance import check_onnx
from edgevit.targets.tensorrt.parity import qdq_layer_parity
from edgevit.targets.tensorrt.profiles import PROFILES

ADA = TARGETS["rtx-ada"]
SIDE = 64


@pytest.fixture(autouse=True)
def larger(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 x 16 tokens and heads of 32 channels: integer kernels want 16 and more."""
    for name, value in {"SIDE": SIDE, "WIDTH": 64, "GRID": SIDE // 4}.items():
        monkeypatch.setattr(paired_models, name, value)


def images() -> Tensor:
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def quantized_of(kind: type[nn.Module]) -> QuantizedGraph:
    graph = ADA.prepare(graph_from_module(paired_models.paired(kind), (3, SIDE, SIDE)))
    return calibrate(
        graph, ADA.place(graph, weight_bits=8, act_bits=8), images(), METHODS["minmax"]
    )


def variant(quantized: QuantizedGraph, name: str) -> QuantizedGraph:
    placement = ADA.variants(quantized.graph, quantized.placement)[name]
    run = Run(graph=quantized.graph, placement=placement, images=images())
    return calibrate_variant(quantized, placement, run)


@pytest.mark.parametrize("form", ["int8", "fp8"])
@pytest.mark.parametrize("kind", KINDS)
def test_they_are_quantized_and_equal_to_the_simulation(kind: type[nn.Module], form: str) -> None:
    quantized = quantized_of(kind)
    if form == "fp8":
        quantized = variant(quantized, "fp8")
    products = [gemm for gemm in quantized.graph.gemms if gemm.kind == "matmul"]
    in_float = [g for g in products if g.name not in quantized.layers]
    assert len(in_float) == (kind is LinearAttention)
    assert all(quantized.placement.skipped[g.left.name] == SELF_DIVIDED for g in in_float)
    rows = qdq_layer_parity(quantized, images().numpy())
    assert sum(row.wrong_codes for row in rows) == 0
    assert all(row.codes > 0 and row.error < 0.01 for row in rows)
    lowered = ADA.lower(quantized)
    model = whole_model(lowered.onnx, lowered.tensors)
    rules = {found.rule for found in check_onnx(model, PROFILES["rtx-ada"]).findings}
    assert rules <= {36, 42}  # codes at an end of the range, q, k and v cut apart


def test_a_table_is_stored_as_codes() -> None:
    lowered = ADA.lower(quantized_of(RelativePositions))
    model = onnx.load_from_string(whole_model(lowered.onnx, lowered.tensors))
    constants = {one.name: one for one in model.graph.initializer}
    by_output = {node.output[0]: node for node in model.graph.node}
    tables = [row for row in lowered.layers if row["kind"] == "matmul"]
    assert len(tables) == 2
    for row in tables:
        values = by_output[by_output[row["tensor"]].input[1]]
        assert values.op_type == "DequantizeLinear"
        codes = onnx.numpy_helper.to_array(constants[values.input[0]])
        assert (codes.dtype, codes.ndim) == (np.dtype(np.int8), 3)


def test_products_with_few_channels_stay_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired_models, "WIDTH", 16)
    quantized = quantized_of(HeadMatrices)
    reasons = {
        quantized.placement.skipped.get(g.left.name)
        for g in quantized.graph.gemms
        if g.kind == "matmul"
    }
    assert reasons == {"it has fewer than 16 channels and stays in float16"}


@pytest.mark.parametrize("form", ["int8", "fp8"])
@pytest.mark.parametrize("kind", [RelativePositions, TalkingHeads, LinearAttention, HeadMatrices])
def test_the_compiler_gives_each_a_kernel_of_8_bits(kind: type[nn.Module], form: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    quantized = quantized_of(kind)
    if form == "fp8":
        quantized = variant(quantized, "fp8")
    lowered = ADA.with_kernels(ADA.lower(quantized), form)
    assert lowered.kernels is not None
    rows = product_rows(lowered.layers, lowered.kernels.layers)
    found = {row.module: row.chosen for row in rows if ".matmul" in row.module}
    found = {name: chosen for name, chosen in found.items() if chosen != "fp16"}
    assert len(found) == (1 if kind is LinearAttention else 2)
    assert set(found.values()) == {form}
