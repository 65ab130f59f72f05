"""A recipe reads back what it wrote, and refuses what it can't be."""

import pytest

from edgevit.errors import UsageError
from edgevit.recipe import Recipe

RECIPE = Recipe(
    model='a "name"',
    weight_bits=4,
    act_bits=5,
    float_layers=("head", "blocks.0.*"),
    layer_bits={"blocks.1.mlp.fc1": (3, 5), "blocks.1.attn.qkv.q": (8, 2)},
)


def test_toml_and_back(tmp_path):
    for recipe in (RECIPE, Recipe(model="m", weight_bits=2, act_bits=8)):
        path = tmp_path / "recipe.toml"
        path.write_text(recipe.to_toml())
        assert Recipe.from_toml(path) == recipe
    assert "layer_bits" not in path.read_text()


@pytest.mark.parametrize(
    "line", ["layer_bits = 3", "layer_bits = {a = [4]}", "layer_bits = {a = [4, 2.5]}", "x = 1"]
)
def test_wrong_recipes(tmp_path, line):
    path = tmp_path / "recipe.toml"
    path.write_text(f'model = "m"\nweight_bits = 4\nact_bits = 4\n{line}\n')
    with pytest.raises(UsageError, match="EV210"):
        Recipe.from_toml(path)
