"""The Python API beyond what the command line does."""

import pytest

import edgevit
from edgevit import api
from edgevit.calibration.methods import METHODS
from edgevit.errors import EdgeViTError, UsageError
from edgevit.recipe import Recipe
from edgevit.verbs.artefact import engine_bytes
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


def quick(**options):
    return api.quantize("vit_cifar10", IMAGES, method="minmax", num_calib=4, **options)


def test_a_mean_width_is_kept_and_reported(tmp_path):
    made = quick(avg_bits=4.5, allocation="nuclear")
    bundle = made.save(tmp_path / "bundle")
    assert bundle.manifest["bits"]["weight_mean"] <= 4.5
    assert len({row.get("weight_bits") for row in bundle.manifest["layers"]} - {None}) > 1
    assert any("correlation" in note for note in bundle.manifest["warnings"])
    assert Recipe.from_toml(bundle.path / "recipe.toml") == made.recipe
    again = quick(bits=4, layer_bits=made.recipe.layer_bits)
    assert again.lowered.tensors.keys() == made.lowered.tensors.keys()
    for name, array in again.lowered.tensors.items():
        assert (array == made.lowered.tensors[name]).all()


def test_a_size_is_kept_and_used(tmp_path):
    made = quick(max_size_mb=0.5, act_bits=8)
    size = made.save(tmp_path / "bundle").size_bytes("engine")
    assert size == engine_bytes(made.lowered)
    assert 0.47e6 < size <= 0.5e6
    assert {a for _, a in made.recipe.layer_bits.values()} == {8}


def test_budgets_that_can_not_be_met_or_meant():
    with pytest.raises(UsageError, match="EV222") as error:
        quick(max_size_mb=0.1)
    possible = float(error.value.try_next.rstrip(".").rsplit(" ", 1)[1])
    assert engine_bytes(quick(max_size_mb=possible).lowered) <= possible * 1e6
    for wrong, code in (
        ({"avg_bits": 1.5}, "EV221"),
        ({"avg_bits": 4, "allocation": "hessian"}, "EV213"),
        ({"avg_bits": 4, "weight_bits": 4, "act_bits": 4}, "EV232"),
        ({"max_size_mb": 1, "weight_bits": 4}, "EV232"),
        ({"avg_bits": 4, "layer_bits": {"head": (8, 8)}}, "EV232"),
    ):
        with pytest.raises(UsageError, match=code):
            quick(**wrong)


def test_fewer_images_than_the_method_wants_are_noted_not_refused(tmp_path):
    from edgevit.data import open_images

    few = open_images(reference_images("calibration")).subset(10, 0)
    artefact = api.quantize("vit_cifar10", few, method="minmax", bits=8)
    assert artefact.recipe.num_calib == 10
    assert any("10 calibration images instead of 32" in note for note in artefact.quantized.notes)
    with pytest.raises(EdgeViTError, match="EV103"):
        api.quantize("vit_cifar10", few, method="minmax", bits=8, num_calib=11)
    with pytest.raises(EdgeViTError, match="EV308"):
        api.quantize("vit_cifar10", few, method="minmax", target="simulation")


def test_images_that_come_with_a_model_are_taken_if_none_are_given():
    own = api.quantize("vit_cifar10", method="minmax", num_calib=4)
    named = api.quantize(
        "vit_cifar10", reference_images("calibration"), method="minmax", num_calib=4
    )
    assert own.calibration == named.calibration
    with pytest.raises(UsageError, match="EV205"):
        api.sensitivity("deit_s", pretrained=False)
