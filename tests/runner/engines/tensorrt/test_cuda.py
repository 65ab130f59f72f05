"""The adapters: which is chosen, and that the packages have what they call."""

import re
from pathlib import Path

import pytest

from edgevit.errors import DeviceError, EnvironmentError_, UsageError
from edgevit.runner.engines.tensorrt import cuda
from edgevit.runner.engines.tensorrt.cuda_library import CudaLibrary

PACKAGE = Path(cuda.__file__).parent


def called(name):
    """Names of CUDA's runtime that a file uses."""
    return set(re.findall(r"\bcuda[A-Z]\w+", (PACKAGE / name).read_text()))


def has_gpu():
    try:
        cuda.open_device()
    except (DeviceError, EnvironmentError_):
        return False
    return True


def test_cuda_python_has_every_function_that_is_called():
    runtime = pytest.importorskip("cuda.bindings.runtime")
    kinds = (runtime.cudaMemcpyKind, runtime.cudaStreamCaptureMode, runtime.cudaDeviceAttr)
    names = called("cuda_runtime.py") - {"cudaStreamNonBlocking"}
    assert len(names) > 20
    missing = {name for name in names if not any(hasattr(o, name) for o in (runtime, *kinds))}
    assert missing == set()


def test_the_library_has_every_function_that_is_called(stubs):
    library = CudaLibrary(str(stubs / "libstub.so"))
    kinds = (library.cudaMemcpyKind, library.cudaStreamCaptureMode, library.cudaDeviceAttr)
    names = called("cuda_runtime.py") - {"cudaStreamNonBlocking"}
    missing = {name for name in names if not any(hasattr(o, name) for o in (library, *kinds))}
    assert missing == set()


def test_numbers_of_enums_are_those_of_cuda_python():
    runtime = pytest.importorskip("cuda.bindings.runtime")
    for kind in ("cudaMemcpyKind", "cudaStreamCaptureMode", "cudaDeviceAttr"):
        for member in getattr(CudaLibrary, kind):
            assert int(getattr(getattr(runtime, kind), member.name)) == member


def test_torch_has_what_is_called():
    torch = pytest.importorskip("torch")
    source = (PACKAGE / "cuda_torch.py").read_text()
    names = set(re.findall(r"torch\.cuda\.(\w+)", source))
    assert {"Stream", "Event", "CUDAGraph", "graph", "stream"} <= names
    assert all(hasattr(torch.cuda, name) for name in names)


def test_an_unknown_adapter_is_refused(monkeypatch):
    monkeypatch.setenv("EDGEVIT_CUDA", "opencl")
    with pytest.raises(UsageError, match="EV756"):
        cuda.open_device()


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
@pytest.mark.parametrize("name", ["cuda", "torch"])
def test_without_a_gpu_a_package_says_so(name):
    pytest.importorskip("torch" if name == "torch" else "cuda.bindings.runtime")
    with pytest.raises(DeviceError, match=r"EV77[23]") as caught:  # no driver, no GPU
        cuda.open_device(name)
    assert "--engine onnxruntime" in caught.value.try_next


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_a_package_that_fits_no_driver_gives_way_to_the_library(stubs, monkeypatch):
    pytest.importorskip("cuda.bindings.runtime")
    monkeypatch.delenv("EDGEVIT_CUDA", raising=False)
    monkeypatch.setenv("EDGEVIT_CUDART", str(stubs / "libstub.so"))
    assert cuda.open_device().adapter == "ctypes"
    monkeypatch.setenv("EDGEVIT_CUDART", "/nowhere/libcudart.so")
    with pytest.raises(DeviceError, match="EV772"):  # what the package said is worth more
        cuda.open_device()


@pytest.mark.parametrize("name", ["cuda", "pycuda", "torch"])
def test_a_missing_package_is_named(name, monkeypatch):
    import sys

    for module in ("cuda", "cuda.bindings", "pycuda", "pycuda.driver", "torch"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EnvironmentError_, match="EV757") as caught:
        cuda.open_device(name)
    assert name in caught.value.why


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setenv("EDGEVIT_CUDART", "/nowhere/libcudart.so")
    with pytest.raises(EnvironmentError_, match="EV757") as caught:
        cuda.open_device("ctypes")
    assert "/nowhere/libcudart.so" in caught.value.why
