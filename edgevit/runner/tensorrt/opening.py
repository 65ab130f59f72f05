"""From a bundle to a running engine: from the cache if it is there, else built on this device.

The Python module is used where it loads; where it is missing, trtexec builds and runs the engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.bundle import Bundle
from edgevit.errors import BundleError, DeviceError, EnvironmentError_, UsageError
from edgevit.runner.tensorrt.bindings import (
    MessageLog,
    dotted,
    load_tensorrt,
    version_from_text,
)
from edgevit.runner.tensorrt.building import BuildSettings, plan_from_onnx
from edgevit.runner.tensorrt.caching import (
    EngineCache,
    Identity,
    engine_key,
    identity,
    timing_key,
)
from edgevit.runner.tensorrt.cuda import CudaDevice, open_device
from edgevit.runner.tensorrt.inspecting import EngineLayer, layers_from_inspector
from edgevit.runner.tensorrt.layer_table import ProductRow, product_rows, summary
from edgevit.runner.tensorrt.policy import Decision, Gate, Trial
from edgevit.runner.tensorrt.session import TensorRTSession
from edgevit.runner.tensorrt.trials import Opened, Session, TrialPlan, try_variants
from edgevit.runner.tensorrt.trtexec import Trtexec, build_arguments, find_trtexec
from edgevit.runner.tensorrt.trtexec_session import EngineFile, TrtexecSession

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.runner.accuracy import Normalize
    from edgevit.runner.tensorrt.building import BuildProgress

    AnySession = TensorRTSession | TrtexecSession

TOOLS = ("auto", "python", "trtexec")
REFERENCE = "fp32"
"""Name under which the float32 reference of a bundle is opened; it is built without TF32."""
INPUT_NAME = "image"
"""Name of the input in every graph that EdgeViT writes."""


@dataclass(frozen=True)
class EngineChoice:
    """How engines are built and run.

    Args:
        settings: Batch sizes, workspace, effort.
        tool: "python", "trtexec", or "auto" for the first of them that is here.
        cuda: CUDA adapter; see `edgevit.runner.tensorrt.cuda`.
        cache_folder: Where engines and timings are kept; None for the user's own cache.
        rebuild: Build even if the cache has the engine.
        graph: Launch CUDA graphs.
    """

    settings: BuildSettings = field(default_factory=BuildSettings)
    tool: str = "auto"
    cuda: str | None = None
    cache_folder: Path | None = None
    rebuild: bool = False
    graph: bool = True


@dataclass(frozen=True)
class BuiltEngine:
    """A running engine and where it comes from.

    Args:
        session: Has the surface of `edgevit.runner.session.EngineSession`.
        variant: Such as "int8".
        build_seconds: How long the build took; None from the cache.
        where: The machine it belongs to.
        warnings: What TensorRT warned of while building.
    """

    session: AnySession
    variant: str
    build_seconds: float | None
    where: Identity
    warnings: tuple[str, ...] = ()


def available_tool() -> str | None:
    """Return "python" or "trtexec", whichever is here, or None."""
    try:
        load_tensorrt()
        return "python"
    except EnvironmentError_:
        pass
    try:
        find_trtexec()
        return "trtexec"
    except EnvironmentError_:
        return None


def engine_for(
    bundle: Bundle,
    variant: str | None = None,
    *,
    choice: EngineChoice = EngineChoice(),
    log: MessageLog | None = None,
    progress: BuildProgress | None = None,
) -> AnySession:
    """Return a session for a variant of a bundle; `built_engine` also says where it comes from.

    Args:
        bundle: A bundle made for a TensorRT target.
        variant: Such as "fp16"; None for the main graph, "fp32" for the bundle's reference.
        choice: How it is built and run.
        log: Collects TensorRT's messages.
        progress: Called while building with (phase, done, total); False stops.

    Raises:
        EdgeViTError: As `built_engine`.
    """
    return built_engine(bundle, variant, choice=choice, log=log, progress=progress).session


def built_engine(
    bundle: Bundle,
    variant: str | None = None,
    *,
    choice: EngineChoice = EngineChoice(),
    log: MessageLog | None = None,
    progress: BuildProgress | None = None,
) -> BuiltEngine:
    """Return a running engine of a variant; arguments as `engine_for`.

    Raises:
        BundleError: The bundle is damaged, or has no reference (EV404).
        UsageError: There is no such variant (EV416), or settings, tool or adapter can't be (EV754,
            EV756, EV766).
        EnvironmentError_: TensorRT, trtexec or CUDA is missing (EV750, EV751, EV757, EV770), or
            the cache can't be written (EV755).
        DeviceError: The build or the engine fails (EV752 to EV764, EV771, EV772).
    """
    onnx, name = _graph(bundle, variant), variant or bundle.variants[0]
    if variant == REFERENCE:
        choice = replace(choice, settings=replace(choice.settings, tf32=False))
    tool = _tool(choice.tool)
    cache = EngineCache(choice.cache_folder)
    log = MessageLog() if log is None else log
    if tool == "trtexec":
        return _through_trtexec(bundle, onnx, name, choice, cache)
    return _through_python(onnx, name, choice, cache, log, progress)


def _graph(bundle: Bundle, variant: str | None) -> bytes:
    """Return the graph of a variant or of the reference."""
    onnx = bundle.reference_onnx() if variant == REFERENCE else bundle.engine_onnx(variant)
    if onnx is None:
        raise BundleError(
            "EV404",
            "The bundle has no fp32 reference.",
            where=str(bundle.path),
            why="It was written without one.",
            try_next="Quantize again with the reference to compare against fp32.",
        )
    return onnx


def engine_layers(session: AnySession, image: npt.NDArray[np.float32]) -> _Inspected:
    """Return an engine's layers and their times in milliseconds.

    Args:
        session: What `engine_for` returned.
        image: float32 [B, 3, H, W] that the times are taken with.
    """
    if isinstance(session, TrtexecSession):
        return _Inspected(*session.layers(len(image)))
    times_ms = session.layer_times_ms(image)
    return _Inspected(layers_from_inspector(session.inspect()), times_ms)


@dataclass(frozen=True)
class _Inspected:
    """An engine's layers and their times in milliseconds by name."""

    layers: tuple[EngineLayer, ...]
    times_ms: Mapping[str, float]


