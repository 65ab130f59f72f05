"""Runs a TensorRT plan: fixed buffers, one stream, a CUDA graph once a batch size repeats.

A graph belongs to one input shape of its execution context, so it is dropped when the batch size
changes and captured again when two runs in a row have the same size. Batches above the engine's
largest are run in parts; below its smallest they are padded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.errors import DeviceError, UsageError
from edgevit.runner.engines.tensorrt.bindings import MessageLog, logger_for
from edgevit.runner.engines.tensorrt.cuda import open_device
from edgevit.runner.engines.tensorrt.cuda_device import CudaDevice, HostBuffer, cuda_failure_in
from edgevit.runner.engines.tensorrt.library import TENSORRT, Library

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.runner.engines.tensorrt.kept_kernels import KernelStore

    Images = npt.NDArray[np.float32]
    Values = npt.NDArray[np.float32]

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class _Ends:
    """Names, sizes without the batch, and the smallest and largest batch of an engine."""

    image: str
    image_shape: tuple[int, ...]
    outputs: dict[str, tuple[int, ...]]
    min_batch: int
    max_batch: int


class TensorRTSession:
    """Runs one engine.

    Args:
        plan: A serialized engine, built on this device with this TensorRT.
        trt: The library's module; loaded if left out.
        device: What `open_device` returns; opened if left out.
        graph: False enqueues every kernel anew instead of launching a CUDA graph.
        log: Collects TensorRT's messages.
        library: TensorRT, or TensorRT for RTX.
        store: Where TensorRT for RTX keeps the kernels it makes for this card.

    Raises:
        EnvironmentError_: The library or CUDA is missing (EV750, EV751, EV757, EV770).
        DeviceError: The plan does not load here (EV760), it has other ends than one image and
            float32 outputs (EV761), there is no driver (EV772), GPU (EV773) or memory (EV774) for
            it, or CUDA fails (EV758); for TensorRT for RTX also as
            `edgevit.runner.engines.tensorrt_rtx.validity.check_engine`.
    """

    threads: int | None = None

    def __init__(
        self,
        plan: bytes,
        *,
        trt: Any = None,
        device: CudaDevice | None = None,
        graph: bool = True,
        log: MessageLog | None = None,
        library: Library = TENSORRT,
        store: KernelStore | None = None,
    ) -> None:
        self._trt = library.load() if trt is None else trt
        self.log = MessageLog() if log is None else log
        self.provider = library.title
        self.engine = f"{library.name} {library.version(self._trt)}"
        self._logger = logger_for(self._trt, self.log)
        self._runtime = self._trt.Runtime(self._logger)  # must outlive the engine
        library.check(self._trt, self._runtime, plan, self.log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise _does_not_load(self.log)
        self._running: Any = library.start(self._trt, self._engine, store, self.log)
        self._context, self.notes = self._running.context, self._running.notes
        if self._context is None:
            raise _failure("create_execution_context", self.log)
        self._ends = _ends(self._trt, self._engine)
        self.outputs = tuple(self._ends.outputs)
        self._kept_batches: set[int] = set()
        self.device = open_device() if device is None else device
        self._use_graph, self._graph, self._batch, self._repeats = graph, None, 0, 0
        self._pointers: list[Any] = []
        self._pinned: list[Any] = []
        self._stream: Any = None
        try:
            self._open_buffers()
        except BaseException:
            self.close()  # a device that ran out of memory gets back what it gave
            raise

    def run(self, images: Images) -> Values:
        """Return the main output of normalized images: of classifiers the logits.

        Args:
            images: float32 [B, 3, H, W].

        Returns:
            float32 [B, ...], of classifiers [B, classes].

        Raises:
            UsageError: The images have another dtype or shape (EV762).
            DeviceError: The engine failed (EV758, EV763) or returned NaN or infinity (EV764).
        """
        return self._run(images, self.outputs[:1])[self.outputs[0]]

    def run_all(self, images: Images) -> dict[str, Values]:
        """Return every output by name, float32 [B, ...]; arguments and errors as `run`."""
        return self._run(images, self.outputs)

    def _run(self, images: Images, names: tuple[str, ...]) -> dict[str, Values]:
        self._check_images(images)
        size = self._ends.max_batch
        parts = [
            self._run_part(images[at : at + size], names) for at in range(0, len(images), size)
        ]
        found = {}
        for name in names:
            values = [part[name] for part in parts]
            found[name] = values[0] if len(values) == 1 else np.concatenate(values)  # [B, ...]
            if not np.isfinite(found[name]).all():
                raise _not_finite(name, found[name])
        return found

    def kernel_times_ms(self, images: Images, rounds: int) -> npt.NDArray[np.float64]:
        """Return the time on the GPU of each of `rounds` runs, float64 [rounds], without copies.

        Args:
            images: float32 [B, 3, H, W] with B at most the engine's largest batch.
            rounds: How many runs are timed, one after the other.

        Raises:
            UsageError: The images don't fit (EV762).
            DeviceError: As `run`.
        """
        self._check_images(images)
        for _ in range(3):  # the third run is the first that launches a graph
            self._run_part(images[: self._ends.max_batch], self.outputs)
        start, stop = self.device.event(), self.device.event()
        times = np.zeros(rounds)
        for index in range(rounds):
            self.device.record(start, self._stream)
            self._enqueue()
            self.device.record(stop, self._stream)
            times[index] = self.device.elapsed_ms(start, stop)
        for event in (start, stop):
            self.device.release_event(event)
        return times

    def layer_times_ms(self, images: Images, rounds: int = 20) -> dict[str, float]:
        """Return layer name -> mean milliseconds, slower than without the profiler.

        Args:
            images: float32 [B, 3, H, W] with B at most the engine's largest batch.
            rounds: Runs to average over.

        Raises:
            UsageError: The images don't fit (EV762).
            DeviceError: As `run`.
        """
        self._check_images(images)
        self._load(images[: self._ends.max_batch])
        profiler = _profiler(self._trt)
        self._context.profiler = profiler
        try:
            for _ in range(rounds):
                self._execute()
                self.device.synchronize(self._stream)
        finally:
            self._context.profiler = None
        self._forget_graph()
        return {name: total / rounds for name, total in profiler.total_ms.items()}

    def inspect(self) -> str:
        """Return the engine inspector's JSON for the present batch size."""
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Free the buffers; the session can't run afterwards."""
        self._forget_graph()
        while self._pointers:
            self.device.release(self._pointers.pop())
        while self._pinned:
            self.device.release_pinned(self._pinned.pop())
        if self._stream is not None:
            self.device.release_stream(self._stream)
            self._stream = None
        self._running = self._context = self._engine = None  # in this order, before the runtime

    def __enter__(self) -> TensorRTSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_buffers(self) -> None:
        ends = self._ends
        image_bytes = ends.max_batch * int(np.prod(ends.image_shape)) * _FLOAT_BYTES
        output_bytes = [_bytes((ends.max_batch, *shape)) for shape in ends.outputs.values()]
        for size in (image_bytes, *output_bytes):
            self._pointers.append(self.device.allocate(size))
        for size in (image_bytes, *output_bytes):
            self._pinned.append(self.device.pinned(size))
        self._stream = self.device.stream()
        for name, pointer in zip((ends.image, *ends.outputs), self._pointers):
            if not self._context.set_tensor_address(name, int(pointer)):
                raise _failure(f"set_tensor_address {name}", self.log)

    def _run_part(self, images: Images, names: tuple[str, ...]) -> dict[str, Values]:
        """Run at most the largest batch; return the outputs of these names."""
        batch = self._load(images)
        self._enqueue()
        shapes = {name: (batch, *self._ends.outputs[name]) for name in names}
        places = {name: 1 + self.outputs.index(name) for name in names}
        for name, at in places.items():
            size = _bytes(shapes[name])
            self.device.copy_out(self._pinned[at], self._pointers[at], size, self._stream)
        self.device.synchronize(self._stream)
        if batch not in self._kept_batches:
            self._kept_batches.add(batch)
            self._running.keep()
        return {  # copies: the next run writes the buffers again
            name: _view(self._pinned[at], shapes[name])[: len(images)].copy()
            for name, at in places.items()
        }

    def _load(self, images: Images) -> int:
        """Copy images to the device and return the batch size that runs."""
        batch = max(len(images), self._ends.min_batch)
        room = _view(self._pinned[0], (batch, *self._ends.image_shape))
        room[: len(images)] = images
        room[len(images) :] = 0
        if batch != self._batch:
            self._set_batch(batch)
        self._repeats += 1
        self.device.copy_in(self._pointers[0], self._pinned[0], room.nbytes, self._stream)
        return batch

    def _set_batch(self, batch: int) -> None:
        self._forget_graph()
        shape = (batch, *self._ends.image_shape)
        if not self._context.set_input_shape(self._ends.image, shape):
            raise _failure(f"set_input_shape {list(shape)}", self.log)
        self._batch, self._repeats = batch, 0

    def _enqueue(self) -> None:
        """Enqueue one inference: the graph, or its kernels one by one."""
        if self._graph is None and self._use_graph and self._repeats >= 2:
            # The first run of a shape allocates lazily, which must not happen in a capture.
            self.device.synchronize(self._stream)
            self._graph = self.device.capture(self._stream, self._try_execute)
            self._use_graph = self._graph is not None
        if self._graph is not None:
            self.device.launch(self._graph, self._stream)
        else:
            self._execute()

    def _try_execute(self) -> bool:
        return bool(self._context.execute_async_v3(int(self._stream)))

    def _execute(self) -> None:
        if not self._try_execute():
            raise _failure("execute_async_v3", self.log)

    def _forget_graph(self) -> None:
        if self._graph is not None:
            self.device.release_graph(self._graph)
        self._graph, self._repeats = None, 0

    def _check_images(self, images: Images) -> None:
        expected = self._ends.image_shape
        if images.dtype != np.float32 or images.shape[1:] != expected or not len(images):
            raise UsageError(
                "EV762",
                "The images do not fit the engine's input.",
                why=f"{images.dtype} {list(images.shape)} instead of float32 [B, "
                f"{', '.join(map(str, expected))}].",
            )


