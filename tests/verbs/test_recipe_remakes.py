"""What a recipe keeps of a model's names and order, and what it says of no other model."""

import json

import pytest

from edgevit import api
from edgevit.errors import UsageError
from edgevit.recipe import read_recipe
from edgevit.verbs.options import options_from
from edgevit.zoo import reference_images

IMAGES = reference_images("calibration")
NAMES = [f"class {index}" for index in range(10)]


def made(tmp_path, name, **choices):
    artefact = api.quantize(images=IMAGES, method="minmax", num_calib=2, bits=8, **choices)
    return artefact.save(tmp_path / name)


def test_names_come_back(tmp_path):
    first = made(tmp_path, "first", model="vit_cifar10", classes=NAMES)
    again = made(tmp_path, "again", model=None, recipe=first.path / "recipe.toml")
    assert again.manifest["model"]["classes"] == NAMES
    assert json.dumps(again.manifest["recipe"]) == json.dumps(first.manifest["recipe"])


def test_an_order_comes_back_and_gives_way_to_names(tmp_path):
    first = made(tmp_path, "first", model="vit_cifar10", class_order="timm")
    recipe = first.path / "recipe.toml"
    assert options_from(recipe, budget=False).stated == (None, "timm")
    assert options_from(recipe, budget=False, classes=NAMES).stated == (NAMES, None)


def test_names_of_the_model_itself_are_not_kept(tmp_path):
    first = made(tmp_path, "first", model="vit_cifar10")
    assert not {"classes", "class_order"} & read_recipe(first.path / "recipe.toml").keys() - {
        "class_order"
    }


def test_another_model_takes_nothing_of_the_recipes_own(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text(
        'model = "test_vit"\nweights = "mine.pth"\nweight_bits = 5\nclass_order = "timm"\n'
        "[model_args]\nnum_classes = 1\n"
    )
    asked = options_from(file, budget=False, model="vit_cifar10")
    assert (asked.weight_bits, asked.model_args, asked.stated) == (5, {}, (None, None))
    with pytest.raises(UsageError, match="EV225"):
        options_from(file, budget=False)


def test_a_key_without_a_checkpoint_is_refused():
    with pytest.raises(UsageError, match="EV178"):
        options_from(None, budget=False, model="vit_cifar10", weights_key="ema")