def layer_table(
    bundle: Bundle, variant: str | None, session: AnySession, image: npt.NDArray[np.float32]
) -> list[ProductRow]:
    """Return for each product of the bundle what the engine made of it."""
    found = engine_layers(session, image)
    return product_rows(bundle.layers(variant), found.layers, found.times_ms)


def choose_engine(
    bundle: Bundle,
    plan: TrialPlan,
    *,
    choice: EngineChoice = EngineChoice(),
    gate: Callable[[str, Session], Gate] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Decision, tuple[Trial, ...]]:
    """Build all variants of a bundle on this device, measure them, and choose one.

    Args:
        bundle: A bundle made for a TensorRT target.
        plan: What is measured.
        choice: How engines are built and run.
        gate: Judges the accuracy of an engine.
        progress: Called with (stage, done, total).

    Raises:
        EdgeViTError: An engine that passed its check fails while it is timed.
    """

    def opener(variant: str) -> Opened:
        built = built_engine(bundle, variant, choice=choice)
        image = _first_image(plan.golden, plan.normalize)
        return _opened(bundle, built, image)

    ordered = sorted(
        bundle.variants, key=lambda name: name != "fp16"
    )  # the baseline is built first
    return try_variants(ordered, opener, plan, gate=gate, progress=progress)


def _opened(bundle: Bundle, built: BuiltEngine, image: npt.NDArray[np.float32]) -> Opened:
    session = built.session

    def inspect() -> Any:
        found = engine_layers(session, image)
        rows = product_rows(bundle.layers(built.variant), found.layers, found.times_ms)
        return summary(rows, found.layers, found.times_ms)

    def kernel_ms(images: npt.NDArray[np.float32]) -> float:
        if isinstance(session, TrtexecSession):
            return float(np.median(session.kernel_times_ms(len(images))))
        return float(np.median(session.kernel_times_ms(images, 100)))

    return Opened(session, built.build_seconds, inspect, kernel_ms)


