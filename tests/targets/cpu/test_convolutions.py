"""Convolutions on the CPU: in integers where that pays, exactly those of the simulation."""

from dataclasses import replace

import onnx
import pytest
import torch
from convolutional import SIZE, hybrid
from torch import nn

from edgevit.calibration.methods import METHODS
from edgevit.calibration.run import calibrate
from edgevit.graph.capture import graph_from_module
from edgevit.quantizers.quantized_graph import QuantizedGraph
from edgevit.runner.engines.onnxruntime.session import EngineSession
from edgevit.targets.cpu.parity import integer_layer_parity
from edgevit.targets.cpu.target import CpuTarget
from edgevit.targets.onnx.builder import whole_model

TARGET = CpuTarget()


@pytest.fixture(scope="module")
def graph():
    return TARGET.prepare(graph_from_module(hybrid(), SIZE))


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(1))


def quantized_at(graph, images, bits=8, method="minmax", **choices) -> QuantizedGraph:
    placement = TARGET.place(graph, weight_bits=bits, act_bits=bits, **choices)
    return calibrate(graph, placement, images, METHODS[method])


@pytest.mark.parametrize(
    ("bits", "method"),
    [(8, "minmax"), (3, "minmax"), (6, "edgevit"), (4, "gptq"), (4, "noisyquant+ptq4vit")],
)
def test_engine_and_simulation_compute_the_same_integers(graph, images, bits, method):
    quantized = quantized_at(graph, images, bits, method)
    rows = integer_layer_parity(quantized, images.numpy())
    assert {"wide", "down"} <= {row.module for row in rows}
    assert all(row.is_exact and row.sums > 0 for row in rows), rows
    assert {row.kernel for row in rows} == {"MatMulIntegerToFloat"}


def test_parity_finds_a_wrong_tap(graph, images, monkeypatch):
    """The check can fail: the simulation's taps are moved behind the writer's back."""
    from edgevit.targets.cpu import parity

    quantized = quantized_at(graph, images)
    unfold = parity._inputs

    def moved(probes, values):
        if probes.window is not None and probes.window.padding == (2, 2):
            window = replace(probes.window, padding=(1, 1), dilation=(1, 1))
            probes = replace(probes, window=window)
        return unfold(probes, values)

    monkeypatch.setattr(parity, "_inputs", moved)
    rows = integer_layer_parity(quantized, images.numpy())
    wrong = [row.module for row in rows if row.wrong_codes]
    assert wrong == ["wide"]


def test_logits_of_the_engine_are_the_simulations(graph, images):
    quantized = quantized_at(graph, images)
    lowered = TARGET.lower(quantized)
    model = whole_model(lowered.onnx, lowered.tensors)
    found = EngineSession(model, session_config=lowered.session_config).run(images.numpy())
    assert torch.allclose(torch.from_numpy(found), quantized.forward(images), atol=1e-5)


def test_convolutions_in_float_are_one_operator_each_and_the_models_own(graph, images):
    quantized = quantized_at(graph, images, float_layers=("*",))
    assert torch.allclose(quantized.forward(images), graph.forward(images), atol=1e-5)
    in_torch = replace(quantized, placement=replace(quantized.placement, float_parts=None))
    assert torch.equal(in_torch.forward(images), graph.forward(images))
    lowered = TARGET.lower(quantized)
    operators = [node.op_type for node in onnx.ModelProto.FromString(lowered.onnx).graph.node]
    assert operators.count("Conv") == 5
    assert "Gather" not in operators


def test_tokens_are_read_from_rows_without_a_transposition(graph, images):
    lowered = TARGET.lower(quantized_at(graph, images))
    nodes = onnx.ModelProto.FromString(lowered.onnx).graph.node
    rows = next(row["tensor"] for row in lowered.layers if row["module"] == "down")
    readers = {node.op_type for node in nodes if rows in node.input}
    assert readers == {"LayerNormalization"}


def test_rows_say_why_products_stay_in_float(graph, images):
    lowered = TARGET.lower(quantized_at(graph, images))
    reasons = {row["module"]: row["reason"] for row in lowered.layers if "reason" in row}
    assert reasons == {
        "stem": "a convolution with fewer than 24 channels: float is faster here",
        "depthwise": "a depthwise convolution: float is faster here",
        "grouped": "a convolution in groups: float is faster here",
    }


def test_padding_is_what_the_grid_makes_of_zero(graph, images):
    """A codebook need not have a level there."""
    quantized = quantized_at(graph, images, 3, "edgevit-codebook")
    name = next(gemm.name for gemm in quantized.graph.gemms if gemm.module == "wide")
    layer = quantized.layers[name]
    levels = tuple(range(9, 9 + 8 * 20, 20))
    assert int(layer.grid.zero_point) not in levels
    quantized.layers[name] = replace(layer, grid=replace(layer.grid, levels=levels))
    assert all(row.is_exact for row in integer_layer_parity(quantized, images.numpy()))


class Chained(nn.Module):
    """Convolutions with nothing between them, whose codes the engine makes before it moves them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.second, self.third = nn.Conv2d(32, 32, 3, 2, 1), nn.Conv2d(32, 48, 2, padding=1)
        self.head = nn.Linear(48, 5)

    def forward(self, x):
        x = self.third(self.second(self.second(self.first(x).relu())))
        return self.head(x.flatten(2).transpose(1, 2)).mean(1)


@pytest.mark.parametrize(("bits", "method"), [(8, "minmax"), (4, "minmax"), (4, "gptq")])
def test_convolutions_behind_each_other(images, bits, method):
    graph = TARGET.prepare(graph_from_module(Chained(), SIZE))
    quantized = quantized_at(graph, images, bits, method)
    lowered = TARGET.lower(quantized)
    assert {row["kernel"] for row in lowered.layers if row["kind"] == "conv"} == {
        "float32",  # of three channels
        "MatMulIntegerToFloat",
    }
    assert all(row.is_exact for row in integer_layer_parity(quantized, images.numpy()))
    session = EngineSession(whole_model(lowered.onnx, lowered.tensors))
    assert torch.equal(torch.from_numpy(session.run(images.numpy())), quantized.forward(images))


class _InARow(torch.nn.Module):
    """Convolutions and linears with nothing between them but what moves values."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = torch.nn.Conv2d(3, 32, 4, 4)
        self.across = torch.nn.Conv2d(32, 32, (1, 5), padding=(0, 2))
        self.down = torch.nn.Conv2d(32, 32, (5, 1), padding=(2, 0))
        self.head = torch.nn.Linear(32, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.down(self.across(self.stem(image)))  # [B, 32, 8, 8]
        return self.head(x.flatten(2).transpose(1, 2)[:, ::2]).mean(1)


def test_products_in_a_row_are_integer_kernels_that_the_engine_renames(images):
    """It rounds a product's output before it cuts or moves it, and gives it another name."""
    quantized = quantized_at(TARGET.prepare(graph_from_module(_InARow(), SIZE)), images)
    lowered = TARGET.lower(quantized)
    assert {row["kernel"] for row in lowered.layers} == {"MatMulIntegerToFloat"}
    found = EngineSession(
        whole_model(lowered.onnx, lowered.tensors), session_config=lowered.session_config
    ).run(images.numpy())
    assert torch.equal(torch.from_numpy(found), quantized.forward(images))
