"""From a bundle to a running engine: from the cache if it is there, else built on this device."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.bundle import Bundle
from edgevit.errors import DeviceError
from edgevit.runner.engines import engine_of
from edgevit.runner.engines.tensorrt.bindings import (
    MessageLog,
    load_tensorrt,
    version_from_text,
    version_text,
)
from edgevit.runner.engines.tensorrt.building import BuildSettings, plan_from_onnx
from edgevit.runner.engines.tensorrt.caching import (
    EngineCache,
    Identity,
    engine_key,
    identity,
    timing_key,
)
from edgevit.runner.engines.tensorrt.cuda import open_device
from edgevit.runner.engines.tensorrt.cuda_device import CudaDevice
from edgevit.runner.engines.tensorrt.session import TensorRTSession

if TYPE_CHECKING:
    from edgevit.runner.engines.tensorrt.building import BuildProgress

REFERENCE = "fp32"
"""Name under which the float32 reference of a bundle is opened; it is built without TF32."""


@dataclass(frozen=True)
class EngineOptions:
    """Settings with which engines are built and run.

    Args:
        settings: Batch sizes, workspace, effort.
        cuda: CUDA adapter; see `edgevit.runner.engines.tensorrt.cuda`.
        cache_folder: Where engines and timings are kept; None for the user's own cache.
        rebuild: Build even if the cache has the engine.
        graph: Launch CUDA graphs.
    """

    settings: BuildSettings = field(default_factory=BuildSettings)
    cuda: str | None = None
    cache_folder: Path | None = None
    rebuild: bool = False
    graph: bool = True


DEFAULTS = EngineOptions()
"""How engines are built and run if nothing else is asked for."""


@dataclass(frozen=True)
class BuiltEngine:
    """A running engine and where it comes from.

    Args:
        session: Has the surface of `edgevit.runner.engines.onnxruntime.session.EngineSession`.
        variant: Such as "int8".
        build_seconds: How long the build took; None from the cache.
        where: The machine it belongs to.
        warnings: What TensorRT warned of while building.
    """

    session: TensorRTSession
    variant: str
    build_seconds: float | None
    where: Identity
    warnings: tuple[str, ...] = ()


def engine_for(
    bundle: Bundle,
    variant: str | None = None,
    *,
    options: EngineOptions = DEFAULTS,
    log: MessageLog | None = None,
    progress: BuildProgress | None = None,
) -> TensorRTSession:
    """Return a session for a variant of a bundle; `build_engine` also says where it comes from.

    Args:
        bundle: A bundle made for a TensorRT target.
        variant: Such as "fp16"; None for the main graph, "fp32" for the bundle's reference.
        options: How it is built and run.
        log: Collects TensorRT's messages.
        progress: Called while building with (phase, done, total); False stops.

    Raises:
        EdgeViTError: As `build_engine`.
    """
    return build_engine(bundle, variant, options=options, log=log, progress=progress).session


def build_engine(
    bundle: Bundle,
    variant: str | None = None,
    *,
    options: EngineOptions = DEFAULTS,
    log: MessageLog | None = None,
    progress: BuildProgress | None = None,
) -> BuiltEngine:
    """Return a running engine of a variant; arguments as `engine_for`.

    Raises:
        BundleError: The bundle is damaged, has no reference (EV425), or asks its engine for
            something foreign (EV417).
        UsageError: There is no such variant (EV416), or settings or adapter can't be (EV754,
            EV756).
        EnvironmentError_: TensorRT or CUDA is missing (EV750, EV751, EV757), or the cache can't be
            written (EV755).
        DeviceError: The build or the engine fails (EV752 to EV764).
    """
    engine_of(bundle.manifest)
    onnx, name = _graph(bundle, variant), variant or bundle.variants[0]
    if variant == REFERENCE:
        options = replace(options, settings=replace(options.settings, tf32=False))
    cache = EngineCache(options.cache_folder)
    log = MessageLog() if log is None else log
    return _build(onnx, name, options, cache, log, progress)


def _graph(bundle: Bundle, variant: str | None) -> bytes:
    """Return the graph of a variant or of the reference."""
    if variant == REFERENCE:
        return bundle.required_reference_onnx()
    return bundle.engine_onnx(variant)


def _build(
    onnx: bytes,
    variant: str,
    options: EngineOptions,
    cache: EngineCache,
    log: MessageLog,
    progress: BuildProgress | None,
) -> BuiltEngine:
    trt = load_tensorrt()
    device = open_device(options.cuda)
    facts = device.facts()
    version = version_text(version_from_text(trt.__version__))
    where = identity(facts.name, facts.compute_capability, version)
    key = engine_key(onnx, options.settings, where)
    session = None if options.rebuild else _find_cached(trt, device, cache, key, options)
    if session is not None:
        return BuiltEngine(session, variant, None, where)
    timings = cache.timings(timing_key(where))
    plan = plan_from_onnx(
        trt, onnx, options.settings, timing_cache=timings, log=log, progress=progress
    )
    cache.store_timings(timing_key(where), plan.timing_cache)
    cache.store_engine(key, plan.data, _record(variant, options, where, plan.build_seconds))
    session = TensorRTSession(plan.data, trt=trt, device=device, graph=options.graph, log=log)
    return BuiltEngine(session, variant, plan.build_seconds, where, plan.warnings)


def _find_cached(
    trt: Any, device: CudaDevice, cache: EngineCache, key: str, options: EngineOptions
) -> TensorRTSession | None:
    """Return a session for an engine of the cache; one that no longer loads is removed."""
    data = cache.engine(key)
    if data is None:
        return None
    try:
        return TensorRTSession(data, trt=trt, device=device, graph=options.graph)
    except DeviceError as error:
        if error.code != "EV760":
            raise
        cache.forget_engine(key)
        return None


def _record(
    variant: str, options: EngineOptions, where: Identity, seconds: float | None
) -> dict[str, Any]:
    return {
        "variant": variant,
        "settings": options.settings.to_dict(),
        "identity": where.to_dict(),
        "build_seconds": seconds,
    }
