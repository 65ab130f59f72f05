"""What a board with TensorRT does in a deployment, through the real bindings on the stub."""

import json
import subprocess
import sys

import bindings_stub
import numpy as np
import pytest

from edgevit.runner.board.exchange import measurements_from_dict
from edgevit.runner.board.shipment import INDEX, Shipment, file_name, index_text
from edgevit.runner.measure.validation import validation_report


@pytest.fixture(scope="module")
def measured(stubs, version, make_parts, pixels_to_input, tmp_path_factory):
    """Return the bundle and what edgevit.runner.board printed and wrote."""
    folder = tmp_path_factory.mktemp(f"board{version}")
    parts = make_parts()
    images = parts.golden["images"]
    means = pixels_to_input(images).mean(axis=(1, 2, 3), dtype=np.float64)
    parts.golden["logits_simulated"] = (means[:, None] * np.arange(1, 8)).astype(np.float32)
    parts.manifest.update(target="jetson-orin-nano", layers=[_head()])
    parts.manifest["preprocessing"].update(mean=[0.5] * 3, std=[0.5] * 3)
    bundle = parts.write(folder / "bundle")
    _ship(folder / "images", images)
    environment = {
        **bindings_stub.environment(stubs, version),
        "STUB_MODEL": "STUB -1 3 8 8 7",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    paths = [str(folder / name) for name in ("bundle", "images", "out.json")]
    command = [sys.executable, "-m", "edgevit.runner.board", *paths, "--rounds", "5"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return bundle, done.stdout, json.loads((folder / "out.json").read_text())


def _head():
    head = {"name": "head/MatMul", "module": "head", "kind": "linear", "left_bits": 8}
    return {**head, "right_bits": 8, "carrier": "s8 x s8", "kernel": "Q/DQ"}


def _ship(folder, images):
    folder.mkdir()
    (folder / file_name(0)).write_bytes(images.tobytes())
    labels = np.full(len(images), -1, np.int64)
    shipment = Shipment(folder, images.shape[1:], (len(images),), labels)
    (folder / INDEX).write_text(index_text(shipment))


def test_the_variants_are_tried_and_one_is_measured(measured, version):
    bundle, printed, content = measured
    stages = {json.loads(line)["stage"] for line in printed.splitlines() if line[:1] == "{"}
    assert {"build fp32", "build and check int8", "accuracy", "latency"} <= stages
    from edgevit.bundle import open_bundle

    report = validation_report(open_bundle(bundle), measurements_from_dict(content))
    assert report["engine"]["name"].startswith(f"tensorrt {version}")
    assert report["engine"]["stands_in"] is False
    assert report["engine"]["variant"] == report["build"]["kept"] == "int8"
    assert report["self_check"]["agreement_percent"] == 100
    assert report["latency_ms"]["engine"]["p50"] > 0
    assert report["build"]["rows"][0]["variant"] == "int8"
    assert report["build"]["layers"][0]["chosen"] == "int8"
