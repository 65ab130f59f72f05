"""A recipe file makes the same artefact again; what is given beside it wins."""

import json

import pytest
from click.testing import CliRunner

from edgevit import api
from edgevit.cli import main
from edgevit.errors import UsageError
from edgevit.recipe import Recipe, read_recipe
from edgevit.targets.cpu.target import CpuTarget
from edgevit.verbs.options import Asked, options_from
from edgevit.zoo import reference_images

IMAGES = reference_images("calibration")
BY_HAND = """
model = "vit_cifar10"
weight_bits = 5
act_bits = 7
method = "minmax"
num_calib = 3
pretrained = false
float_layers = ["blocks.1.mlp"]

[layer_bits]
head = [8, 8]
"blocks.0.mlp.fc1" = [3, 4]
"""


def quantized(*arguments):
    """Run the command and return click's result."""
    return CliRunner().invoke(main, ["quantize", *map(str, arguments)])


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "by_hand.toml"
    path.write_text(BY_HAND)
    return path


@pytest.fixture(scope="module")
def first(by_hand):
    """A bundle made from a recipe written by hand, with another seed."""
    path = by_hand.with_name("first")
    result = quantized("--recipe", by_hand, "--seed", 3, "--no-reference", "-o", path)
    assert result.exit_code == 0, result.output
    return path


def test_the_recipe_of_a_bundle_makes_the_same_bundle(first, tmp_path):
    recipe = first / "recipe.toml"
    result = quantized("--recipe", recipe, "--no-reference", "-o", tmp_path / "again")
    assert result.exit_code == 0, result.output
    for name in ("weights.bin", "graph.onnx", "recipe.toml"):
        assert (tmp_path / "again" / name).read_bytes() == (first / name).read_bytes()
    manifests = [json.loads((p / "manifest.json").read_text()) for p in (first, tmp_path / "again")]
    for key in ("recipe", "model", "calibration", "layers", "bits", "warnings"):
        assert manifests[0][key] == manifests[1][key], key


def test_what_the_recipe_says_is_done(first):
    manifest = api.inspect(first)
    rows = {row["module"]: row for row in manifest["layers"]}
    widths = {name: (row.get("weight_bits"), row.get("left_bits")) for name, row in rows.items()}
    assert widths["head"] == (8, 8)
    assert widths["blocks.0.mlp.fc1"] == (3, 4)
    assert widths["blocks.2.mlp.fc1"] == (5, 7)
    assert rows["blocks.1.mlp.fc2"]["kernel"].startswith("float")
    assert manifest["model"]["pretrained"] is False
    assert manifest["calibration"]["num_images"] == 3
    recipe = Recipe.from_toml(first / "recipe.toml")
    assert recipe.seed == 3
    assert recipe.weights_sha256 == manifest["model"]["weights_sha256"]
    assert len(recipe.images_sha256) == 64


def test_other_weights_and_images_than_the_recipes_are_noted(first):
    recipe = first / "recipe.toml"
    made = api.quantize(None, IMAGES, recipe=recipe, num_calib=2, pretrained=True, bits=4)
    notes = [note for note in made.quantized.notes if "not those of the recipe" in note]
    assert [note.split(" are ")[0] for note in notes] == ["the weights", "the calibration images"]
    assert all(str(recipe) in note for note in notes)
    assert (made.recipe.weight_bits, made.recipe.act_bits, made.recipe.seed) == (4, 4, 3)
    assert made.recipe.layer_bits["head"] == (8, 8)
    assert options_from(recipe, budget=False).differences(made.model, made.calibration) == notes


def test_a_recipe_names_its_checkpoint_and_wants_it_again(tmp_path):
    from safetensors.torch import save_file

    from edgevit.zoo.loading import load_model

    path = tmp_path / "mine.safetensors"
    save_file(load_model("vit_cifar10", pretrained=False).model.state_dict(), path)
    made = api.quantize("vit_cifar10", IMAGES, weights=path, method="minmax", num_calib=1)
    assert (made.recipe.weights, made.recipe.pretrained) == ("mine.safetensors", True)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(made.recipe.to_toml())
    assert str(tmp_path) not in recipe.read_text()
    for arguments in ((), ("--calib", IMAGES)):
        result = quantized("--recipe", recipe, *arguments, "-o", tmp_path / "out")
        assert result.exit_code == 2
        assert "error EV225" in result.output
        assert f"where: {recipe}: weights" in result.output
    assert options_from(recipe, budget=False, weights=path).checkpoint_name == "mine.safetensors"
    assert options_from(recipe, budget=False, pretrained=True).weights is None
    assert options_from(recipe, budget=False, pretrained=False).pretrained is False


