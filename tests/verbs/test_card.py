"""`edgevit quantize --model NAME --bits 6`, as typed: no -o, no --calib, and one error for all."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgevit.bundle.naming import bundle_name, free_name, widths_named
from edgevit.cli import main
from edgevit.errors import EdgeViTError, EnvironmentError_, UsageError, check_together
from edgevit.zoo import network

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("EDGEVIT_DATA", ROOT.parent / "shared" / "data"))
QUICK = ["--method", "minmax", "--num-calib", "2"]


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """Type a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(main, ["quantize", *words])


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network and nothing downloaded before."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("edgevit.zoo.timm_models._find_cached", lambda *_: None)
    for home in (network, __import__("edgevit.zoo.timm_models").zoo.timm_models):
        monkeypatch.setattr(home, "hub_failure", lambda: "no route to host")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("swin_b", "swin_b_w6a6_cpu"),
        ("hf-hub:x/y", "y_w6a6_cpu"),
        ("C:\\models\\my vit", "my_vit_w6a6_cpu"),
        ("../models/vit/", "vit_w6a6_cpu"),
        ("pkg.mod:fn", "fn_w6a6_cpu"),
        ("vit_b.tag_1k", "vit_b.tag_1k_w6a6_cpu"),
        ("..", "model_w6a6_cpu"),
        ("\x1b[31mé", "31m_w6a6_cpu"),
    ],
)
def test_names_of_bundles_are_plain_file_names(model, name):
    assert bundle_name(model, "w6a6", "cpu") == name
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name)


def test_names_say_widths_and_unusual_methods(tmp_path):
    assert widths_named(4, 8) == "w4a8"
    assert widths_named(6, 6, avg_bits=5.5) == "avg5.5"
    assert widths_named(6, 6, max_size_mb=20) == "max20mb"
    assert widths_named(6, 6, mixed=True) == "mixed"
    assert bundle_name("m", "w6a6", "jetson-thor", "gptq") == "m_w6a6_jetson-thor_gptq"
    assert len(bundle_name("m" * 5000, "w6a6", "cpu")) < 200
    assert free_name(tmp_path, "m") == "m"
    (tmp_path / "m").mkdir()
    (tmp_path / "m_2").symlink_to("nowhere")
    assert free_name(tmp_path, "m") == "m_3"


def test_the_output_is_named_and_never_replaced(typed, tmp_path):
    for name in ("vit_cifar10_w6a6_cpu_minmax", "vit_cifar10_w6a6_cpu_minmax_2"):
        result = typed("--model", "vit_cifar10", "--bits", "6", *QUICK)
        assert result.exit_code == 0, result.output
        assert f"wrote {name}\n" in result.output
        assert (tmp_path / name / "manifest.json").is_file()
    assert "is there already and is kept" in result.output
    again = typed("--model", "vit_cifar10", "--bits", "6", *QUICK, "--overwrite")
    assert again.exit_code == 0, again.output
    assert "wrote vit_cifar10_w6a6_cpu_minmax\n" in again.output


def test_without_images_photographs_stand_in_and_the_report_says_so(typed, tmp_path):
    result = typed("--model", "deit_t", "--no-pretrained", *QUICK)
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "deit_t_w6a6_cpu_minmax" / "manifest.json").read_text())
    (warning,) = [line for line in manifest["warnings"] if "come with EdgeViT" in line]
    assert "calibrated on 2 crops" in warning
    assert "--calib" in warning
    assert all(".jpg/" in name for name in manifest["calibration"]["names"])


def test_all_that_is_wrong_is_said_at_once(typed, offline):
    asked = "--model swin_b --bits 9 --calib missing --target jetson --seed=-1"
    result = typed(*asked.split(" "))
    assert result.exit_code == 2
    assert "EV187" in result.output
    for code in ("EV220", "EV203", "EV101", "EV201", "EV152"):
        assert code in result.output


def test_missing_weights_are_the_only_error_and_name_every_way_out(typed, offline):
    result = typed("--model", "swin_b", "--bits", "6")
    assert result.exit_code == 3
    said = " ".join(result.output.split())
    assert "EV152" in said
    for way in ("--weights FILE", "--no-pretrained", "hf download timm/swin_base", "hub here"):
        assert way in said
    assert "--calib" not in said


def test_one_error_stays_as_it_is_and_is_said_once():
    error = UsageError("EV201", "Too many bits.", where="--bits")

    def fail() -> None:
        raise error

    def miss() -> None:
        raise EnvironmentError_("EV152", "No weights.", why="No network.", try_next="Connect.")

    check_together([lambda: None])
    with pytest.raises(UsageError) as raised:
        check_together([fail, fail])
    assert raised.value is error
    with pytest.raises(EdgeViTError) as both:
        check_together([miss, fail])
    assert both.value.code == "EV187"
    assert both.value.exit_status == 3
    assert both.value.why == "(1) EV152: No weights. No network. (2) EV201: Too many bits."


@pytest.mark.skipif(not (DATA / "deit_tiny.safetensors").exists(), reason="no EDGEVIT_DATA")
def test_a_real_deit_tiny_with_its_weights_and_nothing_else(typed, tmp_path):
    """Two images instead of the method's own number, which takes minutes."""
    weights = str(DATA / "deit_tiny.safetensors")
    result = typed("--model", "deit_t", "--weights", weights, "--bits", "6", *QUICK)
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "deit_t_w6a6_cpu_minmax" / "manifest.json").read_text())
    assert (manifest["bits"]["weights"], manifest["bits"]["activations"]) == (6, 6)
    assert manifest["model"]["parameters"] == 5_717_416
