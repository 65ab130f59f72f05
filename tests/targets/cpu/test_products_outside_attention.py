"""Products outside attention on the cpu target: integers, equal in engine and simulation."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from paired_models import (
    CLASSES,
    KINDS,
    SIDE,
    LinearAttention,
    RelativePositions,
    paired,
    photographs,
)
from torch import nn

from edgevit.bundle.cost import cost_of
from edgevit.bundle.graph import read_graph
from edgevit.bundle.manifest import EXACT_VARIANT
from edgevit.bundle.outputs import Output
from edgevit.bundle.shape_rules import Value
from edgevit.calibration.methods import METHODS
from edgevit.calibration.run import calibrate
from edgevit.graph.capture import graph_from_module
from edgevit.graph.model import Graph
from edgevit.quantizers.quantized_graph import QuantizedGraph
from edgevit.runner.engines.onnxruntime.session import EngineSession
from edgevit.targets.cpu.parity import integer_layer_parity
from edgevit.targets.cpu.target import CpuTarget
from edgevit.targets.divided import SELF_DIVIDED
from edgevit.targets.onnx.builder import whole_model
from edgevit.targets.registry import target_named

TARGET = CpuTarget()


def captured(*kinds: type[nn.Module]) -> Graph:
    return TARGET.prepare(graph_from_module(paired(*kinds), (3, SIDE, SIDE)))


def quantized_at(graph: Graph, bits: int, method: str = "minmax") -> QuantizedGraph:
    placement = TARGET.place(graph, weight_bits=bits, act_bits=bits)
    return calibrate(graph, placement, photographs(4), METHODS[method])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [4, 8])
def test_engine_and_simulation_compute_the_same_integers(kind: type[nn.Module], bits: int) -> None:
    graph = captured(kind)
    quantized = quantized_at(graph, bits)
    rows = integer_layer_parity(quantized, photographs(3).numpy())
    in_float = [quantized.placement.skipped.get(gemm.left.name) for gemm in graph.gemms]
    in_float = [reason for reason in in_float if reason]
    assert in_float == ([SELF_DIVIDED] if kind is LinearAttention else [])
    assert len(rows) == len(graph.gemms) - len(in_float)
    assert all(row.is_exact for row in rows), [row for row in rows if not row.is_exact]
    assert all(row.codes > 0 and row.sums > 0 for row in rows)
    assert {row.kernel for row in rows} == {"MatMulIntegerToFloat"}


def test_a_changed_constant_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check can fail: the engine gets another table than the simulation."""
    from edgevit.targets.cpu import products

    graph = captured(RelativePositions)
    quantized = quantized_at(graph, 8)
    right = products._constant_operand

    def other(builder, value, grid, stem):  # type: ignore[no-untyped-def]
        found = right(builder, value + 3 * grid.unit, grid, stem)
        values = dict(found.values)
        values[stem] = value.numpy()
        return products.IntegerOperand(**{**vars(found), "values": values})

    monkeypatch.setattr(products, "_constant_operand", other)
    rows = integer_layer_parity(quantized, photographs(2).numpy())
    assert sum(row.wrong_codes > 0 and row.wrong_sums > 0 for row in rows) == 2


def test_codes_of_a_constant_are_stored() -> None:
    graph = captured(RelativePositions)
    lowered = TARGET.lower(quantized_at(graph, 4))
    tables = {str(n.target) for n in graph.module.graph.nodes if n.op == "get_attr"}
    model = onnx.load_from_string(whole_model(lowered.onnx, lowered.tensors))
    rounded = {n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    assert not {f"{name}.constant" for name in tables} & rounded
    assert not {one.name for one in model.graph.initializer} & rounded
    rows = {row["name"]: row for row in lowered.layers if row["kind"] == "matmul"}
    for gemm in (g for g in graph.gemms if g.name in rows):
        stored = graph.stored(gemm)
        assert stored is not None
        row = rows[gemm.name]
        assert (row["parameters"], row["weight_bits"]) == (stored.numel(), 4)


def test_large_constants_are_packed() -> None:
    from edgevit.targets.cpu.products import _constant_operand
    from edgevit.targets.onnx.builder import OnnxBuilder

    graph = captured(RelativePositions)
    quantized = quantized_at(graph, 4)
    gemm = next(g for g in graph.gemms if g.kind == "matmul")
    grid, builder = quantized.layers[gemm.name].grids[1], OnnxBuilder()
    _constant_operand(builder, torch.randn(8, 64, 64), grid, "table")
    assert builder.packed_bits == {"table_codes.constant": 4}


@pytest.mark.parametrize("bits", [6, 8])
def test_the_bundle_s_graph_is_allowed_and_runs(bits: int) -> None:
    quantized = quantized_at(captured(), bits)
    lowered = TARGET.lower(quantized)
    model = whole_model(lowered.onnx, lowered.tensors)
    outside = {
        name: Value(array.shape, str(array.dtype), is_constant=True)
        for name, array in lowered.tensors.items()
    }
    cost_of(
        read_graph(lowered.onnx, "graph.onnx"),
        outside,
        model_bytes=1 << 20,
        input_size=(3, SIDE, SIDE),
        outputs=(Output("logits", (CLASSES,)),),
        where="graph.onnx",
    )  # as when a bundle is opened: every operator and every shape
    image = photographs(2)
    found = EngineSession(model, session_config=lowered.session_config).run(image.numpy())
    with torch.no_grad():
        simulated, fp32 = quantized.forward(image).numpy(), quantized.graph.forward(image).numpy()
    noise = np.abs(simulated - fp32).max()
    assert np.abs(found - simulated).max() < 0.1 * noise


def test_the_form_for_other_processors_has_the_same_integers() -> None:
    quantized = quantized_at(captured(), 8)
    exact = TARGET.same_integers(quantized)[EXACT_VARIANT]
    signed = [layer.input_grids[-1].spec.signed for layer in exact.layers.values()]
    assert not any(signed)
    rows = integer_layer_parity(exact, photographs(2).numpy())
    assert all(row.is_exact for row in rows)
    image = photographs(2)
    with torch.no_grad():
        assert torch.equal(exact.forward(image), quantized.forward(image))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_them(method: str) -> None:
    graph = captured()
    target = target_named("simulation")
    placement = target.place(graph, weight_bits=8, act_bits=8)
    quantized = calibrate(graph, placement, photographs(4), METHODS[method])
    expected = {g.name for g in graph.gemms if g.left.name in placement.options}
    assert quantized.layers.keys() == expected
    assert len(graph.gemms) - len(expected) == 1  # divided by a part of itself
    image = photographs(4)
    with torch.no_grad():
        fp32, found = graph.forward(image), quantized.forward(image)
    sqnr_db = 10 * torch.log10(fp32.square().sum() / (fp32 - found).square().sum())
    assert sqnr_db > 20
