"""Energy per image: (mean power under load - mean power when idle) * time / images.

Each engine runs alone for some seconds, because sensors answer every few milliseconds at best and
engines that take turns could not be told apart. The power is that of the rails named in the row:
the board's own sensors, not a meter at the socket.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgevit.errors import UsageError
from edgevit.runner.telemetry.recorder import Recorder, Recording
from edgevit.runner.telemetry.summary import complete, mean_power_mw, rails_used

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgevit.runner.measure.accuracy import Runnable

IDLE = "idle"
"""The phase that power under load is compared with."""
_SETTLE_SECONDS = 0.5
_FEWEST_READINGS = 5
_LEAST_MW = 1e-3  # less is rounding in the means of a sensor that did not move


@dataclass(frozen=True)
class Energy:
    """Energy per image of one engine.

    Args:
        energy_mj: Millijoules per image above idle; None if it can't be told.
        load_mw: Mean power while running.
        idle_mw: Mean power before.
        rails: The rails that were added up.
        seconds: How long it ran.
        images: How many images it ran.
        readings: How many readings the mean under load is of.
        reason: Why energy_mj is None, or "".
    """

    energy_mj: float | None
    load_mw: float | None
    idle_mw: float | None
    rails: tuple[str, ...]
    seconds: float
    images: int
    readings: int
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**asdict(self), "rails": list(self.rails)}


def energy_mj(load_mw: float, idle_mw: float, seconds: float, images: int) -> float:
    """Return millijoules per image above idle (mW times s is mJ)."""
    return (load_mw - idle_mw) * seconds / images


def measure_energy(
    sessions: Mapping[str, Runnable],
    image: npt.NDArray[np.float32],
    recorder: Recorder,
    *,
    seconds: float = 5.0,
    idle_seconds: float = 2.0,
) -> dict[str, Energy]:
    """Run each engine alone and return its energy per image.

    Args:
        sessions: Engines by name.
        image: float32 [B, 3, H, W]; each run counts B images.
        recorder: Entered, so that it records.
        seconds: How long each engine runs.
        idle_seconds: How long nothing runs before.

    Raises:
        UsageError: The times are not positive (EV781).
        EdgeViTError: What a session raises.
    """
    if seconds <= 0 or idle_seconds <= 0:
        raise UsageError(
            "EV781",
            f"Energy can't be measured in {seconds} s, {idle_seconds} s.",
            where="seconds, idle_seconds",
            why="An engine runs, and the device idles, for a time above 0.",
            try_next="Leave them out.",
        )
    time.sleep(_SETTLE_SECONDS)
    recorder.watch(IDLE, idle_seconds)
    loads = {
        name: _load(session, image, recorder, name, seconds) for name, session in sessions.items()
    }
    time.sleep(recorder.recording().interval_ms / 1000)
    recording = recorder.recording()
    return {name: energy_of(recording, name, *load) for name, load in loads.items()}


def _load(
    session: Runnable, image: Any, recorder: Recorder, name: str, seconds: float
) -> tuple[float, int]:
    """Return how long the engine really ran and how many images."""
    images, start = 0, time.monotonic()
    with recorder.phase(load_phase(name)):
        while time.monotonic() - start < seconds:
            session.run(image)
            images += len(image)
    return time.monotonic() - start, images


def load_phase(name: str) -> str:
    """Return the phase in which an engine runs alone."""
    return f"energy {name}"


def energy_of(recording: Recording, name: str, seconds: float, images: int) -> Energy:
    """Return an engine's energy from the phases `IDLE` and `load_phase`.

    Args:
        recording: With those phases.
        name: The engine.
        seconds: How long it ran in its phase.
        images: How many images it ran in it.
    """
    idle, load = recording.during(IDLE), recording.during(load_phase(name))
    rails = rails_used([*idle, *load])
    idle_mw, load_mw = mean_power_mw(idle, rails), mean_power_mw(load, rails)
    counts = len(complete(idle, rails)), len(complete(load, rails))
    energy, reason = None, ""
    if idle_mw is None or load_mw is None:
        reason = "No power rail can be read here."
    elif min(counts) < _FEWEST_READINGS:
        reason = f"{counts[0]} idle and {counts[1]} load readings are too few."
    elif load_mw - idle_mw < _LEAST_MW:
        reason = "The power under load was not above that when idle."
    else:
        energy = energy_mj(load_mw, idle_mw, seconds, images)
    return Energy(energy, load_mw, idle_mw, rails, seconds, images, counts[1], reason)