def _first_image(golden: Mapping[str, Any], normalize: Normalize) -> npt.NDArray[np.float32]:
    return normalize(golden["images"][:1])  # [1, 3, H, W]


def _tool(asked: str) -> str:
    """Return the tool that is used."""
    if asked not in TOOLS:
        raise UsageError("EV766", f"{asked!r} does not run engines.", try_next=", ".join(TOOLS))
    if asked != "auto":
        return asked
    found = available_tool()
    if found is None:
        load_tensorrt()  # raises, and says what to install
    return found or "python"


def _through_python(
    onnx: bytes,
    variant: str,
    choice: EngineChoice,
    cache: EngineCache,
    log: MessageLog,
    progress: BuildProgress | None,
) -> BuiltEngine:
    trt = load_tensorrt()
    device = open_device(choice.cuda)
    facts = device.facts()
    version = dotted(version_from_text(trt.__version__))
    where = identity(facts.name, facts.compute_capability, version)
    key = engine_key(onnx, choice.settings, where)
    session = None if choice.rebuild else _cached(trt, device, cache, key, choice)
    if session is not None:
        return BuiltEngine(session, variant, None, where)
    timings = cache.timings(timing_key(where))
    plan = plan_from_onnx(
        trt, onnx, choice.settings, timing_cache=timings, log=log, progress=progress
    )
    cache.store_timings(timing_key(where), plan.timing_cache)
    cache.store_engine(key, plan.data, _record(variant, choice, where, plan.build_seconds))
    session = TensorRTSession(plan.data, trt=trt, device=device, graph=choice.graph, log=log)
    return BuiltEngine(session, variant, plan.build_seconds, where, plan.warnings)


def _cached(
    trt: Any, device: CudaDevice, cache: EngineCache, key: str, choice: EngineChoice
) -> TensorRTSession | None:
    """Return a session for an engine of the cache; one that no longer loads is removed."""
    data = cache.engine(key)
    if data is None:
        return None
    try:
        return TensorRTSession(data, trt=trt, device=device, graph=choice.graph)
    except DeviceError as error:
        if error.code != "EV760":
            raise
        cache.forget_engine(key)
        return None


def _through_trtexec(
    bundle: Bundle, onnx: bytes, variant: str, choice: EngineChoice, cache: EngineCache
) -> BuiltEngine:
    tool = Trtexec()
    where = identity("", "", dotted(tool.version))
    key = engine_key(onnx, choice.settings, where)
    seconds = None
    if choice.rebuild or cache.engine(key) is None:
        seconds = _build_with_trtexec(tool, bundle, onnx, choice, cache, key)
        plan = (cache.folder / f"{key}.plan").read_bytes()
        cache.store_engine(key, plan, _record(variant, choice, where, seconds))
    engine_file = EngineFile(
        cache.folder / f"{key}.plan", INPUT_NAME, bundle.input_size, choice.settings.max_batch
    )
    return BuiltEngine(TrtexecSession(tool, engine_file), variant, seconds, where)


def _build_with_trtexec(
    tool: Trtexec,
    bundle: Bundle,
    onnx: bytes,
    choice: EngineChoice,
    cache: EngineCache,
    key: str,
) -> float:
    """Build into the cache's folder and return the seconds it took."""
    cache.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    graph = cache.folder / f"{key}.onnx"
    graph.write_bytes(onnx)
    start = time.perf_counter()
    try:
        tool.call(
            build_arguments(
                tool.version,
                graph,
                cache.folder / f"{key}.plan",
                choice.settings,
                input_name=INPUT_NAME,
                image_shape=bundle.input_size,
                timing_cache=cache.timings_path(timing_key(identity("", "", ""))),
            )
        )
    finally:
        graph.unlink()
    return time.perf_counter() - start


def _record(
    variant: str, choice: EngineChoice, where: Identity, seconds: float | None
) -> dict[str, Any]:
    return {
        "variant": variant,
        "settings": choice.settings.to_dict(),
        "identity": where.to_dict(),
        "build_seconds": seconds,
    }
