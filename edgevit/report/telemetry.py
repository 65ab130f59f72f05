"""Says in a line or two under which clocks, temperatures and power mode latency was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def telemetry_notes(telemetry: Mapping[str, Any] | None) -> list[str]:
    """Return what held while latency was measured: clock, temperature, rails, power mode.

    Args:
        telemetry: What `edgevit.runner.telemetry.measure_watched` returned with the latencies.
    """
    if telemetry is None:
        return []
    parts = []
    if telemetry["power_mode"]:
        parts.append(f"power mode {telemetry['power_mode']['name'] or '-'}")
    for name, clock in telemetry["clocks_mhz"].items():
        if name.split(".")[0] == telemetry["watched_clock"]:
            parts.append(f"{name} clock {clock['lowest']:.0f} to {clock['highest']:.0f} MHz")
    hottest = max((zone["highest"] for zone in telemetry["temperatures_c"].values()), default=None)
    if hottest is not None:
        parts.append(f"up to {hottest:.0f} °C")
    rails = {rail for row in telemetry["energy"].values() for rail in row["rails"]}
    if rails:
        parts.append(f"energy from {', '.join(sorted(rails))}")
    lines = ["while timing: " + ", ".join(parts)] if parts else []
    if telemetry["valid"] is None:
        lines += [f"not known whether clocks held: {reason}" for reason in telemetry["reasons"]]
    if telemetry.get("retimed_because"):
        reasons = " ".join(telemetry["retimed_because"])
        lines.append(f"timed a second time, because the first did not count: {reasons}")
    return lines
