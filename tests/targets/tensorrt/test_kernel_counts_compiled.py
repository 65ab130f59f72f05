"""Graphs of the small models, compiled by NVIDIA's compiler: how many kernels, in what precision.

No GPU is needed. A graph that the compiler takes apart again, or a product that it gives no kernel
of 8 bits, changes these numbers: they are what the forms of the lowering were chosen for.
"""

import pytest
import torch

pytest.importorskip("tensorrt_rtx")

from edgevit.calibration.methods import METHODS
from edgevit.calibration.run import Run, calibrate
from edgevit.calibration.search.variants import calibrate_variant
from edgevit.graph.capture import graph_from_module
from edgevit.runner.engines.tensorrt.layer_table import product_rows, summary
from edgevit.runner.engines.tensorrt_rtx.compiling import compiled_from_onnx
from edgevit.targets.onnx.builder import whole_model
from edgevit.targets.registry import TARGETS
from edgevit.targets.tensorrt.conformance import check_onnx
from edgevit.targets.tensorrt.profiles import PROFILES
from edgevit.zoo import load_model

ADA = TARGETS["rtx-ada"]
KERNELS = {
    ("vit_cifar10", "fp16"): (54, 0, ["fp16"] * 6),
    ("vit_cifar10", "int8"): (66, 24, ["fp16"] * 6),
    ("vit_cifar10", "int8_attention"): (60, 36, ["int8"] * 6),
    ("vit_cifar10", "fp8"): (60, 36, ["fp8"] * 6),
    ("swin_cifar10", "fp16"): (59, 0, ["fp16"] * 6),
    ("swin_cifar10", "int8"): (71, 24, ["fp16"] * 6),
    ("swin_cifar10", "int8_attention"): (67, 32, ["int8"] * 4 + ["fp16"] * 2),
    ("swin_cifar10", "fp8"): (65, 24, ["fp16"] * 6),
}
"""Kernels, products in 8 bits, what each attention reads.

Six blocks: 8 kernels a block in fp16, 10 in int8, 9 in int8_attention and fp8, and the ends. Heads
of Swin's last blocks are of no size for INT8, and windows of 16 tokens too small for FP8.
"""


@pytest.fixture(scope="module", params=["vit_cifar10", "swin_cifar10"])
def lowered(request):
    """A model's name, and what is written of each variant."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    graph = ADA.prepare(graph_from_module(load_model(request.param).model, (3, 32, 32)))
    placement = ADA.place(graph, weight_bits=8, act_bits=8)
    main = calibrate(graph, placement, images, METHODS["minmax"])
    forms = {"int8": main}
    for name, other in ADA.variants(graph, placement).items():
        run = Run(graph=graph, placement=other, images=images)
        forms[name] = calibrate_variant(main, other, run)
    return request.param, {name: ADA.lower(form) for name, form in forms.items()}


def compiled(lowered, card):
    """Return the engine's figures and its kernels."""
    engine = compiled_from_onnx(whole_model(lowered.onnx, lowered.tensors), (card,))
    return summary(product_rows(lowered.layers, engine.layers), engine.layers), engine.layers


def test_no_rule_taught_by_the_compiler_is_broken(lowered):
    """Cut along heads q, k and v stay one integer product: rule 42 is about other cuts."""
    for form in lowered[1].values():
        model = whole_model(form.onnx, form.tensors)
        rules = {found.rule for found in check_onnx(model, PROFILES["rtx-ada"]).findings}
        assert rules <= {36}  # codes at the end of the range


def attention_of(layers):
    return [one.precision for one in layers if one.is_attention]


@pytest.mark.parametrize("card", ["SM86", "SM89", "SM120"])
@pytest.mark.parametrize("variant", ["fp16", "int8", "int8_attention", "fp8"])
def test_no_kernel_is_lost(lowered, variant, card):
    """FP8 on Blackwell too, where three products of one tensor would stay three."""
    if (variant, card) == ("fp8", "SM86"):
        pytest.skip("there is no FP8")
    name, forms = lowered
    found, layers = compiled(forms[variant], card)
    assert (found.kernels, found.got_low, attention_of(layers)) == KERNELS[name, variant]
    assert found.got_low == found.asked_low


def test_attention_is_one_kernel_in_integers_on_turing_too(lowered):
    name, forms = lowered
    found, layers = compiled(forms["int8_attention"], "SM75")
    _, low, attention = KERNELS[name, "int8_attention"]
    assert (found.got_low, attention_of(layers)) == (low, attention)


def test_swin_moves_its_windows_in_kernels_that_are_there_anyway(lowered):
    name, forms = lowered
    if name != "swin_cifar10":
        pytest.skip("it has no windows")
    _, layers = compiled(forms["int8_attention"], "SM89")
    gathers = [one.name for one in layers if "Gath" in one.name]
    assert len(gathers) >= 6
    assert all("Mean" in one for one in gathers)  # with the LayerNorm
