"""The CUDA runtime library through ctypes, with the functions and names of cuda-python.

JetPack has the library but no Python package for it, and a board should not need pip. Only what
`RuntimeDevice` calls is here; signatures are those of cuda_runtime_api.h, which CUDA 12 and 13
share for these functions.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import glob
import os
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

from edgevit.runner.engines.tensorrt.cuda_device import missing_cuda_error

LIBRARY_VARIABLE = "EDGEVIT_CUDART"
_PROPERTIES_BYTES = 4096  # cudaDeviceProp is about 1 KB; the name stands first in all versions
_NAME_BYTES = 256
_SIZE, _POINTER, _INT = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "cudaSetDevice": (_INT,),
    "cudaFree": (_POINTER,),
    "cudaFreeHost": (_POINTER,),
    "cudaStreamDestroy": (_POINTER,),
    "cudaStreamSynchronize": (_POINTER,),
    "cudaMemcpyAsync": (_POINTER, _POINTER, _SIZE, _INT, _POINTER),
    "cudaEventDestroy": (_POINTER,),
    "cudaEventRecord": (_POINTER, _POINTER),
    "cudaEventSynchronize": (_POINTER,),
    "cudaStreamBeginCapture": (_POINTER, _INT),
    "cudaGraphDestroy": (_POINTER,),
    "cudaGraphLaunch": (_POINTER, _POINTER),
    "cudaGraphExecDestroy": (_POINTER,),
    "cudaGetLastError": (),
}
"""Functions without results, apart from the error code."""
_RETURNING: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "cudaMalloc": (_POINTER, (_SIZE,)),
    "cudaHostAlloc": (_POINTER, (_SIZE, ctypes.c_uint)),
    "cudaStreamCreateWithFlags": (_POINTER, (ctypes.c_uint,)),
    "cudaDriverGetVersion": (_INT, ()),
    "cudaEventCreate": (_POINTER, ()),
    "cudaEventElapsedTime": (ctypes.c_float, (_POINTER, _POINTER)),
    "cudaGraphInstantiate": (_POINTER, (_POINTER, ctypes.c_ulonglong)),
    "cudaDeviceGetAttribute": (_INT, (_INT, _INT)),
}
"""Functions whose first parameter points to their only result."""


class _MemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class _CaptureMode(IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


class _Attribute(IntEnum):
    cudaDevAttrIntegrated = 18
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class CudaLibrary:
    """libcudart with functions that return (error code, results...).

    Args:
        path: The library; without it EDGEVIT_CUDART, then wherever the system finds it.

    Raises:
        EnvironmentError_: There is no such library (EV769).
    """

    cudaMemcpyKind = _MemcpyKind
    cudaStreamCaptureMode = _CaptureMode
    cudaDeviceAttr = _Attribute

    def __init__(self, path: str | None = None) -> None:
        found = path or os.environ.get(LIBRARY_VARIABLE) or _find()
        try:
            self._library = ctypes.CDLL(found)
        except OSError as error:
            raise missing_cuda_error("ctypes", error) from error

    def __getattr__(self, name: str) -> Any:
        if name in _ARGUMENTS:
            return lambda *given: (self._invoke(name, _ARGUMENTS[name], given),)
        if name in _RETURNING:
            return lambda *given: self._returning(name, given)
        raise AttributeError(name)

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:
        """Return the text of an error code."""
        function = self._library.cudaGetErrorString
        function.restype, function.argtypes = ctypes.c_char_p, [_INT]
        return 0, function(error) or b""

    def cudaMemGetInfo(self) -> tuple[int, int, int]:
        """Return (error code, free bytes, all bytes)."""
        free, total = _SIZE(), _SIZE()
        pointers = (ctypes.POINTER(_SIZE),) * 2
        error = self._invoke("cudaMemGetInfo", pointers, (free, total))
        return error, free.value, total.value

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int | None]:
        """Return (error code, graph)."""
        graph = _POINTER()
        types = (_POINTER, ctypes.POINTER(_POINTER))
        return self._invoke("cudaStreamEndCapture", types, (stream, graph)), graph.value

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, Any]:
        """Return (error code, object with the device's `name`); the rest differs by version."""
        room = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        error = self._invoke("cudaGetDeviceProperties", (ctypes.c_char_p, _INT), (room, device))
        return error, SimpleNamespace(name=room.raw[:_NAME_BYTES])

    def _invoke(self, name: str, types: tuple[Any, ...], given: tuple[Any, ...]) -> int:
        function = getattr(self._library, name)
        function.restype, function.argtypes = _INT, list(types)
        return int(function(*given))

    def _returning(self, name: str, given: tuple[Any, ...]) -> tuple[int, Any]:
        kind, types = _RETURNING[name]
        result = kind()
        error = self._invoke(name, (ctypes.POINTER(kind), *types), (ctypes.byref(result), *given))
        return error, result.value


def _find() -> str:
    """Return where libcudart is: what the loader knows, or the usual folders of CUDA."""
    known = ctypes.util.find_library("cudart")
    places = sorted(glob.glob("/usr/local/cuda*/lib64/libcudart.so*"))
    places += sorted(glob.glob("/usr/local/cuda*/targets/*/lib/libcudart.so*"))
    return known or (places[-1] if places else "libcudart.so")
