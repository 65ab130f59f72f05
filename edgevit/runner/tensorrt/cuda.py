"""The little of CUDA that a session needs, as one interface, and the choice of what provides it.

`cuda` is NVIDIA's cuda-python, `ctypes` the CUDA runtime library itself (for boards that have no
other), `pycuda` and `torch` those packages. The variable EDGEVIT_CUDA names one; without it the
first of `cuda` and `ctypes` that works is taken. All use the device's primary context, the one
TensorRT uses; a second context (such as `pycuda.autoinit` makes) gives "invalid resource handle".
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgevit.errors import DeviceError, EnvironmentError_, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

CHOICE_VARIABLE = "EDGEVIT_CUDA"
ADAPTERS = ("cuda", "ctypes", "pycuda", "torch")
_TRIED = ("cuda", "ctypes")


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
    """What a GPU is.

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
    """What an adapter provides. Pointers, streams and events are plain numbers or handles."""

    adapter: str

    def facts(self) -> DeviceFacts:
        """Return what the GPU is."""

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


def open_device(choice: str | None = None) -> CudaDevice:
    """Return the device of this machine.

    Args:
        choice: One of `ADAPTERS`; without it the variable EDGEVIT_CUDA, and without that the
            first of "cuda" and "ctypes" that works.

    Raises:
        UsageError: There is no such adapter (EV756).
        EnvironmentError_: Its package is missing (EV757).
        DeviceError: CUDA refuses to work (EV758).
    """
    named = choice or os.environ.get(CHOICE_VARIABLE) or ""
    if named and named not in ADAPTERS:
        raise UsageError(
            "EV756",
            f"There is no CUDA adapter {named!r}.",
            where=CHOICE_VARIABLE,
            try_next=f"One of {', '.join(ADAPTERS)}.",
        )
    failures: list[str] = []
    broken: DeviceError | None = None
    for name in (named,) if named else _TRIED:
        try:
            return _opened(name)
        except EnvironmentError_ as error:
            failures.append(f"{name}: {error.why}")
        except DeviceError as error:  # a package newer than the driver; another one may fit
            broken = broken or error
    if broken is not None:
        raise broken
    raise EnvironmentError_(
        "EV757",
        "CUDA can't be used from Python here.",
        where=named or " or ".join(_TRIED),
        why="\n".join(failures),
        try_next='CUDA 12: pip install "cuda-python>=12.6,<13". CUDA 13: pip install'
        ' "cuda-python>=13,<14". Without pip: make libcudart findable (ldconfig -p).',
    )


def _opened(name: str) -> CudaDevice:
    """Return the device through one adapter, or raise EV757 or EV758."""
    if name == "pycuda":
        from edgevit.runner.tensorrt.cuda_pycuda import PycudaDevice

        return PycudaDevice()
    if name == "torch":
        from edgevit.runner.tensorrt.cuda_torch import TorchDevice

        return TorchDevice()
    from edgevit.runner.tensorrt.cuda_runtime import RuntimeDevice

    if name == "cuda":
        return RuntimeDevice(_cuda_python(), "cuda")
    from edgevit.runner.tensorrt.cuda_library import CudaLibrary

    return RuntimeDevice(CudaLibrary(), "ctypes")


def _cuda_python() -> Any:
    """Return cuda-python's module of the CUDA runtime; its place changed with version 12.8."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        try:
            from cuda import cudart as runtime
        except ImportError as error:
            raise missing("cuda", error) from error
    return runtime


def missing(name: str, error: Exception) -> EnvironmentError_:
    """Return the error for an adapter whose package can't be loaded."""
    return EnvironmentError_(
        "EV757", f"The CUDA adapter {name!r} can't be loaded.", where=name, why=str(error)[:500]
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
