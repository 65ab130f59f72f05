"""The installed bindings of TensorRT for RTX on a stub, prepared once; see bindings_stub.py."""

import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "tensorrt"))

import bindings_stub


@pytest.fixture(scope="session")
def rtx_stub(request):
    """Return the environment in which `import tensorrt_rtx` works without NVIDIA's libraries."""
    pytest.importorskip("tensorrt_rtx")
    named = os.environ.get("EDGEVIT_TRT_STUBS")
    folder = Path(named or request.config.cache.mkdir("tensorrt_bindings"))
    try:
        bindings_stub.prepare_rtx(folder)
    except bindings_stub.Unavailable as error:
        pytest.skip(str(error))
    return {**bindings_stub.environment(folder, bindings_stub.RTX), "STUB_CAPABILITY": "89"}
