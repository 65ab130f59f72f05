"""What is given as a model: names that are none, code that fails, modules in other forms."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import edgevit
from edgevit.data import Preprocessing
from edgevit.errors import EdgeViTError, UsageError
from edgevit.recipe import Recipe
from edgevit.verbs.options import options_from
from edgevit.zoo import load_model, loaded_from_module
from edgevit.zoo.loaded import weights_sha256

TINY = "test_vit"
KNOWN = {
    "input_size": (3, 8, 8), "crop_pct": 1.0, "interpolation": "bicubic", "mean": (0.5,) * 3,
    "std": (0.5,) * 3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("hf-hub:../../x", "EV169"),
        ("hf-hub:a/../b", "EV169"),
        ("hf_hub:/etc/passwd", "EV169"),
        ("hf-hub:", "EV169"),
        ("transformers:../../x", "EV169"),
        ("transformers:/no/such/folder", "EV169"),
        ("vit_t\x1b[31m", "EV169"),
        ("vit_t\n", "EV169"),
        ("C:\\models\\vit", "EV181"),
        ("D:/models/vit", "EV181"),
        ("../no/such/folder", "EV181"),
        ("local-dir:../no/such/folder", "EV181"),
        ("x" * 5000, "EV151"),
        ("a/" * 2500, "EV151"),
        ("", "EV151"),
        ("models/vit.onnx", "EV168"),
        ("./vit.pth", "EV168"),
        ("C:\\models\\vit.safetensors", "EV168"),
    ],
)
def test_names_that_are_none(name: str, code: str) -> None:
    with pytest.raises(UsageError, match=code) as caught:
        load_model(name)
    assert "\x1b" not in str(caught.value)


def test_files_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save("script.pt")
    torch.save(nn.Linear(2, 2), "whole.pt")
    Path("model.onnx").write_bytes(b"x")
    Path("net.py").write_text("")
    said = {
        "script.pt": "TorchScript",
        "whole.pt": "--weights whole.pt",
        "model.onnx": "ONNX",
        "net.py": "net:FUNCTION",
    }
    for name, words in said.items():
        with pytest.raises(UsageError, match="EV168") as caught:
            load_model(name)
        assert words in f"{caught.value.why} {caught.value.try_next}"


CODE = """
import sys, torch

def raises():
    raise ValueError("no luck")

def leaves():
    sys.exit("bye")

def wants(size):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(size, 4))

def prints():
    print("hello")
    return wants(192)

def lists():
    return [1]

