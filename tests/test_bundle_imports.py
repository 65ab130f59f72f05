"""On a board there is numpy and the engine: no torch, no timm, no onnx package."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = [
    "edgevit.quantizers.packing",
    "edgevit.bundle",
    "edgevit.data.normalizing",
    "edgevit.runner.accuracy",
    "edgevit.runner.board",
    "edgevit.runner.board_facts",
    "edgevit.runner.chance",
    "edgevit.runner.engine_library",
    "edgevit.runner.engines",
    "edgevit.runner.exchange",
    "edgevit.runner.latency",
    "edgevit.runner.measuring",
    "edgevit.runner.memory",
    "edgevit.runner.scores",
    "edgevit.runner.selfcheck",
    "edgevit.runner.opened",
    "edgevit.runner.paired",
    "edgevit.runner.session",
    "edgevit.runner.shipment",
    "edgevit.runner.telemetry",
    "edgevit.runner.threads",
    "edgevit.report.build",
    "edgevit.report.conformance",
    "edgevit.report.doctor",
    "edgevit.report.eer",
    "edgevit.report.eer_asked",
    "edgevit.report.escaping",
    "edgevit.report.named_option",
    "edgevit.report.sensitivity",
    "edgevit.report.sensitivity_plot",
    "edgevit.report.simulation",
    "edgevit.report.statistics",
    "edgevit.report.table",
    "edgevit.report.telemetry",
    "edgevit.report.unforeseen",
    "edgevit.report.validation",
]
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


def test_every_file_of_these_rooms_is_covered():
    found = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ("runner", "report")
        for path in (ROOT / "edgevit" / room).glob("[!_]*.py")
    }
    # These need rich; only the command line uses them.
    drawn_elsewhere = {"edgevit.report.progress", "edgevit.report.plain"}
    assert found - drawn_elsewhere <= set(MODULES)


def test_a_bundle_runs_without_torch_timm_and_onnx(bundle_path):
    """The engine really computes while those packages can't be imported at all."""
    code = BLOCKED.format(names=["torch", "timm", "torchvision", "transformers", "onnx"]) + (
        "import numpy as np\n"
        "from edgevit.bundle import open_bundle\n"
        "from edgevit.runner.session import session_from_bundle\n"
        "bundle = open_bundle(sys.argv[1])\n"
        "for kind in ('engine', 'fp32'):\n"
        "    session = session_from_bundle(bundle, kind, threads=1)\n"
        "    print(session.run(np.zeros((1, 3, 8, 8), np.float32)).shape)\n"
    )
    done = python(code, str(bundle_path))
    assert done.stdout.splitlines() == ["(1, 7)", "(1, 7)"], done.stderr
