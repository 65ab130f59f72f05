"""Watches the device while it is timed: clocks, temperatures, throttling, power, energy per image.

Runs on a board's Python 3.8 with the standard library alone. `Recorder` samples in a process of
its own, `latency_conditions` says whether a latency row counts, `measure_energy` gives energy per
image.
"""

from __future__ import annotations

from edgevit.runner.telemetry.energy import energy_mj, measure_energy
from edgevit.runner.telemetry.reading import Reading
from edgevit.runner.telemetry.recorder import Recorder, Recording
from edgevit.runner.telemetry.summary import latency_conditions, why_not_counted
from edgevit.runner.telemetry.watching import measure_watched

__all__ = [
    "Reading",
    "Recorder",
    "Recording",
    "energy_mj",
    "latency_conditions",
    "measure_energy",
    "measure_watched",
    "why_not_counted",
]
