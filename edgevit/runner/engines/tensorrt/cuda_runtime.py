"""A device through the functions of the CUDA runtime, called by their own names.

Works with cuda-python's module `cuda.bindings.runtime` and with `CudaLibrary`, which has the same
functions: each returns a tuple of an error code and its results.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from edgevit.runner.engines.tensorrt.cuda_device import DeviceFacts, HostBuffer, cuda_failed

_NON_BLOCKING = 1  # cudaStreamNonBlocking
_DRIVER_TOO_OLD = 35  # CUDA's number for it; also where there is none


class RuntimeDevice:
    """Device 0 of the CUDA runtime.

    Args:
        runtime: The module or object that has the functions.
        adapter: The name under which it was chosen.

    Raises:
        DeviceError: There is no driver or too old a one (EV772), no GPU (EV773), or CUDA does
            not start (EV758).
    """

    def __init__(self, runtime: Any, adapter: str) -> None:
        self.adapter = adapter
        self._runtime = runtime
        self._call("cudaSetDevice", 0)

    def facts(self) -> DeviceFacts:
        """Return what the GPU is."""
        kinds = self._runtime.cudaDeviceAttr
        major, minor, integrated = (
            int(self._call("cudaDeviceGetAttribute", kind, 0))
            for kind in (
                kinds.cudaDevAttrComputeCapabilityMajor,
                kinds.cudaDevAttrComputeCapabilityMinor,
                kinds.cudaDevAttrIntegrated,
            )
        )
        name = self._call("cudaGetDeviceProperties", 0).name
        text = name.split(b"\0")[0].decode() if isinstance(name, bytes) else str(name)
        _, memory_bytes = self._calls("cudaMemGetInfo")
        return DeviceFacts(text, f"{major}.{minor}", int(memory_bytes), bool(integrated))

    def allocate(self, size_bytes: int) -> int:
        """Return the address of new device memory."""
        return int(self._call("cudaMalloc", size_bytes))

    def release(self, pointer: int) -> None:
        """Free device memory."""
        self._call("cudaFree", pointer)

    def pinned(self, size_bytes: int) -> HostBuffer:
        """Return new page-locked host memory."""
        pointer = int(self._call("cudaHostAlloc", size_bytes, 0))
        memory = (ctypes.c_uint8 * size_bytes).from_address(pointer)
        return HostBuffer(np.ctypeslib.as_array(memory), pointer)

    def release_pinned(self, buffer: HostBuffer) -> None:
        """Free page-locked host memory."""
        self._call("cudaFreeHost", buffer.pointer)

    def stream(self) -> int:
        """Return a new stream."""
        return int(self._call("cudaStreamCreateWithFlags", _NON_BLOCKING))

    def release_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self._call("cudaStreamDestroy", stream)

    def copy_in(self, pointer: int, buffer: HostBuffer, size_bytes: int, stream: int) -> None:
        """Copy host memory to the device."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", pointer, buffer.pointer, size_bytes, kind, stream)

    def copy_out(self, buffer: HostBuffer, pointer: int, size_bytes: int, stream: int) -> None:
        """Copy device memory to the host."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", buffer.pointer, pointer, size_bytes, kind, stream)

    def synchronize(self, stream: int) -> None:
        """Wait for the stream."""
        self._call("cudaStreamSynchronize", stream)

    def event(self) -> Any:
        """Return a new event."""
        return self._call("cudaEventCreate")

    def release_event(self, event: Any) -> None:
        """Destroy an event."""
        self._call("cudaEventDestroy", event)

    def record(self, event: Any, stream: int) -> None:
        """Mark this point of the stream."""
        self._call("cudaEventRecord", event, stream)

    def elapsed_ms(self, start: Any, stop: Any) -> float:
        """Return milliseconds between two events."""
        self._call("cudaEventSynchronize", stop)
        return float(self._call("cudaEventElapsedTime", start, stop))

    def capture(self, stream: int, work: Callable[[], bool]) -> Any:
        """Return a graph that is ready to launch, or None."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        captured = work()
        error, graph = self._runtime.cudaStreamEndCapture(stream)  # also ends a failed capture
        if int(error) or not captured:
            self._runtime.cudaGetLastError()  # so that no later call reports it as its own
            return None
        ready = self._call("cudaGraphInstantiate", graph, 0)
        self._call("cudaGraphDestroy", graph)
        return ready

    def launch(self, graph: Any, stream: int) -> None:
        """Enqueue a graph."""
        self._call("cudaGraphLaunch", graph, stream)

    def release_graph(self, graph: Any) -> None:
        """Destroy a graph."""
        self._call("cudaGraphExecDestroy", graph)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Return the first result of a call that must succeed."""
        results = self._calls(name, *arguments)
        return results[0] if results else None

    def _calls(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        error, *results = getattr(self._runtime, name)(*arguments)
        if int(error):
            _, text = self._runtime.cudaGetErrorString(error)
            shown = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
            why = f"{int(error)}: {shown}"
            if int(error) == _DRIVER_TOO_OLD:
                why += f". {self._driver_text()}"
            raise cuda_failed(name, why, int(error))
        return tuple(results)

    def _driver_text(self) -> str:
        """Return which CUDA the driver has; CUDA calls it too old where there is none."""
        _, version = self._runtime.cudaDriverGetVersion()
        if not version:
            return "There is no driver."
        return f"The driver has CUDA {version // 1000}.{version % 1000 // 10}."
