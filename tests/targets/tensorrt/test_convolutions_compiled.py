"""Convolutions for TensorRT: Q/DQ in front, per-channel weights on axis 0, kernels as compiled."""

import onnx
import pytest
import torch
from convolutional import SIZE, hybrid
from torch import nn

from edgevit.calibration.methods import METHODS
from edgevit.calibration.run import Run, calibrate
from edgevit.calibration.search.variants import calibrate_variant
from edgevit.graph.capture import graph_from_module
from edgevit.runner.engines.tensorrt.layer_table import product_rows
from edgevit.targets.onnx.builder import whole_model
from edgevit.targets.registry import TARGETS
from edgevit.targets.tensorrt.conformance import BuildFacts, check_onnx
from edgevit.targets.tensorrt.parity import qdq_layer_parity
from edgevit.targets.tensorrt.profiles import PROFILES

TARGET = TARGETS["rtx-ada"]
IMAGES = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(1))
QUANTIZED = {"wide", "down"}


def quantized(model=None, bits=8):
    graph = graph_from_module(hybrid() if model is None else model, SIZE)
    placement = TARGET.place(graph, weight_bits=bits, act_bits=bits)
    return calibrate(graph, placement, IMAGES, METHODS["minmax"])


@pytest.mark.parametrize("bits", [4, 8])
def test_codes_are_the_simulations_and_outputs_differ_in_the_last_digit(bits):
    rows = {row.module: row for row in qdq_layer_parity(quantized(bits=bits), IMAGES.numpy())}
    assert set(rows) >= QUANTIZED
    assert all(row.codes > 0 and row.wrong_codes == 0 for row in rows.values())
    assert all(rows[name].error < 0.01 for name in QUANTIZED)


def test_the_graph_has_the_form_that_the_builder_looks_for():
    lowered = TARGET.lower(quantized())
    whole = whole_model(lowered.onnx, lowered.tensors)
    nodes = onnx.ModelProto.FromString(whole).graph.node
    writers = {node.output[0]: node for node in nodes}
    convs = [node for node in nodes if node.op_type == "Conv"]
    made_by = {node.output[0]: [writers.get(name) for name in node.input[:2]] for node in convs}
    behind_pairs = [
        node
        for node in convs
        if all(one and one.op_type == "DequantizeLinear" for one in made_by[node.output[0]])
    ]
    assert len(convs) == 5
    assert len(behind_pairs) == 2
    axes = {writers[node.input[1]].attribute[0].i for node in behind_pairs}
    assert axes == {0}
    assert all(len(node.input) == 3 for node in behind_pairs)
    found = check_onnx(whole, PROFILES["rtx-ada"], facts=BuildFacts(asked="int8"))
    assert found.conforms
    assert not [one for one in found.findings if one.rule in (8, 14, 15, 27)]


def test_rows_say_why_the_others_stay_in_float16():
    rows = {row["module"]: row for row in TARGET.lower(quantized()).layers}
    convs = {name for name, row in rows.items() if row["kind"] == "conv"}
    assert {name for name in convs if "grid" in rows[name]} == QUANTIZED
    reasons = {name: rows[name].get("reason") for name in convs}
    assert reasons["stem"] == "the patch embedding stays in float16: three input channels"
    assert reasons["depthwise"].startswith("a depthwise convolution stays in float16")
    assert reasons["grouped"] == "a convolution in groups stays in float16"
    assert rows["depthwise"]["float_bits"] == 16


class Large(nn.Module):
    """A convolution with more taps than FP8 kernels have, and one whose channels do not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 4, stride=4)
        self.large = nn.Conv2d(32, 32, 7, padding=3)
        self.odd = nn.Conv2d(32, 20, 3)
        self.head = nn.Linear(20, 5)

    def forward(self, image):
        return self.head(self.odd(self.large(self.stem(image)).relu()).mean((2, 3)))


def test_convolutions_without_a_kernel_stay_in_float16():
    torch.manual_seed(0)
    main = quantized(Large().eval())
    placement, fp8 = main.placement, TARGET.variants(main.graph, main.placement)["fp8"]
    assert placement.skipped["odd:input"].startswith("a convolution of fewer than 16 channels")
    assert "large:input" in placement.options
    assert fp8.skipped["large:input"] == "a convolution without an FP8 kernel stays in float16"


def test_the_compiler_makes_8_bit_kernels_of_them():
    pytest.importorskip("tensorrt_rtx")
    main = quantized()
    forms = {"int8": main}
    fp8 = TARGET.variants(main.graph, main.placement)["fp8"]
    run = Run(graph=main.graph, placement=fp8, images=IMAGES)
    forms["fp8"] = calibrate_variant(main, fp8, run)
    for name, form in forms.items():
        lowered = TARGET.with_kernels(TARGET.lower(form), name)
        rows = {row.module: row for row in product_rows(lowered.layers, lowered.kernels.layers)}
        assert {rows[one].chosen for one in QUANTIZED} == {name}
        assert rows["depthwise"].asked == "float"
