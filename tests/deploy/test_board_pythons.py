"""The thin runner on real interpreters of the age that boards have: Python 3.8 and 3.10."""

import ast
import glob
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from edgevit.data.normalizing import normalizer
from edgevit.deploy.thin_runner import thin_runner_files
from edgevit.errors import DataError, DeviceError
from edgevit.verbs.deploy import deploy
from edgevit.verbs.validate import validate

AGENT = Path(__file__).parents[2] / "edgevit" / "deploy" / "agent"
SHIPPED = {**thin_runner_files(), **{f"agent/{p.name}": p for p in sorted(AGENT.glob("*.py"))}}
IMPORT_ALL = """
import sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    __import__(name)
    print(name, sys.version_info[:2])
"""


def interpreter(version):
    """Return a Python of this version: from the environment, the path, or pyenv's folder."""
    named = os.environ.get(f"EDGEVIT_PYTHON_{version.replace('.', '_')}")
    pyenv = os.path.expanduser(f"~/.pyenv/versions/{version}.*/bin/python")
    for candidate in (named, shutil.which(f"python{version}"), *sorted(glob.glob(pyenv))):
        if candidate is None:
            continue
        asked = [candidate, "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"]
        if subprocess.run(asked, capture_output=True, text=True).stdout.strip() == version:
            return candidate
    return None


@pytest.fixture(scope="session", params=["3.8", "3.10"])
def old_python(request):
    """An environment of that Python with numpy and ONNX Runtime, made once."""
    python = interpreter(request.param)
    if python is None:
        pytest.skip(
            f"NOT TESTED: there is no Python {request.param} here "
            f"(EDGEVIT_PYTHON_{request.param.replace('.', '_')} names one)"
        )
    folder = request.config.cache.mkdir(f"python-{request.param}").resolve()
    made = folder / "bin" / "python3"
    ready = [str(made), "-c", "import numpy, onnxruntime"]
    if not made.exists() or subprocess.run(ready, capture_output=True).returncode != 0:
        subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
        packages = ["--no-deps", "--only-binary=:all:", "numpy", "onnxruntime"]
        subprocess.run([str(made), "-m", "pip", "install", "-q", *packages], check=True)
        subprocess.run(ready, check=True)
    return request.param, made


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_shipped_is_python_3_8(name):
    ast.parse(SHIPPED[name].read_text(), feature_version=(3, 8))


def test_every_module_imports(old_python, tmp_path):
    """Alone, as on a board: nothing but what is shipped, numpy and the engine is there."""
    version, python = old_python
    for name, path in thin_runner_files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / name)
    names = [name[:-3].replace("/", ".").replace(".__init__", "") for name in thin_runner_files()]
    command = [str(python), "-I", "-W", "error", "-c", IMPORT_ALL, str(tmp_path), *names]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    major, minor = version.split(".")
    assert done.stdout.splitlines() == [f"{name} ({major}, {minor})" for name in names]


def test_a_deployment(old_python, make_board, bundle, few, tmp_path):
    """Measured there and here; the report made there and here of the same measurements, too."""
    version, python = old_python
    make_board(f"{python.parent}:/usr/bin:/bin")
    there = deploy(bundle, few, device="board", keep=True, threads=1, rounds=5)
    here = validate(bundle, few, threads=1, rounds=5)
    assert there["device"]["python"].startswith(f"{version}.")
    same = ("top1", "top5", "drop_points", "agreement", "verdict_reason", "size_bytes", "eer")
    assert {key: there[key] for key in same} == {key: here[key] for key in same}
    code = (
        "import json, sys\n"
        "from edgevit.bundle import open_bundle\n"
        "from edgevit.runner.measure.validation import validation_report\n"
        "from edgevit.runner.board.exchange import measurements_from_dict\n"
        "measured = measurements_from_dict(json.load(open('measurements.json')))\n"
        "report = validation_report(open_bundle('bundle'), measured, max_drop_points=1.0)\n"
        "print(json.dumps(report))\n"
    )
    done = subprocess.run(
        [str(python), "-c", code], cwd=there["device"]["kept"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    made_there = json.loads(done.stdout)
    assert made_there["top1_interval"] == there["top1_interval"]
    assert made_there["latency_ms"] == there["latency_ms"]
    assert made_there["speedup"] == there["speedup"]


def test_a_python_that_is_too_old(make_board, bundle, few, tmp_path):
    python = interpreter("3.7") or interpreter("3.6")
    if python is None:
        pytest.skip("NOT TESTED: there is no Python older than 3.8 here")
    make_board("/usr/bin:/bin")
    with pytest.raises(DeviceError) as caught:
        deploy(bundle, few, device="board", python=python)
    assert caught.value.code == "EV816"


def test_normalizing_is_that_of_the_bundle():
    half = {"mean": [0.5] * 3, "std": [0.25] * 3}
    import numpy as np

    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    found = normalizer(half)(pixels)
    expected = ((pixels / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2)
    assert found.dtype == np.float32
    assert found.shape == (2, 3, 4, 5)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for wrong in ({"mean": [0.5] * 3}, {**half, "std": [0, 1, 1]}, {**half, "mean": "abc"}):
        with pytest.raises(DataError) as caught:
            normalizer(wrong)
        assert caught.value.code == "EV108"
