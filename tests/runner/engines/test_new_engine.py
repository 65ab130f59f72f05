"""A new engine is one new file: written into a copy of the package, with nothing else changed.

It runs bundles in the evaluator that comes with the package `onnx`, which is slow and real.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from contributing import example

PACKAGE = Path(__file__).resolve().parents[3] / "edgevit"
ENGINE = example("edgevit/runner/engines/evaluator.py")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the package and the new engine in it."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(PACKAGE, folder / "edgevit", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "edgevit" / "runner" / "engines" / "evaluator.py").write_text(ENGINE)
    return folder


def run(home, *words):
    command = [sys.executable, "-m", "edgevit", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(home)}
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def bundle(make_parts, tmp_path_factory):
    """A bundle that is made for it, and asks it for what it declares."""
    parts = make_parts()
    parts.manifest["engine"] = {"name": "evaluator", "speed": "slow"}
    return parts.write(tmp_path_factory.mktemp("made") / "bundle")


@pytest.fixture(scope="module")
def images(make_parts, tmp_path_factory):
    """Images labelled with what fp32 answers."""
    golden = make_parts().golden
    path = tmp_path_factory.mktemp("data") / "images.npz"
    labels = golden["logits_fp32"].argmax(1).astype(np.int64)
    np.savez(path, images=golden["images"], labels=labels)
    return path


def test_its_bundle_is_validated(home, bundle, images):
    options = ("--data", images, "--rounds", 3, "--json", "-")
    status, said, errors = run(home, "validate", bundle, *options)
    assert status == 0, errors
    report = json.loads(said)
    assert report["engine"]["name"].startswith("evaluator ")
    assert (report["engine"]["provider"], report["engine"]["stands_in"]) == ("Python", False)
    assert report["top1"]["fp32"] == 100
    assert report["self_check"]["agreement_percent"] == 100
    assert set(report["latency_ms"]) == {"fp32", "engine"}
    assert report["latency_ms"]["engine"]["p50"] > 0
    assert report["peak_memory_bytes"]["engine"] > 1 << 20


def test_a_doctor_lists_it(home):
    status, said, errors = run(home, "doctor", "--json", "-")
    assert status == 0, errors
    (check,) = [one for one in json.loads(said)["checks"] if one["name"] == "evaluator"]
    assert check["status"] == "ok"


def test_it_may_be_asked_for_and_is_completed(home, bundle, images):
    status, said, _ = run(home, "validate", "--help")
    assert status == 0
    assert "auto, evaluator, onnxruntime, tensorrt" in " ".join(said.split())
    status, _, errors = run(home, "validate", bundle, "--data", images, "--engine", "onnxruntime")
    assert (status, "EV826" in errors) == (4, True), errors


def test_a_name_that_another_engine_has_is_refused(home, tmp_path):
    shutil.copytree(home, tmp_path / "home")
    engines = tmp_path / "home/edgevit/runner/engines"
    (engines / "evaluator.py").write_text(ENGINE.replace('"evaluator"', '"onnxruntime"'))
    status, _, errors = run(tmp_path / "home", "doctor")
    assert status != 0
    assert "two engines are named 'onnxruntime'" in errors


def test_here_where_it_is_not_its_bundle_is_refused(bundle, images):
    status, _, errors = run(PACKAGE.parent, "validate", bundle, "--data", images)
    assert (status, "EV417" in errors) == (10, True), errors
    assert "evaluator" in errors
