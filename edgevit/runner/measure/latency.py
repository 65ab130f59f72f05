"""Measures engines against each other in one process, strictly in turns: A B A B ...

Whatever drifts while measuring (clock speed, temperature, neighbours) then meets all engines
alike, and each round is a pair. Times are wall clock around `run`, input already normalized.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgevit.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.runner.measure.accuracy import Runnable

if TYPE_CHECKING:
    from edgevit.runner.telemetry.recorder import Recorder

_NANOSECONDS_PER_MS = 1e6
_IDLE_SECONDS = 1.0


@dataclass(frozen=True)
class LatencySamples:
    """Latencies of one engine, one per round.

    Args:
        samples_ms: float64 [rounds], in the order in which they were measured.
    """

    samples_ms: npt.NDArray[np.float64]

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile (linear between samples) in milliseconds."""
        return float(np.percentile(self.samples_ms, percent))

    @property
    def p50_ms(self) -> float:
        """Median in milliseconds."""
        return self.percentile_ms(50)

    @property
    def p90_ms(self) -> float:
        """90th percentile in milliseconds."""
        return self.percentile_ms(90)

    @property
    def p99_ms(self) -> float:
        """99th percentile in milliseconds."""
        return self.percentile_ms(99)


def measure_alternating(
    sessions: Mapping[str, Runnable],
    image: npt.NDArray[np.float32],
    *,
    warmup: int = 10,
    rounds: int = 50,
    min_seconds: float = 0.0,
    max_seconds: float = 600.0,
    recorder: Recorder | None = None,
) -> dict[str, LatencySamples]:
    """Run every engine once per round, in the same order each time.

    Args:
        sessions: Engines by name, in the order of each round.
        image: float32 [B, 3, H, W], the input of every run.
        warmup: Rounds before measuring starts.
        rounds: Least number of measured rounds.
        min_seconds: Measure at least this long.
        max_seconds: Stop after this long even if `rounds` is not reached (two rounds at least).
        recorder: Telemetry to which the phases "before", "during" and "after" are marked; it is
            given a second of idle time before and after.

    Raises:
        UsageError: A number of rounds that can't be right (EV714).
        EdgeViTError: What a session raises.
    """
    if warmup < 0 or rounds < 2 or not sessions:
        raise UsageError(
            "EV714",
            "These latencies can't be measured.",
            where=f"{warmup=}, {rounds=}, {len(sessions)} engines",
            why="It takes an engine, no negative warm-up, and 2 rounds for a comparison.",
            try_next="--rounds 50",
        )
    if recorder is not None:
        recorder.watch("before", _IDLE_SECONDS)
    for _ in range(warmup):
        for session in sessions.values():
            session.run(image)
    with _no_garbage_collection(), _mark(recorder, "during"):  # neither is part of the timing
        samples = _rounds(sessions, image, rounds, min_seconds, max_seconds)
    if recorder is not None:
        recorder.watch("after", _IDLE_SECONDS)
    return {
        name: LatencySamples(samples_ms=np.array(times) / _NANOSECONDS_PER_MS)
        for name, times in samples.items()
    }


def _rounds(
    sessions: Mapping[str, Runnable],
    image: npt.NDArray[np.float32],
    rounds: int,
    min_seconds: float,
    max_seconds: float,
) -> dict[str, list[int]]:
    """Return each engine's times in nanoseconds, one per round."""
    samples: dict[str, list[int]] = {name: [] for name in sessions}
    start = time.perf_counter()
    while True:
        for name, session in sessions.items():
            begin = time.perf_counter_ns()
            session.run(image)
            samples[name].append(time.perf_counter_ns() - begin)
        seconds, done = time.perf_counter() - start, len(samples[name])
        finished = done >= rounds and seconds >= min_seconds
        if finished or (seconds >= max_seconds and done >= 2):
            return samples


def ratio_of_medians(baseline: LatencySamples, other: LatencySamples) -> float:
    """Return how many times faster `other` is, by the medians."""
    return baseline.p50_ms / other.p50_ms


def median_paired_ratio(baseline: LatencySamples, other: LatencySamples) -> float:
    """Return the median over rounds of baseline time / other time."""
    return float(np.median(baseline.samples_ms / other.samples_ms))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _mark(recorder: Recorder | None, phase: str) -> Iterator[None]:
    if recorder is None:
        yield
    else:
        with recorder.phase(phase):
            yield
