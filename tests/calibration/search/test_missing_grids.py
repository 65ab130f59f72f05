"""Warnings about twin grids: only of methods that would use them, and as many as they would use."""

import pytest

from edgevit.calibration.methods import METHODS
from edgevit.calibration.run import calibrate
from edgevit.calibration.search.parallel import left_grid
from edgevit.graph.model import Role
from edgevit.targets.registry import target_named

WITHOUT_TWINS = ("minmax", "percentile", "mse", "gptq", "noisyquant", "liu2021", "repq-vit-int")


def calibrated(graph, images, target, bits, method, **changes):
    placement = target_named(target).place(graph, weight_bits=bits, act_bits=bits, **changes)
    return calibrate(graph, placement, images, METHODS[method])


def warnings_of(quantized):
    return [note for note in quantized.notes if "twin" in note]


def count_of(notes, word):
    found = [int(note.split()[0]) for note in notes if f"behind a {word} " in note]
    assert len(found) <= 1
    return sum(found)


def twins_where_all_run(graph, images, bits, method, role):
    """Count the twin grids that a method chooses on the target that runs them all."""
    quantized = calibrated(graph, images, "simulation", bits, method)
    assert not warnings_of(quantized)
    sites = [gemm for gemm in graph.gemms if gemm.left.role is role]
    grids = [left_grid(quantized.layers[gemm.name]) for gemm in sites]
    return sum(grid.spec.kind.startswith("twin") for grid in grids)


@pytest.mark.parametrize("target", ["cpu", "jetson-orin-nano"])
@pytest.mark.parametrize("method", WITHOUT_TWINS)
def test_methods_that_never_use_twin_grids_say_nothing(vit, images, target, method):
    assert not warnings_of(calibrated(vit, images, target, 6, method))


@pytest.mark.parametrize("method", ["ptq4vit", "apq-vit", "edgevit"])
@pytest.mark.parametrize("bits", [6, 8])
def test_as_many_are_missed_as_the_method_chooses_where_it_can(split_vit, images, method, bits):
    notes = warnings_of(calibrated(split_vit, images, "cpu", bits, method))
    wanted = twins_where_all_run(split_vit, images, bits, method, Role.GELU_OUT)
    assert count_of(notes, "GELU") == wanted
    assert all(f"on cpu: they need more than 8 bits at {bits}-bit codes" in n for n in notes)
    if method == "ptq4vit":
        assert wanted == 2


@pytest.mark.parametrize("method", ["ptq4vit", "noisyquant+ptq4vit", "apq-vit", "edgevit"])
def test_nothing_is_missed_where_the_target_runs_them(split_vit, images, method):
    assert not warnings_of(calibrated(split_vit, images, "cpu", 4, method))


@pytest.mark.parametrize("method", ["ptq4vit", "noisyquant+ptq4vit"])
def test_on_a_jetson_the_warning_counts_both_kinds_of_sites(vit, images, method):
    notes = warnings_of(calibrated(vit, images, "jetson-orin-nano", 6, method))
    gelu, softmax = (
        next(note for note in notes if word in note) for word in ("a GELU", "a softmax")
    )
    assert gelu.startswith("2 inputs")
    assert "on jetson-orin-nano: TensorRT rounds a tensor with one step" in gelu
    assert softmax.startswith("2 inputs")
    assert "attention is float16 here" in softmax


def test_apq_vit_on_a_jetson_misses_those_behind_gelus_only(vit, images):
    notes = warnings_of(calibrated(vit, images, "jetson-orin-nano", 4, "apq-vit"))
    assert [note.split(" go ")[0] for note in notes] == ["2 inputs behind a GELU"]


def test_layers_asked_for_in_float_are_not_missed(vit, images):
    for target in ("cpu", "jetson-orin-nano"):
        layers = ("blocks.0.mlp.fc2", "blocks.*.attn.*")
        found = calibrated(vit, images, target, 6, "ptq4vit", float_layers=layers)
        assert [note.split(" go ")[0] for note in warnings_of(found)] == ["1 inputs behind a GELU"]
