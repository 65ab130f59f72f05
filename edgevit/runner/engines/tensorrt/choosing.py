"""Builds every variant of a bundle on this device, measures them in turns, and keeps one.

Also joins a bundle's products with what the engine made of them, layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgevit.bundle import Bundle
from edgevit.runner.engines.tensorrt.gate import Gate
from edgevit.runner.engines.tensorrt.inspecting import EngineLayer, layers_from_inspector
from edgevit.runner.engines.tensorrt.kernel_table import KernelTable
from edgevit.runner.engines.tensorrt.layer_table import (
    EngineSummary,
    ProductRow,
    product_rows,
    summary,
)
from edgevit.runner.engines.tensorrt.opening import (
    DEFAULTS,
    BuiltEngine,
    EngineOptions,
    build_engine,
)
from edgevit.runner.engines.tensorrt.policy import Decision, Trial
from edgevit.runner.engines.tensorrt.trial_plan import OpenedVariant, TrialPlan, VariantSession
from edgevit.runner.engines.tensorrt.trials import try_variants

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.runner.engines.tensorrt.session import TensorRTSession


def engine_layers(session: TensorRTSession, image: npt.NDArray[np.float32]) -> _Inspected:
    """Return an engine's layers and their times in milliseconds.

    Args:
        session: What `engine_for` returned.
        image: float32 [B, 3, H, W] that the times are taken with.
    """
    times_ms = session.layer_times_ms(image)
    return _Inspected(layers_from_inspector(session.inspect()), times_ms)


@dataclass(frozen=True)
class _Inspected:
    """An engine's layers and their times in milliseconds by name."""

    layers: tuple[EngineLayer, ...]
    times_ms: Mapping[str, float]


def engine_tables(
    bundle: Bundle, built: BuiltEngine, image: npt.NDArray[np.float32], *, max_batch: int
) -> tuple[list[ProductRow], KernelTable]:
    """Return for each product of the bundle what the engine made of it, and all its kernels.

    Args:
        bundle: The bundle it was built of.
        built: The engine.
        image: float32 [B, 3, H, W] that the times are taken with.
        max_batch: Largest batch of the engine.
    """
    found = engine_layers(built.session, image)
    rows = product_rows(bundle.layers(built.variant), found.layers, found.times_ms)
    table = KernelTable(
        variant=built.variant,
        engine=built.session.engine,
        capabilities=("SM" + built.where.compute_capability.replace(".", ""),),
        max_batch=max_batch,
        layers=found.layers,
    )
    return rows, table


def choose_variant(
    bundle: Bundle,
    plan: TrialPlan,
    *,
    options: EngineOptions = DEFAULTS,
    gate: Callable[[str, VariantSession], Gate] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    on_opened: Callable[[BuiltEngine], None] = lambda engine: None,
) -> tuple[Decision, tuple[Trial, ...]]:
    """Build all variants of a bundle on this device, measure them, and choose one.

    Args:
        bundle: A bundle made for a TensorRT target.
        plan: What is measured.
        options: How engines are built and run.
        gate: Judges the accuracy of an engine.
        progress: Called with (stage, done, total).
        on_opened: Called with each engine that was opened.

    Raises:
        EdgeViTError: An engine that passed its check fails while it is timed.
    """
    image = plan.normalize(plan.golden["images"][:1])  # [1, 3, H, W]
    built: list[BuiltEngine] = []

    def opener(variant: str) -> OpenedVariant:
        built.append(build_engine(bundle, variant, options=options))
        on_opened(built[-1])
        return _open(bundle, built[-1], image)

    ordered = sorted(bundle.variants, key=lambda name: name != "fp16")  # the baseline first
    try:
        return try_variants(ordered, opener, plan, gate=gate, progress=progress)
    finally:
        for engine in built:  # the one that is kept comes back from the cache
            engine.session.close()


def _open(bundle: Bundle, built: BuiltEngine, image: npt.NDArray[np.float32]) -> OpenedVariant:
    session = built.session

    def inspect() -> EngineSummary:
        found = engine_layers(session, image)
        rows = product_rows(bundle.layers(built.variant), found.layers, found.times_ms)
        return summary(rows, found.layers, found.times_ms)

    def kernel_ms(images: npt.NDArray[np.float32]) -> float:
        return float(np.median(session.kernel_times_ms(images, 100)))

    return OpenedVariant(session, built.build_seconds, inspect, kernel_ms)