for _f in (raises, leaves, wants, prints, lists):
    _f.edgevit_preprocessing = {KNOWN}
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "zoo_given_code.py").write_text(CODE.replace("{KNOWN}", repr(KNOWN)))
    (tmp_path / "zoo_given_syntax.py").write_text("x = \n")
    (tmp_path / "zoo_given_exit.py").write_text("raise SystemExit(0)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "zoo_given_code", raising=False)
    return "zoo_given_code"


def test_code_that_fails(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = {
        f"{code}:raises": ("EV170", "ValueError: no luck", "zoo_given_code.py, line 5"),
        f"{code}:leaves": ("EV170", "SystemExit: bye", "zoo_given_code.py, line 8"),
        f"{code}:wants": ("EV167", "missing a required argument: 'size'", "wants"),
        f"{code}:lists": ("EV156", "It returned list", code),
        "zoo_given_syntax:f": ("EV170", "SyntaxError", "zoo_given_syntax.py, line 1"),
        "zoo_given_exit:f": ("EV170", "SystemExit: 0", "zoo_given_exit.py, line 1"),
    }
    for name, (error, why, where) in expected.items():
        with pytest.raises(UsageError, match=error) as caught:
            load_model(name)
        assert why in caught.value.why
        assert where in caught.value.where
    load_model(f"{code}:prints")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "hello\n")
    assert load_model(f"{code}:wants", model_args={"size": 192}).arguments == {"size": 192}


def test_code_on_the_command_line_ends_in_a_sentence(code: str, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    words = f"quantize --model {code}:leaves --calib . --num-calib 1 -o out".split()
    done = subprocess.run(
        [sys.executable, "-m", "edgevit.cli", *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == UsageError.exit_status
    assert "error EV170: The model's own code ended the program." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_recipes_code_is_imported_on_leave_only(code: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(f'model = "{code}:prints"\n')
    recipe = tmp_path / "recipe.toml"
    with pytest.raises(UsageError, match="EV171"):
        edgevit.quantize(None, "nowhere", recipe=recipe)
    assert code not in sys.modules
    asked = options_from(recipe, budget=False, trust_code=True)
    assert asked.model == options_from(recipe, budget=False, model=f"{code}:prints").model
    (tmp_path / "recipe.toml").write_text('model = "torchvision:vit_b_16"\n')
    options_from(recipe, budget=False)


def test_recipes_keep_arguments_and_preprocessing(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    kept = Preprocessing.from_crop_pct(**KNOWN).to_dict()
    recipe = Recipe(
        model=TINY,
        weight_bits=8,
        act_bits=8,
        model_args={"img_size": 96, "window_size": (7, 7), "global_pool": "avg"},
        preprocessing={k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()},
        weights_key="model_ema",
    )
    path.write_text(recipe.to_toml())
    assert Recipe.from_toml(path) == recipe
    given = {"preprocessing": {"crop_pct": 0.5}, "model_args": {"img_size": 64}}
    asked = options_from(path, budget=False, **given, weights="w.pth")
    assert asked.model_args == {**recipe.model_args, "img_size": 64}
    assert asked.preprocessing["crop_pct"] == 0.5
    assert "resize_size" not in asked.preprocessing
    for line in ("model_args = 3", "model_args = {a = {b = 1}}", "preprocessing = {mean = []}"):
        path.write_text(f'model = "m"\n{line}\n')
        with pytest.raises(UsageError, match="EV210"):
            options_from(path, budget=False)


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(TINY, num_classes=3)


FORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "float16": lambda m: m.half(),
    "bfloat16": lambda m: m.bfloat16(),
    "float64": lambda m: m.double(),
    "compiled": torch.compile,
    "parallel": nn.DataParallel,
    "compiled, parallel": lambda m: torch.compile(nn.DataParallel(m)),
}


@pytest.mark.parametrize("form", FORMS)
def test_modules_in_other_forms(form: str) -> None:
    given = FORMS[form](tiny())
    kinds = {p.dtype for p in given.parameters()}
    found = loaded_from_module(given)
    assert found.num_classes == 3
    assert {p.dtype for p in found.model.parameters()} == {torch.float32}
    assert {p.dtype for p in given.parameters()} == kinds
    assert any(form in note for note in found.notes) == form.startswith(("float", "bfloat"))
    if "float" not in form:
        assert found.weights_sha256 == weights_sha256(tiny())


def test_what_is_no_module() -> None:
    script = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    with torch.device("meta"):
        meta = nn.Linear(2, 2)
    for given, why in (
        (script, "TorchScript"),
        (meta, "meta"),
        (tiny().state_dict(), "state dict"),
        (3, "builtins.int"),
    ):
        with pytest.raises(UsageError, match="EV177") as caught:
            loaded_from_module(given)  # type: ignore[arg-type]
        assert why in caught.value.why


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for index in range(6):
        (tmp_path / "images" / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (170, 180, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / "ab"[index % 2] / f"{index}.png")
    return tmp_path / "images"


def test_a_grey_model_from_checkpoint_to_report(pictures: Path, tmp_path: Path) -> None:
    torch.save(timm.create_model(TINY, num_classes=2, in_chans=1).state_dict(), tmp_path / "w.pth")
    choices = {"weights": tmp_path / "w.pth", "method": "minmax", "bits": 8, "num_calib": 4}
    grey = {"mean": 0.4, "std": 0.3}
    artefact = edgevit.quantize(TINY, pictures, preprocessing=grey, **choices)
    bundle = artefact.save(tmp_path / "b")
    assert bundle.input_size == (1, 160, 160)
    assert bundle.golden()["images"].shape == (4, 160, 160, 1)
    assert bundle.manifest["model"]["arguments"] == {"num_classes": 2, "in_chans": 1}
    assert "mean, std: given" in bundle.manifest["model"]["preprocessing_source"]
    assert any("read from the shapes" in note for note in bundle.manifest["warnings"])
    report = edgevit.validate(bundle.path, pictures, rounds=2)
    assert report["agreement"]["engine_vs_simulated"] == 100
    again = edgevit.quantize(
        None, pictures, recipe=bundle.path / "recipe.toml", weights=tmp_path / "w.pth"
    )
    assert again.recipe == artefact.recipe
    assert np.array_equal(again.golden["logits_simulated"], artefact.golden["logits_simulated"])


def test_grey_pictures_are_converted_before_they_are_resized() -> None:
    grey = Preprocessing.from_crop_pct(
        **{**KNOWN, "input_size": (1, 8, 8), "mean": (0.5,), "std": (0.5,)}
    )
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (20, 16, 3), dtype=np.uint8))
    expected = np.asarray(image.convert("L").resize((8, 10), Image.Resampling.BICUBIC))[1:9]
    assert np.array_equal(grey.pixels(image)[..., 0], expected)
    assert grey.normalize(grey.pixels(image)[None]).shape == (1, 1, 8, 8)


def test_errors_of_a_models_forward_are_sentences() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(10, 4))
    with pytest.raises(EdgeViTError, match="EV174"):
        loaded_from_module(model, Preprocessing.from_crop_pct(**KNOWN))


def test_remote_code_is_never_run(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    (tmp_path / "code.py").write_text(trap)
    mapped = '{"AutoConfig": "code.C", "AutoModelForImageClassification": "code.M"}'
    (tmp_path / "config.json").write_text(f'{{"model_type": "of_its_own", "auto_map": {mapped}}}')
    with pytest.raises(UsageError, match="EV164"):
        load_model(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_options_reach_bundle_and_recipe(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from edgevit.cli import main

    words = "quantize --model vit_cifar10 --method minmax --num-calib 4 --mean 0.5 --crop-pct 0.5"
    out = tmp_path / "b"
    done = CliRunner().invoke(main, [*words.split(), "-o", str(out)])
    assert done.exit_code == 0, done.output
    shown = " ".join(done.output.split())
    assert "input_size, std, interpolation: edgevit:vit_cifar10; mean, crop_pct: given" in shown
    bundle = edgevit.load(out)
    assert (bundle.preprocessing["mean"], bundle.preprocessing["resize_size"]) == ([0.5] * 3, 64)
    words = f"quantize --recipe {out}/recipe.toml --std 0.3 -o {tmp_path}/again"
    assert CliRunner().invoke(main, words.split()).exit_code == 0
    again = edgevit.load(tmp_path / "again").preprocessing
    assert again == {**bundle.preprocessing, "std": [0.3] * 3}
