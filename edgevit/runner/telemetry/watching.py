"""Latency in turns and energy per image with the device watched, in one call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgevit.runner.board.facts import power_mode
from edgevit.runner.telemetry.energy import Energy, measure_energy
from edgevit.runner.telemetry.recorder import Recorder, Recording
from edgevit.runner.telemetry.sources import has_sensors
from edgevit.runner.telemetry.summary import latency_conditions

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgevit.runner.measure.accuracy import Runnable
    from edgevit.runner.measure.latency import LatencySamples

_LEAST_SECONDS = 2.0  # a sensor that answers ten times a second has something to say by then


def measure_watched(
    sessions: Mapping[str, Runnable],
    image: npt.NDArray[np.float32],
    *,
    watch: str,
    warmup: int = 10,
    rounds: int = 50,
    min_seconds: float = 0.0,
    max_seconds: float = 600.0,
    energy_seconds: float = 5.0,
    root: str | os.PathLike[str] = "/",
) -> tuple[dict[str, LatencySamples], dict[str, Any] | None]:
    """Return latencies and under which conditions they were measured.

    Args:
        sessions: Engines by name.
        image: float32 [B, 3, H, W].
        watch: The clock that counts: "gpu" or "cpu", where the engines run.
        warmup: Rounds before measuring starts.
        rounds: Least number of measured rounds.
        min_seconds: Time at least this long; 2 s where there are sensors.
        max_seconds: Stop timing after this long.
        energy_seconds: How long each engine runs alone for its energy; 0 leaves energy out.
        root: ``/``, or a recorded tree.

    Returns:
        The samples by engine, and what `watched_conditions` returns; None where the device has
        no sensors.

    Raises:
        EdgeViTError: As `measure_alternating`.
    """
    from edgevit.runner.measure.latency import measure_alternating

    timing: dict[str, Any] = {"warmup": warmup, "rounds": rounds, "max_seconds": max_seconds}
    if not has_sensors(root):
        return measure_alternating(sessions, image, **timing, min_seconds=min_seconds), None
    least = max(min_seconds, _LEAST_SECONDS)
    with Recorder(root) as recorder:
        samples = measure_alternating(
            sessions, image, **timing, min_seconds=least, recorder=recorder
        )
        energy: Mapping[str, Energy] = {}
        if energy_seconds > 0 and any(r.power_mw for r in recorder.recording().readings):
            energy = measure_energy(sessions, image, recorder, seconds=energy_seconds)
    return samples, watched_conditions(recorder.recording(), watch, energy, root)


def watched_conditions(
    recording: Recording,
    watch: str,
    energy: Mapping[str, Energy],
    root: str | os.PathLike[str] = "/",
) -> dict[str, Any]:
    """Return `latency_conditions` with power_mode and energy (engine -> `Energy.to_dict`) added."""
    return {
        **latency_conditions(recording, watch),
        "power_mode": power_mode(root),
        "energy": {name: row.to_dict() for name, row in energy.items()},
    }
