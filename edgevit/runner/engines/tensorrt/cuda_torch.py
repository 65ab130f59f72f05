"""A device through PyTorch's tensors, streams and graphs, for machines that have it anyway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgevit.runner.engines.tensorrt.cuda_device import (
    DeviceFacts,
    HostBuffer,
    cuda_failed,
    missing_cuda_error,
    no_card,
)


class TorchDevice:
    """Device 0 of PyTorch.

    Raises:
        EnvironmentError_: PyTorch is not installed (EV769).
        DeviceError: It sees no GPU (EV773).
    """

    adapter = "torch"

    def __init__(self) -> None:
        try:
            import torch
        except ImportError as error:
            raise missing_cuda_error("torch", error) from error
        if not torch.cuda.is_available():
            raise no_card("torch.cuda.is_available", "PyTorch sees none.")
        self._torch: Any = torch
        self._owned: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}

    def facts(self) -> DeviceFacts:
        """Return what the GPU is."""
        found = self._torch.cuda.get_device_properties(0)
        capability = f"{found.major}.{found.minor}"
        integrated = bool(getattr(found, "is_integrated", False))
        return DeviceFacts(found.name, capability, int(found.total_memory), integrated)

    def allocate(self, size_bytes: int) -> int:
        """Return the address of new device memory."""
        return self._kept(self._torch.empty(size_bytes, dtype=self._torch.uint8, device="cuda"))

    def release(self, pointer: int) -> None:
        """Free device memory."""
        self._owned.pop(pointer, None)

    def pinned(self, size_bytes: int) -> HostBuffer:
        """Return new page-locked host memory."""
        memory = self._torch.empty(size_bytes, dtype=self._torch.uint8, pin_memory=True)
        return HostBuffer(memory.numpy(), self._kept(memory))

    def release_pinned(self, buffer: HostBuffer) -> None:
        """Free page-locked host memory."""
        self._owned.pop(buffer.pointer, None)

    def stream(self) -> int:
        """Return a new stream."""
        stream = self._torch.cuda.Stream()
        self._streams[stream.cuda_stream] = stream
        return int(stream.cuda_stream)

    def release_stream(self, stream: int) -> None:
        """Forget a stream; PyTorch keeps a pool of them."""
        self._streams.pop(stream, None)

    def copy_in(self, pointer: int, buffer: HostBuffer, size_bytes: int, stream: int) -> None:
        """Copy host memory to the device."""
        self._copy(self._owned[pointer], self._owned[buffer.pointer], size_bytes, stream)

    def copy_out(self, buffer: HostBuffer, pointer: int, size_bytes: int, stream: int) -> None:
        """Copy device memory to the host."""
        self._copy(self._owned[buffer.pointer], self._owned[pointer], size_bytes, stream)

    def synchronize(self, stream: int) -> None:
        """Wait for the stream."""
        try:
            self._streams[stream].synchronize()
        except RuntimeError as error:
            raise cuda_failed("synchronize", str(error)) from error

    def event(self) -> Any:
        """Return a new event."""
        return self._torch.cuda.Event(enable_timing=True)

    def release_event(self, event: Any) -> None:
        """Nothing to do: PyTorch destroys it."""

    def record(self, event: Any, stream: int) -> None:
        """Mark this point of the stream."""
        event.record(self._streams[stream])

    def elapsed_ms(self, start: Any, stop: Any) -> float:
        """Return milliseconds between two events."""
        stop.synchronize()
        return float(start.elapsed_time(stop))

    def capture(self, stream: int, work: Callable[[], bool]) -> Any:
        """Return a graph, or None."""
        graph = self._torch.cuda.CUDAGraph()
        try:
            with self._torch.cuda.graph(graph, stream=self._streams[stream]):
                captured = work()
        except RuntimeError:
            return None
        return graph if captured else None

    def launch(self, graph: Any, stream: int) -> None:
        """Enqueue a graph."""
        with self._torch.cuda.stream(self._streams[stream]):
            graph.replay()

    def release_graph(self, graph: Any) -> None:
        """Give the graph's memory back."""
        graph.reset()

    def _kept(self, tensor: Any) -> int:
        """Keep a tensor alive and return its address."""
        self._owned[tensor.data_ptr()] = tensor
        return int(tensor.data_ptr())

    def _copy(self, target: Any, source: Any, size_bytes: int, stream: int) -> None:
        with self._torch.cuda.stream(self._streams[stream]):
            target[:size_bytes].copy_(source[:size_bytes], non_blocking=True)
