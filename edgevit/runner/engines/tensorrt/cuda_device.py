"""The interface of CUDA that a session needs and each adapter provides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from edgevit.errors import DeviceError, EnvironmentError_

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

CHOICE_VARIABLE = "EDGEVIT_CUDA"


@dataclass(frozen=True)
class HostBuffer:
    """Page-locked memory of the host.

    Args:
        array: uint8 [size_bytes], a view of the memory.
        pointer: Its address.
    """

    array: npt.NDArray[np.uint8]
    pointer: int


@dataclass(frozen=True)
class DeviceFacts:
    """A GPU's name, compute capability and memory.

    Args:
        name: Such as "Orin".
        compute_capability: Such as "8.7".
        memory_bytes: All of its memory; on a board that of the whole system.
        integrated: Whether it shares memory with the processor.
    """

    name: str
    compute_capability: str
    memory_bytes: int
    integrated: bool


class CudaDevice(Protocol):
    """A device through one adapter. Pointers, streams and events are plain numbers or handles."""

    adapter: str

    def facts(self) -> DeviceFacts:
        """Return the GPU's name, compute capability and memory."""

    def allocate(self, size_bytes: int) -> int:
        """Return the address of new device memory."""

    def release(self, pointer: int) -> None:
        """Free device memory."""

    def pinned(self, size_bytes: int) -> HostBuffer:
        """Return new page-locked host memory."""

    def release_pinned(self, buffer: HostBuffer) -> None:
        """Free page-locked host memory; its array must not be used afterwards."""

    def stream(self) -> int:
        """Return a new stream that does not wait for the default one."""

    def release_stream(self, stream: int) -> None:
        """Destroy a stream."""

    def copy_in(self, pointer: int, buffer: HostBuffer, size_bytes: int, stream: int) -> None:
        """Copy the first bytes of host memory to the device, in the stream's order."""

    def copy_out(self, buffer: HostBuffer, pointer: int, size_bytes: int, stream: int) -> None:
        """Copy device memory to the first bytes of host memory, in the stream's order."""

    def synchronize(self, stream: int) -> None:
        """Wait until everything in the stream is done."""

    def event(self) -> Any:
        """Return a new event that can be timed."""

    def release_event(self, event: Any) -> None:
        """Destroy an event."""

    def record(self, event: Any, stream: int) -> None:
        """Mark this point of the stream."""

    def elapsed_ms(self, start: Any, stop: Any) -> float:
        """Return the time between two recorded events, after waiting for the second."""

    def capture(self, stream: int, work: Callable[[], bool]) -> Any:
        """Return what `work` enqueues in the stream as a graph; None if that can't be captured."""

    def launch(self, graph: Any, stream: int) -> None:
        """Enqueue a captured graph."""

    def release_graph(self, graph: Any) -> None:
        """Destroy a captured graph."""


def missing_cuda_error(name: str, error: Exception) -> EnvironmentError_:
    """Return the error for an adapter whose package can't be loaded."""
    return EnvironmentError_(
        "EV769",
        f"The CUDA adapter {name!r} can't be loaded.",
        where=name,
        why=str(error)[:500],
        try_next="Install its package, or name another adapter.",
    )


def cuda_failed(call: str, why: str) -> DeviceError:
    """Return the error for a CUDA call that failed."""
    return DeviceError(
        "EV758",
        "CUDA failed.",
        where=call,
        why=why[:500],
        try_next="Check the driver with nvidia-smi (on a Jetson: sudo dmesg | tail), then try"
        f" another adapter: {CHOICE_VARIABLE}=ctypes.",
    )
