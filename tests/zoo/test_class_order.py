"""From folders to the report: order asked for, wrong order and one class said, a single logit."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import edgevit
from edgevit.bundle import open_bundle
from edgevit.data import Preprocessing
from edgevit.data.class_orders import CLASS_ORDERS
from edgevit.errors import BundleError, DataError, UndecidedError, UsageError
from edgevit.report.table import inspect_table, validation_table
from edgevit.runner.engines.onnxruntime.session import session_from_bundle

SIDE, CLASSES = 8, 7
HALF = (0.5, 0.5, 0.5)
PREPROCESSING = Preprocessing.from_crop_pct(
    input_size=(3, SIDE, SIDE), crop_pct=1.0, interpolation="bicubic", mean=HALF, std=HALF
)
FOLDERS = ["1", "2", "3", "4", "5", "10", "11"]
BY_STRING = sorted(FOLDERS)
QUICK = {"threads": 1, "rounds": 2}


def shown(table) -> str:
    from rich.console import Console

    stream = io.StringIO()
    Console(width=200, file=stream).print(table)
    return " ".join(stream.getvalue().split())


def bundle_of(parts, path: Path, **model) -> Path:
    parts.manifest["preprocessing"] = PREPROCESSING.to_dict()
    parts.manifest["model"] |= model
    return parts.write(path)


@pytest.fixture
def bundle(parts, tmp_path) -> Path:
    return bundle_of(parts, tmp_path / "bundle")


@pytest.fixture
def data(bundle, pixels_to_input, tmp_path) -> Path:
    """Noise in the folders that a model trained with ImageFolder would have seen it in."""
    session = session_from_bundle(open_bundle(bundle), "fp32", threads=1)
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (4000, SIDE, SIDE, 3)).astype(np.uint8)
    answers = session.run(pixels_to_input(images)).argmax(1)
    for index, folder in enumerate(BY_STRING):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for at in np.flatnonzero(answers == index)[:8]:
            Image.fromarray(images[at]).save(tmp_path / "data" / folder / f"{at}.png")
    return tmp_path / "data"


def test_the_order_is_asked_for_said_and_makes_the_difference(bundle, data):
    with pytest.raises(DataError, match="EV112"):
        edgevit.validate(bundle, data, **QUICK)
    right = edgevit.validate(bundle, data, class_order="torchvision", max_drop=60, **QUICK)
    assert right["top1"]["fp32"] == 100
    assert right["chance"]["above"] is True
    assert right["verdict"] == "PASS"
    assert right["labels"] == {
        "source": "order of the folders as in torchvision",
        "num_folders": 7,
        "mapping": {folder: index for index, folder in enumerate(BY_STRING)},
    }
    said = shown(validation_table(right))
    assert "labels by order of the folders as in torchvision: 1 -> 0, 10 -> 1, 11 -> 2" in said


def test_a_wrong_order_is_no_pass(bundle, data, tmp_path):
    turned = [BY_STRING[(index + 1) % 7] for index in range(7)]
    report = edgevit.validate(bundle, data, classes=turned, max_drop=60, **QUICK)
    assert report["top1"]["fp32"] == 0
    assert report["warnings"][0].startswith("fp32 itself is at chance level (0.0 % with 7 classes)")
    assert "order of the classes is probably wrong" in report["warnings"][0]
    assert report["verdict"] == "UNDECIDED"
    with pytest.raises(UndecidedError, match="EV114"):
        edgevit.api.check_gates(report, max_drop=60, max_latency_ms=None)
    edgevit.api.check_gates(report, max_drop=None, max_latency_ms=None)
    assert "UNDECIDED fp32 itself is at chance level" in shown(validation_table(report))


def test_random_weights_are_named_as_the_cause(parts, data, tmp_path):
    bundle = bundle_of(parts, tmp_path / "random", pretrained=False)
    turned = [BY_STRING[(index + 1) % 7] for index in range(7)]
    report = edgevit.validate(bundle, data, classes=turned, **QUICK)
    assert report["warnings"][0].endswith("Its weights are random.")


def test_names_and_order_kept_in_the_bundle(parts, data, tmp_path):
    ordered = bundle_of(parts, tmp_path / "ordered", class_order="torchvision")
    assert edgevit.validate(ordered, data, **QUICK)["top1"]["fp32"] == 100
    assert "order of their folders as in torchvision" in shown(
        inspect_table(open_bundle(ordered).manifest)
    )
    parts.manifest["model"].pop("class_order")
    named = bundle_of(parts, tmp_path / "named", classes=BY_STRING, classes_from="labels.txt")
    report = edgevit.validate(named, data, **QUICK)
    assert report["top1"]["fp32"] == 100
    assert report["labels"]["source"] == "class names of labels.txt"
    with pytest.raises(UsageError, match="EV113"):
        edgevit.validate(named, data, class_order="timm", **QUICK)


def test_one_class_is_no_success(bundle, data, tmp_path):
    report = edgevit.validate(bundle, _only(data, tmp_path, "5"), classes=BY_STRING, **QUICK)
    assert report["top1"] == {"fp32": 100, "engine": 100}
    assert "images are of one class" in report["warnings"][0]
    assert report["verdict"] == "UNDECIDED"
    with pytest.raises(UndecidedError, match="EV114"):
        edgevit.api.check_gates(report, max_drop=50, max_latency_ms=None)


def _only(data: Path, tmp_path: Path, folder: str) -> Path:
    (tmp_path / "one").mkdir()
    (data / folder).rename(tmp_path / "one" / folder)
    return tmp_path / "one"


@pytest.mark.parametrize("order", [*CLASS_ORDERS, "alphabet", 3])
def test_a_bundle_has_an_order_that_is_known(parts, tmp_path, order):
    if order in CLASS_ORDERS:
        bundle_of(parts, tmp_path / "bundle", class_order=order)
        return
    with pytest.raises(BundleError, match="class_order"):
        bundle_of(parts, tmp_path / "bundle", class_order=order)


@pytest.mark.parametrize(
    ("stated", "kept"),
    [
        ({"classes": ["no", "yes"]}, {"classes": ["no", "yes"], "classes_from": "the names given"}),
        ({"class_order": "timm"}, {"classes": None, "class_order": "timm"}),
    ],
)
def test_quantize_keeps_what_was_stated(stated, kept, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3)).astype(np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels)
    options = {"bits": 8, "method": "minmax", "num_calib": 8, "preprocessing": PREPROCESSING}
    made = edgevit.quantize(Brightness(), tmp_path / "images.npz", **options, **stated)
    model = made.save(tmp_path / "bundle").manifest["model"]
    assert {key: model.get(key) for key in kept} == kept
    with pytest.raises(DataError, match="EV122"):
        edgevit.quantize(Brightness(), tmp_path / "images.npz", **options, classes=["a"])


class Brightness(nn.Module):
    """One logit: how much redder than grey an image is, through a small transformer's pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.fc1, self.fc2 = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(image).flatten(2).transpose(1, 2)  # [B, N, 16]
        tokens = tokens + self.fc2(nn.functional.gelu(self.fc1(tokens)))
        return self.head(tokens.mean(1))  # [B, 1]


