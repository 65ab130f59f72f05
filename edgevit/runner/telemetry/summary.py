"""Says from a recording under which conditions latency was measured, and whether the row counts.

A row does not count when the watched clock left a band of 2 % while timing, when anything throttled
or raised an alarm, when a thermal cap became tighter, or when the hardware counted an over-current
or under-voltage event. It is unknown, never valid, when nothing of that could be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgevit.runner.telemetry.reading import Reading, rails_of_the_whole
from edgevit.runner.telemetry.recorder import Recording

MAX_CLOCK_DROP_PERCENT = 2.0
BEFORE, DURING, AFTER = "before", "during", "after"
_EVENTS = {
    "oc1": "under-voltage (oc1)",
    "oc2": "average over-current (oc2)",
    "oc3": "instantaneous over-current (oc3)",
}


def latency_conditions(recording: Recording, watch: str = "gpu") -> dict[str, Any]:
    """Return the conditions of the phases "before", "during" and "after".

    Args:
        recording: With those phases, as `measure_alternating` marks them.
        watch: The clock that counts: "gpu", or "cpu" for an engine that runs there.

    Returns:
        JSON-able: source, interval_ms, num_readings, valid (true, false, or null for unknown),
        reasons, watched_clock, clocks_mhz (clock -> before, lowest, highest, after),
        clock_drop_percent, temperatures_c (zone -> before, highest, after), power_mw (rails,
        before, during).
    """
    before, during, after = (recording.during(phase) for phase in (BEFORE, DURING, AFTER))
    reasons = _reasons(before, during, after, watch)
    unknown = _unknown(recording, during, after, watch)
    return {
        "source": recording.source or None,
        "interval_ms": recording.interval_ms,
        "num_readings": len(during),
        "valid": False if reasons else (None if unknown else True),
        "reasons": reasons or unknown,
        "watched_clock": watch,
        "clock_drop_percent": _drop_percent(_watched(during, watch)),
        "clocks_mhz": _clocks(before, during, after),
        "temperatures_c": _temperatures(before, during, after),
        "power_mw": _power(before, during),
    }


def why_not_counted(conditions: Mapping[str, Any] | None) -> list[str]:
    """Return why latencies do not count, from their conditions; empty if they do or may."""
    if conditions is None or conditions["valid"] is not False:
        return []
    return list(conditions["reasons"])


def mean_power_mw(readings: Sequence[Reading], rails: Sequence[str]) -> float | None:
    """Return the mean over readings of the sum of rails; None where a rail is never known."""
    totals = [
        sum(reading.power_mw[rail] for rail in rails) for reading in complete(readings, rails)
    ]
    return sum(totals) / len(totals) if totals else None


def complete(readings: Sequence[Reading], rails: Sequence[str]) -> list[Reading]:
    """Return the readings that know all of these rails; a sum of fewer would be another sum."""
    return [r for r in readings if rails and set(rails) <= set(r.power_mw)]


def rails_used(readings: Sequence[Reading]) -> tuple[str, ...]:
    """Return the rails that are added up for these readings."""
    return rails_of_the_whole(sorted({rail for reading in readings for rail in reading.power_mw}))


def _reasons(
    before: Sequence[Reading], during: Sequence[Reading], after: Sequence[Reading], watch: str
) -> list[str]:
    """Return why the row does not count."""
    reasons = []
    clocks = _watched(during, watch)
    drop = _drop_percent(clocks)
    if drop is not None and drop > MAX_CLOCK_DROP_PERCENT:
        high, low = max(clocks) / 1e6, min(clocks) / 1e6
        reasons.append(
            f"The {watch} clock went between {high:.0f} and {low:.0f} MHz ({drop:.1f} %)"
            " while timing."
        )
    flags = sorted({flag for reading in during for flag in reading.flags})
    reasons += [f"The device reported: {flag}." for flag in flags]
    return reasons + _events(before, during, after) + _tighter_caps(before, during)


def _events(
    before: Sequence[Reading], during: Sequence[Reading], after: Sequence[Reading]
) -> list[str]:
    """Return the hardware events that were counted between the last idle reading and the end."""
    spans = [*before[-1:], *during, *after[:1]]
    reasons = []
    for name in sorted({name for reading in spans for name in reading.counters}):
        counts = [reading.counters[name] for reading in spans if name in reading.counters]
        if counts[-1] > counts[0]:
            times = counts[-1] - counts[0]
            reasons.append(f"The hardware throttled {times} times: {_EVENTS.get(name, name)}.")
    return reasons


def _tighter_caps(before: Sequence[Reading], during: Sequence[Reading]) -> list[str]:
    """Return the thermal caps that rose under load; one that stood before is no event."""
    earlier = before[-1].caps if before else (during[0].caps if during else {})
    highest: dict[str, int] = {}
    for reading in during:
        for name, step in reading.caps.items():
            highest[name] = max(step, highest.get(name, step))
    raised = [name for name, step in sorted(highest.items()) if step > earlier.get(name, 0)]
    return [f"Its temperature made the device cap {name}." for name in raised]


def _unknown(
    recording: Recording, during: Sequence[Reading], after: Sequence[Reading], watch: str
) -> list[str]:
    """Return why nothing can be said, if so."""
    if recording.problem:
        return [f"No telemetry: {recording.problem}"]
    if len(during) < 2:
        return [
            f"Timing was too short to watch: {len(during)} readings, one each"
            f" {recording.interval_ms} ms."
        ]
    gap_s = _longest_gap_s(recording)
    if gap_s > max(1.0, 10 * recording.interval_ms / 1000):
        return [f"The sensors did not answer for {gap_s:.1f} seconds of the timing."]
    if not _watched(during, watch) and not any(r.counters or r.caps for r in during):
        return [f"Neither the {watch} clock nor throttling can be read here."]
    return []


def _longest_gap_s(recording: Recording) -> float:
    """Return the longest time of the timing without a reading, in seconds."""
    times = [reading.time_s for reading in recording.during(DURING)]
    gaps = [0.0]
    for start, end in recording.phases.get(DURING, ()):
        marks = [start, *(time_s for time_s in times if start <= time_s <= end), end]
        gaps += [after - before for before, after in zip(marks, marks[1:])]
    return max(gaps)


def _watched(readings: Sequence[Reading], watch: str) -> list[int]:
    """Return the watched clock in Hz; of several cores' clocks the highest counts."""
    found = []
    for reading in readings:
        clocks = [hz for name, hz in reading.clocks_hz.items() if name.split(".")[0] == watch]
        found += [max(clocks)] if clocks else []
    return found


