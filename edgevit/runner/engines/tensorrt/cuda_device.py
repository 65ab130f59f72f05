"""The interface of CUDA that a session needs and each adapter provides."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from edgevit.errors import DeviceError, EnvironmentError_

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

CHOICE_VARIABLE = "EDGEVIT_CUDA"
WITHOUT_A_CARD = (
    "Without a card `edgevit validate --engine onnxruntime` measures the accuracy on the CPU, and"
    " `edgevit build` lists the kernels of an rtx-* bundle."
)
"""What can be done with a bundle where no GPU is."""


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


def cuda_failed(call: str, why: str, number: int | None = None) -> DeviceError:
    """Return the error for a CUDA call that failed.

    Args:
        call: Such as "cudaMalloc".
        why: What CUDA says.
        number: Of the error (cudaError_t), where it is known.
    """
    told = _CAUSES.get(number or 0)
    if told is not None:
        return told(call, why[:500])
    return DeviceError(
        "EV758",
        "CUDA failed.",
        where=call,
        why=why[:500],
        try_next="Check the driver with nvidia-smi (on a Jetson: sudo dmesg | tail), then try"
        f" another adapter: {CHOICE_VARIABLE}=ctypes.",
    )


def cuda_failure_in(text: str, call: str) -> DeviceError | None:
    """Return the error for the CUDA failure that a library reports among its messages, if any.

    Args:
        text: Such as "Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version is ...)".
        call: What was asked of the library.
    """
    numbered = re.search(r"cudaError (\d+)", text)
    if numbered:
        return cuda_failed(call, text, int(numbered.group(1)))
    return out_of_memory(call, text) if "out of memory" in text.lower() else None


def driver_too_old(call: str, why: str) -> DeviceError:
    """Return the error for a driver that is missing or older than the CUDA that calls it."""
    return DeviceError(
        "EV772",
        "NVIDIA's driver is missing, or too old for this CUDA.",
        where=call,
        why=why,
        try_next="nvidia-smi tells the driver and its CUDA. CUDA 13 needs driver 580 or newer; with"
        " an older one take the packages for CUDA 12: pip install 'cuda-python>=12.6,<13', and for"
        f" an rtx-* bundle tensorrt-rtx-cu12. {WITHOUT_A_CARD}",
    )


def no_card(call: str, why: str) -> DeviceError:
    """Return the error for a machine without a GPU that CUDA could use."""
    return DeviceError(
        "EV773",
        "There is no NVIDIA GPU here that could be used.",
        where=call,
        why=why,
        try_next=f"nvidia-smi lists them; CUDA_VISIBLE_DEVICES may hide them. {WITHOUT_A_CARD}",
    )


def out_of_memory(call: str, why: str) -> DeviceError:
    """Return the error for a GPU whose memory is used up."""
    return DeviceError(
        "EV774",
        "The GPU's memory does not suffice.",
        where=call,
        why=why,
        try_next="nvidia-smi lists what else uses it: end that, or take a smaller --batch or a"
        " smaller model.",
    )


_CAUSES = {2: out_of_memory, 35: driver_too_old, 100: no_card}
"""Number of a CUDA error (driver_types.h) -> the error that says what is to be done."""
