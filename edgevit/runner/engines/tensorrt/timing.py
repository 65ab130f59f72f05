"""Times the variants in turns with the device watched: once more where the first time is void.

Latencies during which a clock dropped or something throttled do not count. They are then measured a
second time; if those do not count either, that is said and they decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgevit.runner.telemetry import measure_watched, why_not_counted

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgevit.runner.engines.tensorrt.trial_plan import OpenedVariant, TrialPlan

    Image = npt.NDArray[np.float32]

_WATCH = "gpu"


@dataclass(frozen=True)
class Timing:
    """Latencies of all variants and what held meanwhile.

    Args:
        samples_ms: Variant -> latencies, one per round.
        telemetry: What `watched_conditions` returns, and retimed_because: why a first timing did
            not count (reasons; none if it did). None where there are no sensors.
    """

    samples_ms: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    telemetry: Mapping[str, Any] | None = None

    def energy_mj(self, variant: str) -> float | None:
        """Return a variant's millijoules per image above idle; None where that is not known."""
        rows: Mapping[str, Any] = {} if self.telemetry is None else self.telemetry["energy"]
        found: float | None = rows.get(variant, {}).get("energy_mj")
        return found


def time_in_turns(
    opened: Mapping[str, OpenedVariant],
    image: Image,
    plan: TrialPlan,
    again: Callable[[], None] | None = None,
) -> Timing:
    """Return the latencies of engines, measured in turns.

    Args:
        opened: Engines by variant.
        image: float32 [B, 3, H, W].
        plan: How they are timed.
        again: Called when the first timing does not count, before the second.

    Raises:
        EdgeViTError: What an engine raises.
    """
    if not opened:
        return Timing()
    first = _once(opened, image, plan)
    refused = why_not_counted(first.telemetry)
    if not refused:
        return _explain(first, [])
    if again is not None:
        again()
    return _explain(_once(opened, image, plan), refused)


def _explain(timing: Timing, refused: list[str]) -> Timing:
    if timing.telemetry is None:
        return timing
    return Timing(timing.samples_ms, {**timing.telemetry, "retimed_because": refused})


def _once(opened: Mapping[str, OpenedVariant], image: Image, plan: TrialPlan) -> Timing:
    samples, telemetry = measure_watched(
        {name: found.session for name, found in opened.items()},
        image,
        watch=_WATCH,
        warmup=plan.warmup,
        rounds=plan.rounds,
        min_seconds=plan.min_seconds,
        energy_seconds=plan.energy_seconds,
        root=plan.root,
    )
    return Timing({n: tuple(map(float, s.samples_ms)) for n, s in samples.items()}, telemetry)
