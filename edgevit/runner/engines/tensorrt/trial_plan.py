"""The plan by which each variant is measured, and the form in which a variant is opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from edgevit.runner.engines.tensorrt.layer_table import EngineSummary
from edgevit.runner.engines.tensorrt.parity import ParityLimits

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgevit.runner.measure.accuracy import Normalize


class VariantSession(Protocol):
    """A running engine, as the trials need it."""

    def run(self, images: npt.NDArray[np.float32], /) -> npt.NDArray[np.float32]:
        """Return float32 [B, classes] for float32 [B, 3, H, W]."""


@dataclass(frozen=True)
class OpenedVariant:
    """A variant that is ready to run.

    Args:
        session: The engine; if it has a ``close``, that frees its memory.
        build_seconds: How long the build took; None from the cache.
        inspect: Returns the engine in numbers; None where that can't be told.
        kernel_ms: Returns the median GPU time of an input; None where that can't be measured.
    """

    session: VariantSession
    build_seconds: float | None = None
    inspect: Callable[[], EngineSummary] | None = None
    kernel_ms: Callable[[npt.NDArray[np.float32]], float] | None = None


@dataclass(frozen=True)
class TrialPlan:
    """Data and settings of the measurements.

    Args:
        golden: What `Bundle.golden` returns.
        normalize: Turns uint8 [B, H, W, 3] into float32 [B, 3, H, W].
        batch: Batch size of the latency runs.
        warmup: Rounds before measuring.
        rounds: Measured rounds, each engine once per round.
        min_seconds: Measure at least this long.
        limits: What counts as computing the same as the simulation.
        energy_seconds: How long each engine runs alone for its energy, where there are power rails.
        root: Where sensors are read: ``/``, or a recorded tree.
    """

    golden: Mapping[str, npt.NDArray[Any]]
    normalize: Normalize
    batch: int = 1
    warmup: int = 20
    rounds: int = 200
    min_seconds: float = 0.0
    limits: ParityLimits = field(default_factory=ParityLimits)
    energy_seconds: float = 5.0
    root: str | os.PathLike[str] = "/"
