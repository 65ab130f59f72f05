"""On a board there is Python 3.8, numpy and the engine, and nothing else."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
ENGINES = ROOT / "edgevit" / "runner" / "engines"
FILES = sorted(ENGINES.glob("tensorrt*/*.py"))
HEAVY = {"torch", "timm", "onnx", "onnxruntime", "rich", "click", "tensorrt", "cuda", "pycuda"}
HEAVY |= {"tensorrt_rtx", "onnxruntime_ep_nv_tensorrt_rtx"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_files_parse_on_python_3_8(path):
    ast.parse(path.read_text(), feature_version=(3, 8))


def test_importing_loads_nothing_but_numpy():
    files = [path for path in FILES if path.stem != "__init__"]
    modules = [f"edgevit.runner.engines.{path.parent.name}.{path.stem}" for path in files]
    code = "".join(f"import {module}\n" for module in modules)
    code += f"import sys\nprint(sorted({HEAVY!r} & set(sys.modules)))\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[]\n", done.stderr
