"""The little of PyTorch's CUDA that its adapter uses, carried out by the stub of libcudart."""

import ctypes
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

from edgevit.runner.engines.tensorrt.cuda_library import CudaLibrary

_library = CudaLibrary()
_current = []
uint8 = "uint8"


def _call(name, *arguments):
    error, *results = getattr(_library, name)(*arguments)
    if error:
        raise RuntimeError(f"{name}: {error}")
    return results[0] if results else None


class Tensor:
    """Bytes of the device or of page-locked memory; a part keeps the whole alive."""

    def __init__(self, pointer, size, on_device, whole=None):
        self.pointer, self.size, self.on_device, self.whole = pointer, size, on_device, whole

    def __del__(self):
        if self.whole is None:
            _call("cudaFree" if self.on_device else "cudaFreeHost", self.pointer)

    def __getitem__(self, part):
        start, stop, _ = part.indices(self.size)
        return Tensor(self.pointer + start, stop - start, self.on_device, self)

    def data_ptr(self):
        return self.pointer

    def numpy(self):
        if self.on_device:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        memory = (ctypes.c_uint8 * self.size).from_address(self.pointer)
        return np.ctypeslib.as_array(memory)

    def copy_(self, source, non_blocking):
        assert non_blocking
        assert self.size == source.size
        assert self.on_device != source.on_device
        kind = 1 if self.on_device else 2
        _call("cudaMemcpyAsync", self.pointer, source.pointer, self.size, kind, _current[-1])


def empty(size, *, dtype, device="cpu", pin_memory=False):
    assert dtype == uint8
    assert (device == "cuda") != pin_memory
    pointer = _call("cudaHostAlloc", size, 0) if pin_memory else _call("cudaMalloc", size)
    return Tensor(pointer, size, not pin_memory)


class Stream:
    def __init__(self):
        self.cuda_stream = _call("cudaStreamCreateWithFlags", 1)

    def synchronize(self):
        _call("cudaStreamSynchronize", self.cuda_stream)


class Event:
    def __init__(self, enable_timing):
        assert enable_timing
        self._event = _call("cudaEventCreate")

    def record(self, stream):
        _call("cudaEventRecord", self._event, stream.cuda_stream)

    def synchronize(self):
        _call("cudaEventSynchronize", self._event)

    def elapsed_time(self, stop):
        return _call("cudaEventElapsedTime", self._event, stop._event)


class CUDAGraph:
    _ready = None

    def replay(self):
        _call("cudaGraphLaunch", self._ready, _current[-1])

    def reset(self):
        _call("cudaGraphExecDestroy", self._ready)


@contextmanager
def _stream(stream):
    _current.append(stream.cuda_stream)
    try:
        yield
    finally:
        _current.pop()


@contextmanager
def _graph(graph, stream):
    _call("cudaStreamBeginCapture", stream.cuda_stream, 1)
    yield
    captured = _call("cudaStreamEndCapture", stream.cuda_stream)
    graph._ready = _call("cudaGraphInstantiate", captured, 0)
    _call("cudaGraphDestroy", captured)


def _is_available():
    return _library.cudaSetDevice(0) == (0,)


def _properties(device):
    kinds = _library.cudaDeviceAttr
    asked = ("ComputeCapabilityMajor", "ComputeCapabilityMinor", "Integrated")
    major, minor, integrated = (
        _call("cudaDeviceGetAttribute", getattr(kinds, f"cudaDevAttr{name}"), device)
        for name in asked
    )
    name = _call("cudaGetDeviceProperties", device).name.split(b"\0")[0].decode()
    _, _, memory = _library.cudaMemGetInfo()
    return SimpleNamespace(
        name=name, major=major, minor=minor, total_memory=memory, is_integrated=integrated
    )


cuda = SimpleNamespace(
    is_available=_is_available,
    get_device_properties=_properties,
    Stream=Stream,
    Event=Event,
    CUDAGraph=CUDAGraph,
    graph=_graph,
    stream=_stream,
)
