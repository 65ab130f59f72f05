"""Names of the targets, for help and completion: without torch and without an engine."""

from __future__ import annotations

from edgevit.targets.tensorrt.profiles import PROFILES


def target_names() -> tuple[str, ...]:
    """Return the names of all targets in the order of `edgevit.targets.registry.TARGETS`."""
    return ("cpu", *PROFILES, "simulation")
