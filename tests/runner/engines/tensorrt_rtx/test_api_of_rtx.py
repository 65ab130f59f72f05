"""What the package touches of TensorRT for RTX exists in the release that is installed."""

from pathlib import Path

import api_scan
import pytest

trt = pytest.importorskip("tensorrt_rtx")

ENGINES = Path(__file__).resolve().parents[4] / "edgevit" / "runner" / "engines"


def missing(names):
    """Return the dotted names that the module lacks."""
    return sorted(name for name in names if not exists(name))


def exists(name):
    found = trt
    for part in name.split("."):
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


def used():
    names = set()
    for engine in ("tensorrt", "tensorrt_rtx"):
        for path in (ENGINES / engine).glob("*.py"):
            objects = path.name in api_scan.FILES_WITH_OBJECTS
            names |= api_scan.names_in(path.read_text(), objects=objects)
    return names


def test_every_name_exists():
    names = used()
    assert len(names) > 50, "the scan finds too little to prove anything"
    assert {
        "Runtime.get_engine_validity",
        "ICudaEngine.create_runtime_config",
        "IRuntimeConfig.cuda_graph_strategy",
        "IRuntimeCache.deserialize",
        "EngineInvalidityDiagnostics",
        "CudaGraphStrategy.DISABLED",
        "ComputeCapability",
    } <= names
    assert missing(names) == []


def test_the_scan_finds_what_it_lacks():
    source = "runtime_cache.shrink()\ntrt.CudaGraphStrategy.ALWAYS\nruntime.no_such_call()\n"
    found = missing(api_scan.names_in(source, objects=True))
    assert found == ["CudaGraphStrategy.ALWAYS", "IRuntimeCache.shrink", "Runtime.no_such_call"]