def _view(buffer: HostBuffer, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return the first bytes of a buffer as float32 of a shape."""
    size = _bytes(shape)
    view: npt.NDArray[np.float32] = buffer.array[:size].view(np.float32).reshape(shape)
    return view


def _bytes(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape)) * _FLOAT_BYTES


def _ends(trt: Any, engine: Any) -> _Ends:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if name not in inputs]
    kinds = {engine.get_tensor_dtype(name) for name in names}
    if len(inputs) != 1 or not outputs or kinds != {trt.DataType.FLOAT}:
        raise _other_ends(f"inputs {inputs}, outputs {outputs}, types {kinds}")
    shape = tuple(engine.get_tensor_shape(inputs[0]))
    given = {name: tuple(engine.get_tensor_shape(name)) for name in outputs}
    sizes = [*shape[1:], *(size for one in given.values() for size in one[1:])]
    if len(shape) != 4 or not all(given.values()) or min(sizes) < 1:
        raise _other_ends(f"input {list(shape)}, outputs {given}")
    smallest, largest = shape[0], shape[0]
    if shape[0] == -1:
        shapes = engine.get_tensor_profile_shape(inputs[0], 0)  # smallest, best, largest
        smallest, largest = shapes[0][0], shapes[2][0]
    ends = {name: one[1:] for name, one in given.items()}
    return _Ends(inputs[0], shape[1:], ends, smallest, largest)


def _profiler(trt: Any) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc]
        """Adds up the time of each layer."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.total_ms: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Called by TensorRT once per layer and run."""
            self.total_ms[layer_name] = self.total_ms.get(layer_name, 0.0) + ms

    return Profiler()


def _does_not_load(log: MessageLog) -> DeviceError:
    call = "deserialize_cuda_engine"
    return cuda_failure_in(log.reason(""), call) or DeviceError(
        "EV760",
        "The engine does not load here.",
        where=call,
        why=log.reason("An engine runs only on the device and TensorRT version it was built with."),
        try_next="Build it again on this device.",
    )


def _other_ends(why: str) -> DeviceError:
    return DeviceError(
        "EV761",
        "The engine does not take one float32 image and give float32 outputs.",
        why=why,
        try_next="Write the bundle again for a TensorRT target.",
    )


def _failure(where: str, log: MessageLog) -> DeviceError:
    return cuda_failure_in(log.reason(""), where) or DeviceError(
        "EV763",
        "TensorRT failed while running.",
        where=where,
        why=log.reason("It says no reason."),
        try_next="Build the engine again; if that does not help, report it with this message.",
    )


def _not_finite(name: str, values: Values) -> DeviceError:
    wrong = int(np.count_nonzero(~np.isfinite(values)))
    return DeviceError(
        "EV764",
        f"The engine returned {name} that can't be used.",
        where="TensorRT",
        why=f"{wrong} of {values.size} values are NaN or infinite; float16 overflow is likely.",
        try_next="Keep the overflowing layers in float32: write the bundle again with more"
        " calibration images, so that their range is seen.",
    )
