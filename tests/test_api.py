"""The Python API beyond what the command line does."""

import pytest

import edgevit
from edgevit import api
from edgevit.calibration.methods import METHODS
from edgevit.recipe import Recipe
from edgevit.zoo import reference_images

IMAGES = reference_images("calibration")


def test_public_names_are_where_they_were():
    for name in edgevit.__all__:
        assert getattr(edgevit, name) is not None
    for name in ("Artefact", "check_gates", "inspect", "load", "quantize", "validate"):
        assert callable(getattr(api, name))


def test_the_methods_own_number_of_images(monkeypatch):
    from dataclasses import replace

    monkeypatch.setitem(METHODS, "minmax", replace(METHODS["minmax"], num_images=5))
    artefact = api.quantize("vit_cifar10", IMAGES, method="minmax")
    assert artefact.recipe.num_calib == artefact.calibration["num_images"] == 5
    artefact = api.quantize("vit_cifar10", IMAGES, method="minmax", num_calib=3)
    assert artefact.recipe.num_calib == artefact.calibration["num_images"] == 3


def test_layer_bits_reach_the_bundle(tmp_path):
    layer_bits = {"blocks.0.mlp.fc1": (3, 5), "head": (8, 8)}
    made = api.quantize(
        "vit_cifar10", IMAGES, bits=4, method="minmax", num_calib=4, layer_bits=layer_bits
    )
    bundle = made.save(tmp_path / "bundle")
    rows = {row["module"]: row for row in bundle.manifest["layers"]}
    assert [rows["head"][key] for key in ("weight_bits", "left_bits")] == [8, 8]
    assert [rows["blocks.0.mlp.fc1"][key] for key in ("weight_bits", "left_bits")] == [3, 5]
    parameters = {name: row["parameters"] for name, row in rows.items() if row["parameters"]}
    stored = sum(n * layer_bits.get(name, (4, 4))[0] for name, n in parameters.items())
    assert bundle.manifest["bits"]["weight_mean"] == pytest.approx(
        stored / sum(parameters.values())
    )
    assert Recipe.from_toml(bundle.path / "recipe.toml") == made.recipe
    assert made.recipe.layer_bits == layer_bits
    uniform = api.quantize("vit_cifar10", IMAGES, bits=4, method="minmax", num_calib=4)
    fewer = parameters["blocks.0.mlp.fc1"] / 8 - 4 * parameters["head"] / 8
    saved = uniform.save(tmp_path / "uniform").size_bytes("engine") - bundle.size_bytes("engine")
    assert saved == pytest.approx(fewer, abs=600)