def test_what_is_given_wins(by_hand):
    def widths(budget=False, **given):
        asked = options_from(by_hand, budget=budget, **given)
        return asked.bits, asked.weight_bits, asked.act_bits

    assert widths() == (6, 5, 7)
    assert widths(act_bits=4) == (6, 5, 4)
    assert widths(bits=4) == (4, None, None)
    assert widths(bits=4, act_bits=8) == (4, None, 8)
    assert widths(budget=True) == (6, None, None)
    asked = options_from(by_hand, budget=False, seed=1, method=None, float_layers=(), layer_bits={})
    assert (asked.seed, asked.method, asked.num_calib) == (1, "minmax", 3)
    assert (asked.float_layers, asked.layer_bits, asked.fixed_layers) == ((), {}, "")
    assert options_from(None, budget=False, model="m") == Asked(model="m")


def test_a_default_is_nothing_that_was_given(by_hand, monkeypatch):
    """Of the options only those on the command line reach `edgevit.quantize` beside a recipe."""
    seen = {}

    def stop(model, images, **choices):
        seen.update(choices, model=model)
        raise UsageError("EV999", "stopped")

    monkeypatch.setattr(api, "quantize", stop)
    quantized("--recipe", by_hand, "--bits", 6, "--float-layer", "head", "-o", "never")
    seen.pop("progress")
    assert seen == {
        "compare_act_bits": True,
        "model": None,
        "recipe": str(by_hand),
        "bits": 6,
        "float_layers": ("head",),
    }


@pytest.mark.parametrize("budget", [{"avg_bits": 4}, {"max_size_mb": 1}])
def test_a_budget_beside_widths_of_single_layers_is_refused(by_hand, budget):
    with pytest.raises(UsageError, match="EV232") as caught:
        api.quantize(None, IMAGES, recipe=by_hand, **budget)
    assert f"layer_bits of {by_hand}" in caught.value.why


def test_a_width_that_no_layer_is_left_for_is_refused(split_vit, tmp_path):
    placement = CpuTarget().place(split_vit, weight_bits=4, act_bits=4, float_layers=("head",))
    modules = {gemm.module for gemm in split_vit.gemms} - {"head"}
    path = tmp_path / "recipe.toml"
    made = Recipe(model="m", weight_bits=4, act_bits=4, layer_bits=dict.fromkeys(modules, (4, 4)))
    path.write_text(made.to_toml())
    options_from(path, budget=False).check_widths_matter(split_vit, placement)
    for option in ("bits", "weight_bits", "act_bits"):
        with pytest.raises(UsageError, match="EV214") as caught:
            options_from(path, budget=False, **{option: 4}).check_widths_matter(
                split_vit, placement
            )
        assert str(path) in caught.value.why
    path.write_text(path.read_text().replace('"blocks.0.mlp.fc1" = [4, 4]\n', ""))
    assert len(read_recipe(path)["layer_bits"]) == len(modules) - 1
    options_from(path, budget=False, bits=4).check_widths_matter(split_vit, placement)


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("weight_bits = 9", "EV201", "--weight-bits"),
        ("act_bits = 1", "EV201", "--act-bits"),
        ('method = "ptq4vi"', "EV202", "--method"),
        ('target = "gpu"', "EV203", "--target"),
        ("num_calib = 0", "EV204", "--num-calib"),
        ("seed = -1", "EV220", "--seed"),
        ('float_layers = ["blocks.77"]', "EV219", "--float-layer"),
        ("layer_bits = {head = [8, 9]}", "EV201", "layer_bits of head"),
        ("layer_bits = {tail = [8, 8]}", "EV211", "layer_bits"),
    ],
)
def test_a_wrong_value_is_refused_in_the_name_of_the_file(text, code, said, tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text(f'model = "vit_cifar10"\n{text}\n')
    result = quantized("--recipe", path, "-o", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert f"error {code}: " in result.output
    assert f"where: {path}: {said}\n" in result.output
    assert not (tmp_path / "out").exists()


def test_a_value_that_was_given_is_refused_in_its_own_name(by_hand, tmp_path):
    result = quantized("--recipe", by_hand, "--weight-bits", 9, "-o", tmp_path / "out")
    assert "where: --weight-bits\n" in result.output


@pytest.mark.parametrize(
    ("text", "code"), [("seed = 1", "EV226"), ('model = "vit_cifar11"', "EV151"), ("", "EV226")]
)
def test_a_recipe_without_a_model_or_with_an_unknown_one(text, code, tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    result = quantized("--recipe", path, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert f"error {code}: " in result.output
    assert str(path) in result.output


def test_without_a_recipe_a_model_is_needed(tmp_path):
    result = quantized("-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "EV226" in result.output
    with pytest.raises(UsageError, match="EV226"):
        api.quantize(None, IMAGES)


@pytest.mark.parametrize("content", [None, b"\xff", b"model = ", b"x = 1", b"a = " + b"[" * 9999])
def test_a_file_that_is_no_recipe_is_named(content, tmp_path):
    path = tmp_path / "recipe.toml"
    if content is not None:
        path.write_bytes(content)
    result = quantized("--recipe", path, "-o", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert "error EV210: " in result.output
    assert f"where: {path}\n" in result.output
