"""Tiny graphs of every TensorRT target through NVIDIA's compiler."""

from dataclasses import replace

import pytest

from edgevit.calibration.methods import METHODS
from edgevit.calibration.run import Run, calibrate
from edgevit.calibration.search.variants import calibrate_variant
from edgevit.errors import EdgeViTError
from edgevit.runner.engines.tensorrt.layer_table import product_rows
from edgevit.targets.registry import TARGETS
from edgevit.targets.tensorrt.compiling import with_kernels
from edgevit.targets.tensorrt.profiles import PROFILES

COMPILED = [name for name, profile in PROFILES.items() if profile.compiles_as]


@pytest.fixture(autouse=True)
def compiler():
    """NVIDIA's compiler, where it is installed."""
    return pytest.importorskip("tensorrt_rtx")


def quantized(graph, images, target):
    prepared = target.prepare(graph)
    placement = target.place(prepared, weight_bits=8, act_bits=8)
    return calibrate(prepared, placement, images, METHODS["minmax"])


def products(lowered):
    return product_rows(lowered.layers, lowered.kernels.layers)


@pytest.mark.parametrize("target", COMPILED)
def test_q_k_and_v_are_integers_for_every_device(vit, images, target):
    found = TARGETS[target]
    lowered = found.with_kernels(found.lower(quantized(vit, images, found)), "int8")
    rows = [row for row in products(lowered) if row.asked != "float"]
    names = [row.module.rpartition(".")[2] for row in rows]
    assert names == 2 * ["qkv", "proj", "fc1", "fc2"]
    assert {(row.chosen, row.reason) for row in rows} == {("int8", "")}
    assert lowered.kernels.capabilities == (PROFILES[target].compiles_as,)
    assert (lowered.kernels.variant, lowered.unchecked) == ("int8", "")


def test_every_form_of_a_swin_is_as_asked(swin, images):
    found = TARGETS["rtx-blackwell"]
    main = quantized(swin, images, found)
    forms = {"int8": main}
    for name, placement in found.variants(main.graph, main.placement).items():
        run = Run(graph=main.graph, placement=placement, images=images)
        forms[name] = calibrate_variant(main, placement, run)
    for name, form in forms.items():
        lowered = found.with_kernels(found.lower(form), name)
        assert not any(row.reason for row in products(lowered) if row.asked != "float")
        assert lowered.kernels.num_kernels > 20


def test_a_graph_that_can_not_be_compiled_is_an_error_where_the_compiler_is_the_devices_own(
    vit, images
):
    """FP8 for SM86, which no target offers."""
    ada = TARGETS["rtx-ada"]
    main = quantized(vit, images, ada)
    placement = ada.variants(main.graph, main.placement)["fp8"]
    run = Run(graph=main.graph, placement=placement, images=images)
    lowered = ada.lower(calibrate_variant(main, placement, run))
    with pytest.raises(EdgeViTError, match="fp8"):
        with_kernels(lowered, PROFILES["rtx-ampere"], "fp8")
    found = with_kernels(lowered, PROFILES["jetson-orin-nano"], "fp8")
    assert "makes no engine of it for SM86" in found.unchecked
    assert found == replace(lowered, unchecked=found.unchecked)


def test_a_device_of_another_generation_gets_its_graph_as_it_is(vit, images):
    thor = TARGETS["jetson-thor"]
    lowered = thor.lower(quantized(vit, images, thor))
    assert thor.with_kernels(lowered, "int8") is lowered