def _trained(images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    model = Brightness()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(150):
        loss = nn.functional.binary_cross_entropy_with_logits(model(images)[:, 0], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_a_single_logit_from_quantize_to_the_report(tmp_path):
    random = np.random.default_rng(0)
    pixels = random.integers(60, 196, (64, SIDE, SIDE, 3)).astype(np.uint8)
    pixels[32:, ..., 0] = np.minimum(pixels[32:, ..., 0] + 50, 255)
    for index, image in enumerate(pixels):
        folder = tmp_path / "data" / ("positive" if index >= 32 else "negative")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    labels = torch.arange(64) >= 32
    model = _trained(torch.from_numpy(PREPROCESSING.normalize(pixels)), labels.float())
    artefact = edgevit.quantize(
        model, tmp_path / "data", bits=8, preprocessing=PREPROCESSING, num_calib=16
    )
    assert any(np.any(gemm.fisher > 0) for gemm in _noise(artefact, pixels))
    bundle = artefact.save(tmp_path / "bundle")
    report = edgevit.validate(bundle, tmp_path / "data", max_drop=20, **QUICK)
    assert report["top1"]["fp32"] > 90
    assert report["top1"]["engine"] > 90
    assert report["verdict"] == "PASS"
    assert report["chance"] == {**report["chance"], "num_classes": 2, "above": True}
    assert report["agreement"]["engine_vs_simulated"] == 100
    turned = edgevit.validate(bundle, tmp_path / "data", classes=["positive", "negative"], **QUICK)
    assert turned["top1"]["fp32"] == 100 - report["top1"]["fp32"]
    rows = edgevit.sensitivity(
        model,
        tmp_path / "data",
        data=tmp_path / "data",
        preprocessing=PREPROCESSING,
        bits=4,
        num=64,
    )
    assert rows[0]["top1_float32"] == report["top1"]["fp32"]
    assert max(row["kl_only"] for row in rows) > 0  # softmax of one logit alone would say 0


def _noise(artefact, pixels):
    from edgevit.calibration.statistics.sensitivity import layer_noise
    from edgevit.progress import no_progress

    images = torch.from_numpy(PREPROCESSING.normalize(pixels[:8]))
    found = layer_noise(artefact.quantized, images, batch_size=8, seed=0, progress=no_progress)
    return found.values()


def test_command_line_takes_names_and_order(bundle, data, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(BY_STRING))
    command = [sys.executable, "-m", "edgevit.cli", "validate", str(bundle), "--data", str(data)]
    command += ["--rounds", "2", "--threads", "1"]
    asked = subprocess.run(command, capture_output=True, text=True)
    assert (asked.returncode, "EV112" in asked.stderr) == (9, True), asked.stderr
    for option in (["--class-order", "torchvision"], ["--classes", str(tmp_path / "names.txt")]):
        done = subprocess.run([*command, *option], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "100.00 %" in done.stderr
        assert "1 -> 0, 10 -> 1" in done.stderr