def _drop_percent(clocks: Sequence[int]) -> float | None:
    if not clocks or max(clocks) == 0:
        return None
    return 100 * (1 - min(clocks) / max(clocks))


def _clocks(*phases: Sequence[Reading]) -> dict[str, Any]:
    def mhz(hertz: float | None) -> float | None:
        return None if hertz is None else hertz / 1e6

    before, during, after = ([reading.clocks_hz for reading in phase] for phase in phases)
    return {
        name: {
            "before": mhz(_last(before, name)),
            "lowest": mhz(min(clocks[name] for clocks in during if name in clocks)),
            "highest": mhz(max(clocks[name] for clocks in during if name in clocks)),
            "after": mhz(_last(after, name)),
        }
        for name in sorted({name for clocks in during for name in clocks})
    }


def _temperatures(*phases: Sequence[Reading]) -> dict[str, Any]:
    before, during, after = ([reading.temperatures_c for reading in phase] for phase in phases)
    return {
        zone: {
            "before": _last(before, zone),
            "highest": max(celsius[zone] for celsius in during if zone in celsius),
            "after": _last(after, zone),
        }
        for zone in sorted({zone for celsius in during for zone in celsius})
    }


def _power(before: Sequence[Reading], during: Sequence[Reading]) -> dict[str, Any] | None:
    rails = rails_used([*before, *during])
    if not rails:
        return None
    return {
        "rails": list(rails),
        "before": mean_power_mw(before, rails),
        "during": mean_power_mw(during, rails),
    }


def _last(readings: Sequence[Any], name: str) -> float | None:
    known = [reading[name] for reading in readings if name in reading]
    return known[-1] if known else None
