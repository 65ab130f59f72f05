"""From a bundle to a running engine: from the cache if it is there, else built on this device."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgevit.bundle import Bundle
from edgevit.runner.engines import engine_of
from edgevit.runner.engines.tensorrt.bindings import MessageLog
from edgevit.runner.engines.tensorrt.session import TensorRTSession
from edgevit.runner.engines.tensorrt.sources import (
    DEFAULTS,
    BuiltEngine,
    EngineOptions,
    EngineSources,
)

if TYPE_CHECKING:
    from edgevit.runner.engines.tensorrt.building import BuildProgress

__all__ = ["DEFAULTS", "REFERENCE", "BuiltEngine", "EngineOptions", "build_engine", "engine_for"]

REFERENCE = "fp32"
"""Name under which the float32 reference of a bundle is opened; it is built without TF32."""


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
        EnvironmentError_: TensorRT or CUDA is missing (EV750, EV751, EV757, EV770), or the cache
            can't be written (EV755).
        DeviceError: The build or the engine fails (EV752 to EV764), or there is no driver (EV772),
            GPU (EV773) or memory (EV774) for it.
    """
    engine_of(bundle.manifest)
    onnx, name = _graph(bundle, variant), variant or bundle.variants[0]
    if variant == REFERENCE:
        options = replace(options, settings=replace(options.settings, tf32=False))
    log = MessageLog() if log is None else log
    sources = EngineSources(options, log)
    found = sources.cached(onnx, name)
    if found is None and variant != REFERENCE and not options.rebuild:
        found = sources.bundled(onnx, name, bundle)
    return found or sources.built(onnx, name, progress)


def _graph(bundle: Bundle, variant: str | None) -> bytes:
    """Return the graph of a variant or of the reference."""
    if variant == REFERENCE:
        return bundle.required_reference_onnx()
    return bundle.engine_onnx(variant)
