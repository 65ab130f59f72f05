"""A recipe reads back what it wrote, and refuses what it can't be."""

import pytest

from edgevit.errors import UsageError
from edgevit.recipe import Recipe, digest_of, read_recipe

RECIPE = Recipe(
    model='a "name"',
    weight_bits=4,
    act_bits=5,
    float_layers=("head", "blocks.0.*"),
    layer_bits={"blocks.1.mlp.fc1": (3, 5), "blocks.1.attn.qkv.q": (8, 2)},
    pretrained=False,
    weights="caf\u00e9 \\ \x07.pth",
    weights_sha256="ab" * 32,
    images_sha256="cd" * 32,
)


def test_toml_and_back(tmp_path):
    for recipe in (RECIPE, Recipe(model="m", weight_bits=2, act_bits=8)):
        path = tmp_path / "recipe.toml"
        path.write_text(recipe.to_toml())
        assert Recipe.from_toml(path) == recipe
    assert "layer_bits" not in path.read_text()


@pytest.mark.parametrize(
    "line",
    [
        "layer_bits = 3",
        "layer_bits = {a = [4]}",
        "layer_bits = {a = [4, 2.5]}",
        "layer_bits = {a.b = [4, 4]}",
        "float_layers = 'head'",
        "float_layers = [1]",
        "pretrained = 1",
        "seed = 1.0",
        "num_calib = true",
        "weights = 3",
        "x = 1",
    ],
)
def test_wrong_recipes(tmp_path, line):
    path = tmp_path / "recipe.toml"
    path.write_text(f'model = "m"\nweight_bits = 4\nact_bits = 4\n{line}\n')
    with pytest.raises(UsageError, match="EV210"):
        Recipe.from_toml(path)


def test_a_recipe_of_an_older_bundle_is_read(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(
        'model = "m"\nweight_bits = 4\nact_bits = 5\nmethod = "mse"\ntarget = "cpu"\n'
        "num_calib = 32\nseed = 0\nfloat_layers = []\n"
    )
    assert Recipe.from_toml(path) == Recipe(model="m", weight_bits=4, act_bits=5, method="mse")


def test_a_part_of_a_recipe_is_read_but_is_no_recipe(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('float_layers = ["head"]\n')
    assert read_recipe(path) == {"float_layers": ("head",)}
    with pytest.raises(UsageError, match="EV210"):
        Recipe.from_toml(path)


def test_the_digest_of_images_depends_on_each_and_on_their_order():
    digests = [digest_of(images) for images in (["ab", "cd"], ["cd", "ab"], ["ab"], ["abcd"], [])]
    assert len(set(digests)) == len(digests)
