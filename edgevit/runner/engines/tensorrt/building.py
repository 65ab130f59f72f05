"""Builds a TensorRT plan from an ONNX graph that already says the precision of every tensor.

The network is strongly typed: the only mode that TensorRT 10.3 to 11.4 have in common, and the only
one in which the engine computes in the types that were simulated. No precision flag is ever set.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgevit.errors import DeviceError, EdgeViTError, UnsupportedError, UsageError
from edgevit.runner.engines.tensorrt.bindings import MessageLog, logger_for
from edgevit.runner.engines.tensorrt.deferring import deferred_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    BuildProgress = Callable[[str, int, int], bool]
    """Called with (phase, steps done, steps); returning False stops the build."""

_MOST_NAMED_ERRORS = 5
_NO_UNIT = "HW-specific datatypes"
"""Words of the compiler where a graph has FP8 or FP4 and the card no unit for it."""


@dataclass(frozen=True)
class BuildSettings:
    """Settings with which an engine is built.

    Args:
        workspace_bytes: Most scratch memory a kernel may use. On a board it is taken from the
            memory of the whole system, so the default stays small.
        min_batch: Smallest batch the engine accepts.
        best_batch: Batch the kernels are chosen for.
        max_batch: Largest batch; bigger ones are run in parts.
        optimization_level: TensorRT's 0 (fast build) to 5 (long search).
        detailed: Keep what the inspector needs in the plan; costs a few kilobytes.
        tf32: Let float32 products round their inputs to TF32, as TensorRT does by itself.
    """

    workspace_bytes: int = 1 << 30
    min_batch: int = 1
    best_batch: int = 1
    max_batch: int = 16
    optimization_level: int = 3
    detailed: bool = True
    tf32: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return asdict(self)

    def check(self) -> None:
        """Refuse settings that can't be built with.

        Raises:
            UsageError: EV754.
        """
        ordered = 1 <= self.min_batch <= self.best_batch <= self.max_batch
        if not ordered or not 0 <= self.optimization_level <= 5 or self.workspace_bytes < 1 << 20:
            raise UsageError(
                "EV754",
                "An engine can't be built with these settings.",
                where=str(self.to_dict()),
                why="1 <= min_batch <= best_batch <= max_batch, level 0 to 5, workspace >= 1 MiB.",
                try_next="A largest batch of 1 or more, and a best one that is not above it.",
            )


@dataclass(frozen=True)
class BuildPlan:
    """A built engine, not yet loaded.

    Args:
        data: The serialized engine; it runs only on this kind of device and TensorRT version.
        timing_cache: Kernel timings that make the next build faster; empty if there are none.
        build_seconds: How long the build took.
        warnings: What TensorRT warned of.
    """

    data: bytes
    timing_cache: bytes
    build_seconds: float
    warnings: tuple[str, ...]


def plan_from_onnx(
    trt: Any,
    onnx: bytes,
    settings: BuildSettings,
    *,
    timing_cache: bytes = b"",
    capabilities: Sequence[str] = (),
    log: MessageLog | None = None,
    progress: BuildProgress | None = None,
) -> BuildPlan:
    """Return a plan for the device of this machine, or for others that are named.

    Args:
        trt: The module `tensorrt`, or `tensorrt_rtx`.
        onnx: Serialized ModelProto with one input, float32 [batch, 3, H, W].
        settings: See `BuildSettings`.
        capabilities: What TensorRT for RTX compiles for ahead of time, such as "SM89"; none for
            the device of this machine.
        timing_cache: What an earlier build on the same device left.
        log: Collects TensorRT's messages.
        progress: Called while building; may stop it.

    Raises:
        DeviceError: The parser refuses the graph (EV752), it is no image classifier of one size
            (EV767), or no engine comes out (EV753).
        UnsupportedError: The card has no unit for a type of the graph (EV437).
        UsageError: The settings can't be (EV754), or TensorRT refuses the batch sizes (EV768).
    """
    settings.check()
    job = _Job(settings, timing_cache, capabilities, MessageLog() if log is None else log)
    with deferred_signals() as is_asked_to_stop:

        def goes_on(phase: str, done: int, total: int) -> bool:
            wanted = progress is None or progress(phase, done, total)
            return wanted and not is_asked_to_stop()

        return _build(trt, onnx, job, goes_on)


@dataclass(frozen=True)
class _Job:
    """The arguments of `plan_from_onnx` but the graph."""

    settings: BuildSettings
    timing_cache: bytes
    capabilities: Sequence[str]
    log: MessageLog


def _build(trt: Any, onnx: bytes, job: _Job, progress: BuildProgress) -> BuildPlan:
    log = job.log
    logger = logger_for(trt, log)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, logger, onnx, log)
    config = _config(trt, builder, network, job.settings)
    if job.capabilities:
        _compile_for(trt, config, job.capabilities)
    # ahead of time nothing is timed
    cache = None if job.capabilities else _attach_timing_cache(config, job.timing_cache, log)
    config.progress_monitor = monitor_for(trt, progress)
    start = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - start
    if plan is None:
        cards = ", ".join(job.capabilities) or "the card of this machine"
        raise _not_built(log, job.settings, cards)
    found = None if cache is None else config.get_timing_cache()
    del cache  # the builder refers to it until here
    kept = bytes(found.serialize()) if found is not None else b""
    return BuildPlan(bytes(plan), kept, seconds, tuple(log.warnings))


def _parse(trt: Any, network: Any, logger: Any, onnx: bytes, log: MessageLog) -> None:
    parser = trt.OnnxParser(network, logger)
    if parser.parse(onnx):
        return
    count = min(parser.num_errors, _MOST_NAMED_ERRORS)
    errors = [_describe(parser.get_error(index)) for index in range(count)]
    raise DeviceError(
        "EV752",
        "TensorRT can't read the graph.",
        where="ONNX parser",
        why="\n".join(errors)[:2000] or log.reason("It names no node."),
        try_next="edgevit check MODEL.onnx --target T names the rule that the graph breaks.",
    )


def _describe(error: Any) -> str:
    return f"{error.node_operator()} {error.node_name()} (node {error.node()}): {error.desc()}"


def _config(trt: Any, builder: Any, network: Any, settings: BuildSettings) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    config.builder_optimization_level = settings.optimization_level
    if settings.detailed:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if not settings.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    image = _image_input(network)
    shape = tuple(image.shape)
    if shape[0] == -1:
        profile = builder.create_optimization_profile()
        batches = (settings.min_batch, settings.best_batch, settings.max_batch)
        profile.set_shape(image.name, *[(batch, *shape[1:]) for batch in batches])
        if config.add_optimization_profile(profile) < 0:
            raise UsageError(
                "EV768",
                "TensorRT refuses the batch sizes.",
                where=str(batches),
                why="They are the smallest, best and largest batch of the engine's profile.",
                try_next="Take a smaller largest batch.",
            )
    return config


def _compile_for(trt: Any, config: Any, capabilities: Sequence[str]) -> None:
    config.num_compute_capabilities = len(capabilities)
    for index, name in enumerate(capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), index)


def _image_input(network: Any) -> Any:
    """Return the only input; height and width must be fixed."""
    image = network.get_input(0) if network.num_inputs == 1 else None
    if image is None or not network.num_outputs or len(image.shape) != 4 or -1 in image.shape[1:]:
        raise DeviceError(
            "EV767",
            "The graph does not take images of one size.",
            why=f"{network.num_inputs} inputs, {network.num_outputs} outputs,"
            f" input shape {None if image is None else list(image.shape)}.",
        )
    return image


def _attach_timing_cache(config: Any, data: bytes, log: MessageLog) -> Any:
    """Return the attached cache; a cache of another device or version is not used."""
    cache = config.create_timing_cache(data)
    if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
        return cache
    if data:
        log.add("WARNING", "The timing cache does not fit this device; the build starts afresh.")
        return _attach_timing_cache(config, b"", log)
    return None


def monitor_for(trt: Any, progress: BuildProgress) -> Any:
    """Return a TensorRT progress monitor that calls `progress`."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Counts the steps of each phase; phases nest."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """A phase begins."""
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            """One step is done; False stops the build."""
            return bool(progress(phase_name, step + 1, self.steps.get(phase_name, step + 1)))

        def phase_finish(self, phase_name: str) -> None:
            """A phase ends."""
            self.steps.pop(phase_name, None)

    return Monitor()


def _not_built(log: MessageLog, settings: BuildSettings, cards: str) -> EdgeViTError:
    why = log.reason("It says no reason; the build may have been stopped.")
    if _NO_UNIT in why:
        return UnsupportedError(
            "EV437",
            "The card can't compute in a type of the graph.",
            where=cards,
            why=why,
            try_next="Leave out the card or the variant: FP8 is there from SM89 on (RTX 40), FP4"
            " from SM120 on (RTX 50), INT8 and FP16 on all.",
        )
    return DeviceError(
        "EV753",
        "TensorRT built no engine.",
        where="build_serialized_network",
        why=why,
        try_next=f"If memory ran out: a smaller largest batch than {settings.max_batch}; on a board"
        " stop the desktop and add swap as well.",
    )
