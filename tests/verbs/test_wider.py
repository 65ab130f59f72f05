"""What narrow activations cost is said where they save nothing, and only there."""

from __future__ import annotations

import pytest

from edgevit import api
from edgevit.zoo import reference_images


def noted(**choices):
    artefact = api.quantize(
        "vit_cifar10",
        reference_images("calibration"),
        num_calib=16,
        method="minmax",
        compare_act_bits=True,
        **choices,
    )
    return [note for note in artefact.quantized.notes if "--act-bits" in note]


def test_narrow_activations_on_a_device_of_8_bits():
    (note,) = noted(bits=4)
    assert note.startswith("activations of 4 bits save neither size nor time on cpu, which ")
    narrow, wide = _numbers(note)
    assert narrow > wide > 0


def _numbers(note):
    """Return both divergences that a note names."""
    narrow, wide = note.split(" photographs is ")[1].split(", with --act-bits 8 ")
    return float(narrow), float(wide)


@pytest.mark.parametrize("choices", [{"bits": 8}, {"weight_bits": 4, "act_bits": 8}])
def test_wide_ones_need_no_note(choices):
    assert noted(**choices) == []


def test_methods_that_take_long_are_not_run_twice():
    from edgevit.calibration.methods import METHODS

    found = {method.name for method in METHODS.values() if method.takes_long}
    assert found == {"edgevit-train", "apq-vit", "liu2021"}
