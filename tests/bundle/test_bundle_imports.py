"""On a board there is numpy and the engine: no torch, no timm, no onnx package."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DRAWN_ELSEWHERE = {"edgevit.report.plain", "edgevit.report.progress"}  # need rich
MODULES = sorted(
    {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for room in ("bundle", "runner", "report")
        for path in (ROOT / "edgevit" / room).rglob("*.py")
    }
    - DRAWN_ELSEWHERE
    | {"edgevit.data.normalizing"}
)
HEAVY = {"torch", "timm", "torchvision", "transformers", "onnx", "onnxruntime", "rich"}
BLOCKED = "import sys\nfor name in {names}:\n    sys.modules[name] = None\n"


def python(code, *arguments):
    prefix = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    command = [sys.executable, "-c", prefix + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_importing_loads_nothing_heavy():
    code = "".join(
        f"import {module}; print({module!r}, sorted({HEAVY!r} & set(sys.modules)))\n"
        for module in MODULES
    )
    done = python(code)
    assert done.stdout.splitlines() == [f"{module} []" for module in MODULES], done.stderr


def test_a_bundle_runs_without_torch_timm_and_onnx(bundle_path):
    """The engine really computes while those packages can't be imported at all."""
    code = BLOCKED.format(names=["torch", "timm", "torchvision", "transformers", "onnx"]) + (
        "import numpy as np\n"
        "from edgevit.bundle import open_bundle\n"
        "from edgevit.runner.engines.onnxruntime.session import session_from_bundle\n"
        "bundle = open_bundle(sys.argv[1])\n"
        "for kind in ('engine', 'fp32'):\n"
        "    session = session_from_bundle(bundle, kind, threads=1)\n"
        "    print(session.run(np.zeros((1, 3, 8, 8), np.float32)).shape)\n"
    )
    done = python(code, str(bundle_path))
    assert done.stdout.splitlines() == ["(1, 7)", "(1, 7)"], done.stderr
