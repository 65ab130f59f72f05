"""Chooses what to read here: sysfs, tegrastats where sysfs has no rails, NVML for a GPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from edgevit.runner.telemetry import tegrastats
from edgevit.runner.telemetry.nvml import NvmlSource
from edgevit.runner.telemetry.reading import Reading, merge
from edgevit.runner.telemetry.sysfs import SysfsSource

INTERVAL_MS = 100


class TelemetrySource(Protocol):
    """Anything that can be read again and again."""

    name: str

    def read(self) -> Reading:
        """Return what it says now."""

    def close(self) -> None:
        """Give back what it holds."""


class CombinedSource:
    """Several sources as one; where two know a value, the earlier one's counts."""

    def __init__(self, sources: Sequence[TelemetrySource]) -> None:
        self._sources = tuple(sources)

    @property
    def name(self) -> str:
        """The names of the sources that know something, joined with ``+``."""
        return "+".join(source.name for source in self._sources if _says_something(source.read()))

    def read(self) -> Reading:
        """Return all readings as one."""
        reading = self._sources[0].read()
        for source in self._sources[1:]:
            reading = merge(reading, source.read())
        return reading

    def close(self) -> None:
        """Close all."""
        for source in self._sources:
            source.close()


def source_here(
    root: str | os.PathLike[str] = "/", interval_ms: int = INTERVAL_MS
) -> CombinedSource:
    """Return what can be read on this device, or in the recorded tree `root`."""
    sysfs = SysfsSource(root)
    sources: list[TelemetrySource] = [sysfs]
    if os.fspath(root) == "/" and not sysfs.rails:
        if tegrastats.is_there():
            sources.append(tegrastats.TegrastatsSource(interval_ms))
        else:
            sources += _graphics_cards()
    return CombinedSource(sources)


def has_sensors(root: str | os.PathLike[str] = "/") -> bool:
    """Return whether there is anything here that could tell of clocks, throttling or power."""
    source = source_here(root)
    try:
        reading = source.read()
    finally:
        source.close()
    return bool(reading.clocks_hz or reading.power_mw or reading.counters or reading.caps)


def _graphics_cards() -> list[TelemetrySource]:
    try:
        return [NvmlSource()]
    except (OSError, AttributeError):  # no driver, or a library without these functions
        return []


def _says_something(reading: Reading) -> bool:
    known = (reading.clocks_hz, reading.temperatures_c, reading.power_mw, reading.counters)
    return any(known) or bool(reading.caps)
