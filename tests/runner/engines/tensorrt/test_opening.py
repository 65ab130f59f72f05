"""From a bundle to a chosen engine, through the real bindings on the stub."""

import json
import os
import subprocess
import sys
from pathlib import Path

import bindings_stub
import numpy as np
import pytest

from edgevit.bundle import open_bundle
from edgevit.errors import EnvironmentError_, UsageError
from edgevit.runner.engines.tensorrt import ENGINE
from edgevit.runner.engines.tensorrt.kernel_table import kernel_table
from edgevit.runner.engines.tensorrt.opening import engine_for

ROOT = Path(__file__).resolve().parents[4]
DRIVER = Path(__file__).parent / "drive_bundle.py"


def stub_bundle(parts, pixels_to_input, path):
    """A bundle whose simulation is what the stub's engine computes."""
    golden = parts.golden
    means = pixels_to_input(golden["images"]).mean(axis=(1, 2, 3), dtype=np.float64)
    golden["logits_simulated"] = (means[:, None] * np.arange(1, 8)).astype(np.float32)
    head = {"name": "head/MatMul", "module": "head", "kind": "linear", "left_bits": 8}
    head.update(right_bits=8, carrier="s8 x s8", kernel="Q/DQ")
    parts.manifest["layers"] = [head]
    return parts.write(path)


@pytest.fixture(scope="module")
def driven(stubs, version, make_parts, pixels_to_input, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"trt{version}")
    bundle = stub_bundle(make_parts(), pixels_to_input, folder / "bundle")
    environment = bindings_stub.environment(stubs, version)
    environment["STUB_MODEL"] = "STUB -1 3 8 8 7"
    environment["EDGEVIT_ENGINE_CACHE"] = str(folder / "own_cache")
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(bundle), str(folder / "cache")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_an_engine_is_built_once_and_again_when_it_is_damaged(driven):
    assert driven["from_cache"] == [False, True, False]
    assert driven["same"] == [True, True, True]
    assert driven["files"] == [".cache", ".json", ".json", ".plan", ".plan"]


def test_the_reference_is_an_engine_of_its_own(driven):
    plain = "PLAN -1 1 4 3 8 8 7"
    assert driven["plans"] == [plain, f"{plain} without TF32"]


def test_it_belongs_to_this_device(driven, version):
    where = driven["where"]
    assert (where["device"], where["compute_capability"]) == ("Orin", "8.7")
    assert where["tensorrt"].startswith(version)
    assert driven["available"]


def test_validating_finds_the_engine(driven):
    assert driven["validate"] == ["tensorrt", False]


def test_the_layer_table_joins_bundle_and_engine(driven):
    (row,) = driven["rows"]
    assert (row["name"], row["chosen"], row["reason"]) == ("head/MatMul", "int8", "")
    assert row["asked_bits"] == "8 x 8"
    assert row["time_ms"] == 0.5


def test_the_kernels_come_back_as_a_table_of_this_device(driven, version):
    table = kernel_table(driven["kernels"])
    assert (table.variant, table.capabilities, table.max_batch) == ("int8", ("SM87",), 4)
    assert table.engine.startswith(f"tensorrt {version}")
    assert [layer.name for layer in table.layers] == ["head/MatMul_myl0_1"]
    assert table.num_kernels == 1


def test_the_only_variant_is_measured_and_kept(driven):
    decision = driven["decision"]
    assert decision["kept"] == "int8"
    (row,) = decision["rows"]
    assert row["usable"]
    assert row["parity"]["agreement_percent"] == 100
    assert row["engine"]["got_low"] == 1
    assert row["kernel_ms"] >= 0
    assert driven["rounds"] == [5]


def test_a_variant_that_is_not_there_is_refused(bundle_path):
    with pytest.raises(UsageError, match="EV416"):
        engine_for(open_bundle(bundle_path), "fp7")


def test_without_tensorrt_it_is_said_what_to_install(bundle_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert ENGINE.available().code == "EV750"
    with pytest.raises(EnvironmentError_, match="EV750") as caught:
        engine_for(open_bundle(bundle_path))
    assert "python3-libnvinfer" in caught.value.try_next


CHOICE = """
from edgevit.errors import EdgeViTError
from edgevit.runner.engines.choice import choose_engine
manifest = {"target": "jetson-orin-nano"}
print(choose_engine(manifest).warnings[0])
try:
    choose_engine(manifest, "tensorrt")
except EdgeViTError as error:
    print(error.code, error.why)
"""


def test_a_tensorrt_that_is_too_old_is_not_called_missing(tmp_path):
    (tmp_path / "tensorrt.py").write_text('__version__ = "8.6.2"')
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", CHOICE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    warning, refusal = done.stdout.splitlines()
    assert "(TensorRT 8.6.2 is too old)" in warning
    assert refusal.startswith("EV842 TensorRT 8.6.2 is too old")


def test_a_folder_of_that_name_is_no_tensorrt(tmp_path):
    """Python imports any folder on its path as a package."""
    (tmp_path / "tensorrt").mkdir()
    code = "from edgevit.runner.engines.tensorrt import ENGINE; print(ENGINE.available().code)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "EV750", done.stderr
