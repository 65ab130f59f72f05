"""Times the variants in turns with the device watched: once more where the first time is void.

Latencies during which a clock dropped or something throttled do not count. They are then measured a
second time; if those do not count either, that is said and they decide nothing (`policy.decide`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.runner.telemetry import Recorder, Recording, measure_watched, why_not_counted
from edgevit.runner.telemetry.energy import IDLE, Energy, energy_of, load_phase
from edgevit.runner.telemetry.sources import has_sensors
from edgevit.runner.telemetry.summary import AFTER, BEFORE, DURING
from edgevit.runner.telemetry.watching import watched_conditions

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.runner.engines.tensorrt.trial_plan import Opened, TrialPlan

    Image = npt.NDArray[np.float32]

_WATCH = "gpu"
_TOOL_ROUNDS = 8  # each takes seconds; fewer than six give no interval at 95 %
_IDLE_BEFORE_SECONDS, _IDLE_AFTER_SECONDS = 2.0, 1.0
# A tool loads the engine for a time nobody knows, measures for 3 seconds, and closes. What is
# surely in its measurement is counted back from its end.
_TOOL_FROM_SECONDS, _TOOL_TO_SECONDS = 2.4, 0.9


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
    opened: Mapping[str, Opened],
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
        return _explained(first, [])
    if again is not None:
        again()
    return _explained(_once(opened, image, plan), refused)


def _explained(timing: Timing, refused: list[str]) -> Timing:
    if timing.telemetry is None:
        return timing
    return Timing(timing.samples_ms, {**timing.telemetry, "retimed_because": refused})


def _once(opened: Mapping[str, Opened], image: Image, plan: TrialPlan) -> Timing:
    tools = {name: found.round_ms for name, found in opened.items() if found.round_ms is not None}
    if tools:
        return _by_tools(tools, image, plan)
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


def _by_tools(
    tools: Mapping[str, Callable[[Image], float]], image: Image, plan: TrialPlan
) -> Timing:
    """Return what tools with a clock of their own measure, such as trtexec."""
    if not has_sensors(plan.root):
        return Timing(_tool_rounds(tools, image, None))
    with Recorder(plan.root) as recorder:
        with recorder.phase(BEFORE):
            recorder.watch(IDLE, _IDLE_BEFORE_SECONDS)
        samples = _tool_rounds(tools, image, recorder)
        recorder.watch(AFTER, _IDLE_AFTER_SECONDS)
    recording = recorder.recording()
    energy = {name: _tool_energy(recording, name, ms, len(image)) for name, ms in samples.items()}
    return Timing(samples, watched_conditions(recording, _WATCH, energy, plan.root))


def _tool_rounds(
    tools: Mapping[str, Callable[[Image], float]], image: Image, recorder: Recorder | None
) -> dict[str, tuple[float, ...]]:
    """Return the latencies by variant; what is recorded is marked where engines surely run."""
    samples: dict[str, list[float]] = {name: [] for name in tools}
    for _ in range(_TOOL_ROUNDS):
        for name, tool in tools.items():
            start = time.monotonic()
            samples[name].append(tool(image))
            end = time.monotonic()
            if recorder is not None and end - _TOOL_TO_SECONDS > start:
                span = max(start, end - _TOOL_FROM_SECONDS), end - _TOOL_TO_SECONDS
                recorder.mark(DURING, *span)
                recorder.mark(load_phase(name), *span)
    return {name: tuple(found) for name, found in samples.items()}


def _tool_energy(recording: Recording, name: str, ms: tuple[float, ...], batch: int) -> Energy:
    """Return a variant's energy; its runs follow each other without a gap while it is measured."""
    spans = recording.phases.get(load_phase(name), ())
    seconds = sum(end - start for start, end in spans)
    images = max(1, round(seconds / (float(np.median(ms)) / 1000) * batch))
    return energy_of(recording, name, seconds, images)
