"""What the package touches of TensorRT exists in 10.3, 10.13 and 11.4, asked of the real bindings.

No attribute is guarded by hasattr, because none needs it; so the rule is simple: all must exist.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path

import api_scan
import bindings_stub
import pytest

PACKAGE = Path(__file__).resolve().parents[4] / "edgevit" / "runner" / "engines" / "tensorrt"
RTX_ONLY = {
    "ComputeCapability",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
}
"""Reached only where capabilities are named: for TensorRT for RTX, whose own test asks for them."""
ASK = """
import json, sys, tensorrt
def exists(name):
    found = tensorrt
    for part in name.split("."):
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True
print(json.dumps([name for name in json.loads(sys.argv[1]) if not exists(name)]))
"""


def used():
    names = set()
    for path in PACKAGE.glob("*.py"):
        objects = path.name in api_scan.FILES_WITH_OBJECTS
        names |= api_scan.names_in(path.read_text(), objects=objects)
    return names


def missing(stubs, version, names):
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(sorted(names))],
        env=bindings_stub.environment(stubs, version),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_name_exists(stubs, version):
    names = used() - RTX_ONLY
    assert len(names) > 40, "the scan finds too little to prove anything"
    assert {"OnnxParser.get_error", "IExecutionContext.execute_async_v3"} <= names
    assert missing(stubs, version, names) == []


@pytest.mark.parametrize(
    ("source", "gone"),
    [
        ("config.set_flag(trt.BuilderFlag.FP16)", {"10.3": [], "11.4": ["BuilderFlag.FP16"]}),
        (
            "self._context.execute_async_v2(1)",
            {
                "10.3": ["IExecutionContext.execute_async_v2"],
                "11.4": ["IExecutionContext.execute_async_v2"],
            },
        ),
    ],
)
def test_the_scan_finds_what_a_version_lacks(stubs, source, gone):
    names = api_scan.names_in(source, objects=True)
    for version, expected in gone.items():
        assert missing(stubs, version, names) == expected


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_no_number_stands_for_an_enum(path):
    """1 << 1 meant STRONGLY_TYPED in 10 and nothing in 11."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("create_network"):
            assert "STRONGLY_TYPED" in ast.unparse(node)
        if isinstance(node, ast.ClassDef) and node.col_offset == 0:
            assert not any("trt" in ast.unparse(base).split(".") for base in node.bases)
