"""A device through pycuda, in the primary context.

`pycuda.autoinit` would make a context of its own, in which TensorRT's pointers are invalid; so it
is never imported here. pycuda has no wheels: on a board it is compiled when it is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgevit.runner.engines.tensorrt.cuda_device import (
    DeviceFacts,
    HostBuffer,
    cuda_failed,
    missing_cuda_error,
)


class PycudaDevice:
    """Device 0 of pycuda.

    Raises:
        EnvironmentError_: pycuda is not installed (EV769).
        DeviceError: CUDA does not start (EV758).
    """

    adapter = "pycuda"

    def __init__(self) -> None:
        try:
            import pycuda.driver as driver
        except ImportError as error:
            raise missing_cuda_error("pycuda", error) from error
        self._driver = driver
        try:
            driver.init()
            self._device = driver.Device(0)
            self._context = self._device.retain_primary_context()
            self._context.push()
        except driver.Error as error:
            raise cuda_failed("pycuda", str(error)) from error
        self._memory: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}

    def facts(self) -> DeviceFacts:
        """Return what the GPU is."""
        major, minor = self._device.compute_capability()
        kind = self._driver.device_attribute.INTEGRATED
        integrated = bool(self._device.get_attribute(kind))
        name, memory_bytes = self._device.name(), self._device.total_memory()
        return DeviceFacts(str(name), f"{major}.{minor}", int(memory_bytes), integrated)

    def allocate(self, size_bytes: int) -> int:
        """Return the address of new device memory."""
        memory = self._driver.mem_alloc(size_bytes)
        self._memory[int(memory)] = memory
        return int(memory)

    def release(self, pointer: int) -> None:
        """Free device memory."""
        self._memory.pop(pointer).free()

    def pinned(self, size_bytes: int) -> HostBuffer:
        """Return new page-locked host memory."""
        array = self._driver.pagelocked_empty(size_bytes, np.uint8)
        return HostBuffer(array, int(array.ctypes.data))

    def release_pinned(self, buffer: HostBuffer) -> None:
        """Nothing to do: pycuda frees it with its array."""

    def stream(self) -> int:
        """Return a new stream."""
        flags = self._driver.stream_flags.NON_BLOCKING
        stream = self._driver.Stream(flags)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def release_stream(self, stream: int) -> None:
        """Forget a stream; pycuda destroys it."""
        self._streams.pop(stream, None)

    def copy_in(self, pointer: int, buffer: HostBuffer, size_bytes: int, stream: int) -> None:
        """Copy host memory to the device."""
        part = buffer.array[:size_bytes]
        self._driver.memcpy_htod_async(pointer, part, self._streams[stream])

    def copy_out(self, buffer: HostBuffer, pointer: int, size_bytes: int, stream: int) -> None:
        """Copy device memory to the host."""
        part = buffer.array[:size_bytes]
        self._driver.memcpy_dtoh_async(part, pointer, self._streams[stream])

    def synchronize(self, stream: int) -> None:
        """Wait for the stream."""
        try:
            self._streams[stream].synchronize()
        except self._driver.Error as error:
            raise cuda_failed("synchronize", str(error)) from error

    def event(self) -> Any:
        """Return a new event."""
        return self._driver.Event()

    def release_event(self, event: Any) -> None:
        """Nothing to do: pycuda destroys it."""

    def record(self, event: Any, stream: int) -> None:
        """Mark this point of the stream."""
        event.record(self._streams[stream])

    def elapsed_ms(self, start: Any, stop: Any) -> float:
        """Return milliseconds between two events."""
        stop.synchronize()
        return float(stop.time_since(start))

    def capture(self, stream: int, work: Callable[[], bool]) -> Any:
        """Return None: older versions of pycuda can't capture, so every run is enqueued anew."""
        return None

    def launch(self, graph: Any, stream: int) -> None:
        """Never called, as nothing is captured."""
        raise cuda_failed("launch", "pycuda captures no graphs here")

    def release_graph(self, graph: Any) -> None:
        """Nothing to do."""
