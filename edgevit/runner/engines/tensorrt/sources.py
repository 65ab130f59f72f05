"""The sources of an engine: the cache, the bundle, or a build on this device, in this order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.bundle import Bundle
from edgevit.errors import DeviceError
from edgevit.runner.engines.tensorrt.bindings import MessageLog
from edgevit.runner.engines.tensorrt.building import BuildPlan, BuildSettings, plan_from_onnx
from edgevit.runner.engines.tensorrt.caching import (
    EngineCache,
    Identity,
    engine_key,
    identity,
    timing_key,
)
from edgevit.runner.engines.tensorrt.cuda import open_device
from edgevit.runner.engines.tensorrt.kept_kernels import KernelStore, driver_version, kernels_key
from edgevit.runner.engines.tensorrt.library import TENSORRT, BundledEngine, Library
from edgevit.runner.engines.tensorrt.session import TensorRTSession

if TYPE_CHECKING:
    from edgevit.runner.engines.tensorrt.building import BuildProgress


@dataclass(frozen=True)
class EngineOptions:
    """Settings with which engines are built and run.

    Args:
        settings: Batch sizes, workspace, effort.
        cuda: CUDA adapter; see `edgevit.runner.engines.tensorrt.cuda`.
        cache_folder: Where engines and timings are kept; None for the user's own cache.
        rebuild: Build even if the cache has the engine.
        graph: Launch CUDA graphs.
        library: What builds and runs them.
        trust_code: Run an engine that a bundle holds and another machine compiled.
    """

    settings: BuildSettings = field(default_factory=BuildSettings)
    cuda: str | None = None
    cache_folder: Path | None = None
    rebuild: bool = False
    graph: bool = True
    library: Library = TENSORRT
    trust_code: bool = False


UNFIT = ("EV760", "EV775", "EV776", "EV777", "EV778")
"""Codes of engines that can't run here and that can be compiled anew: they do not load, or are for
another card, version or CUDA, or damaged."""
DEFAULTS = EngineOptions()
"""How engines are built and run if nothing else is asked for."""


@dataclass(frozen=True)
class BuiltEngine:
    """A running engine and where it comes from.

    Args:
        session: Has the surface of `edgevit.runner.engines.onnxruntime.session.EngineSession`.
        variant: Such as "int8".
        build_seconds: How long the build took; None from the cache or the bundle.
        where: The machine it belongs to.
        warnings: What TensorRT warned of while building.
        notes: Why an engine that was there was not used.
    """

    session: TensorRTSession
    variant: str
    build_seconds: float | None
    where: Identity
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class EngineSources:
    """The library, the device and the cache with which one engine is opened."""

    def __init__(self, options: EngineOptions, log: MessageLog) -> None:
        self._options, self._log = options, log
        self._library, self._cache = options.library, EngineCache(options.cache_folder)
        self._trt = self._library.load()
        self._device = open_device(options.cuda)
        self._facts = self._device.facts()
        self._version = self._library.version(self._trt)
        self._where = identity(self._facts.name, self._facts.compute_capability, self._version)
        self._notes: list[str] = []

    def cached(self, onnx: bytes, variant: str) -> BuiltEngine | None:
        """Return the engine of the cache; one that no longer loads is removed."""
        key = self._key(onnx)
        data = None if self._options.rebuild else self._cache.engine(key)
        if data is None:
            return None
        found = self._tried(data, key, variant)
        if found is None:
            self._cache.forget_engine(key)
        return found

    def bundled(self, onnx: bytes, variant: str, bundle: Bundle) -> BuiltEngine | None:
        """Return the engine in the bundle if it may be run and fits; else a note says why not."""
        wanted = self._library.capabilities(self._facts)
        engine = self._library.bundled(bundle, variant, wanted)
        if engine is None:
            return None
        refused = self._why_foreign(engine, wanted)
        data = b"" if refused else engine.read()
        if not refused and not self._may_run(data):
            refused = "another machine compiled it, and it is a program (--trust-code runs it)"
        if refused:
            self._notes.append(f"the {variant} engine in the bundle is not used: {refused}")
            return None
        return self._tried(data, self._key(onnx), variant)

    def built(self, onnx: bytes, variant: str, progress: BuildProgress | None) -> BuiltEngine:
        """Build an engine, and keep it with its timings."""
        settings, timings = self._options.settings, timing_key(self._where)
        plan = plan_from_onnx(
            self._trt,
            onnx,
            settings,
            timing_cache=self._cache.timings(timings),
            capabilities=self._library.capabilities(self._facts),
            log=self._log,
            progress=progress,
        )
        self._cache.store_timings(timings, plan.timing_cache)
        key, record = self._key(onnx), _record(variant, self._options, self._where, plan)
        self._cache.store_engine(key, plan.data, record)
        session = self._session(plan.data, key, self._log)
        return self._opened(session, variant, plan.build_seconds, plan.warnings)

    def _key(self, onnx: bytes) -> str:
        return engine_key(onnx, self._options.settings, self._where)

    def _why_foreign(self, engine: BundledEngine, wanted: tuple[str, ...]) -> str:
        """Return why an engine of a bundle does not do here, "" if it may."""
        if not set(wanted) <= set(engine.capabilities):
            made_for = ", ".join(engine.capabilities)
            return f"it is for {made_for}, and the card here is {', '.join(wanted)}"
        title, asked = self._library.title, self._options.settings.max_batch
        if engine.version != self._version:
            return f"{title} {engine.version} compiled it, and {self._version} is here"
        if engine.max_batch < asked:
            return f"its largest batch is {engine.max_batch}, and {asked} is asked for"
        return ""

    def _may_run(self, data: bytes) -> bool:
        """Return whether this machine compiled an engine, or the user trusts who did."""
        sha256 = hashlib.sha256(data).hexdigest()
        return self._options.trust_code or self._cache.has_compiled(sha256)

    def _tried(self, data: bytes, key: str, variant: str) -> BuiltEngine | None:
        """Return an engine that is there; None, with a note, for one that can't run here."""
        try:
            session = self._session(data, key, MessageLog())
        except DeviceError as error:
            if error.code not in UNFIT:
                raise
            self._notes.append(f"an engine of {variant} that was there is not used: {error.what}")
            return None
        return self._opened(session, variant)

    def _opened(
        self,
        session: TensorRTSession,
        variant: str,
        seconds: float | None = None,
        warnings: tuple[str, ...] = (),
    ) -> BuiltEngine:
        notes = (*self._notes, *session.notes)
        return BuiltEngine(session, variant, seconds, self._where, warnings, notes)

    def _session(self, data: bytes, key: str, log: MessageLog) -> TensorRTSession:
        return TensorRTSession(
            data,
            trt=self._trt,
            device=self._device,
            graph=self._options.graph,
            log=log,
            library=self._library,
            store=KernelStore(self._cache, kernels_key(key, driver_version())),
        )


def _record(
    variant: str, options: EngineOptions, where: Identity, plan: BuildPlan
) -> dict[str, Any]:
    return {
        "variant": variant,
        "settings": options.settings.to_dict(),
        "identity": where.to_dict(),
        "build_seconds": plan.build_seconds,
    }
