"""The little of pycuda's driver interface that its adapter uses, on the stub of libcudart.

Without a context that was made current, nothing works; `pycuda.autoinit` does not exist here.
"""

import ctypes
from types import SimpleNamespace

import numpy as np

from edgevit.runner.engines.tensorrt.cuda_library import CudaLibrary

_library = CudaLibrary()
_contexts = []
device_attribute = SimpleNamespace(INTEGRATED="Integrated")
stream_flags = SimpleNamespace(NON_BLOCKING=1)


class Error(Exception):
    """What pycuda raises."""


def _call(name, *arguments):
    if not _contexts:
        raise Error(f"{name}: invalid device context")
    error, *results = getattr(_library, name)(*arguments)
    if error:
        raise Error(f"{name}: {error}")
    return results[0] if results else None


def init():
    if _library.cudaSetDevice(0) != (0,):
        raise Error("cuInit failed: no CUDA-capable device is detected")


class Device:
    def __init__(self, number):
        self._number = number

    def retain_primary_context(self):
        return SimpleNamespace(push=lambda: _contexts.append(self._number))

    def get_attribute(self, name):
        kind = getattr(_library.cudaDeviceAttr, f"cudaDevAttr{name}")
        return _call("cudaDeviceGetAttribute", kind, self._number)

    def compute_capability(self):
        names = ("ComputeCapabilityMajor", "ComputeCapabilityMinor")
        return tuple(map(self.get_attribute, names))

    def name(self):
        found = _call("cudaGetDeviceProperties", self._number).name
        return found.split(b"\0")[0].decode()

    def total_memory(self):
        return _library.cudaMemGetInfo()[2]


class mem_alloc:
    """Device memory."""

    def __init__(self, size):
        self._pointer = _call("cudaMalloc", size)

    def __int__(self):
        return self._pointer

    def free(self):
        _call("cudaFree", self._pointer)


def pagelocked_empty(size, dtype):
    assert dtype is np.uint8
    memory = (ctypes.c_uint8 * size).from_address(_call("cudaHostAlloc", size, 0))
    return np.ctypeslib.as_array(memory)


class Stream:
    def __init__(self, flags):
        self.handle = _call("cudaStreamCreateWithFlags", flags)

    def synchronize(self):
        _call("cudaStreamSynchronize", self.handle)


def memcpy_htod_async(pointer, array, stream):
    _call("cudaMemcpyAsync", pointer, array.ctypes.data, array.nbytes, 1, stream.handle)


def memcpy_dtoh_async(array, pointer, stream):
    _call("cudaMemcpyAsync", array.ctypes.data, pointer, array.nbytes, 2, stream.handle)


class Event:
    def __init__(self):
        self._event = _call("cudaEventCreate")

    def record(self, stream):
        _call("cudaEventRecord", self._event, stream.handle)

    def synchronize(self):
        _call("cudaEventSynchronize", self._event)

    def time_since(self, start):
        return _call("cudaEventElapsedTime", start._event, self._event)
