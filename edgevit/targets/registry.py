"""Targets by name."""

from __future__ import annotations

from difflib import get_close_matches

from edgevit.errors import UsageError
from edgevit.targets.base import Target
from edgevit.targets.cpu.target import CpuTarget
from edgevit.targets.simulation import SimulationTarget
from edgevit.targets.tensorrt.target import TENSORRT_TARGETS

TARGETS: dict[str, Target] = {
    "cpu": CpuTarget(),
    **TENSORRT_TARGETS,
    "simulation": SimulationTarget(),
}


def target_named(name: str) -> Target:
    """Return the target of this name, in small or capital letters.

    Raises:
        UsageError: There is none (EV203).
    """
    known = name.lower()
    if known in TARGETS:
        return TARGETS[known]
    near = get_close_matches(known, TARGETS, n=1)
    raise UsageError(
        "EV203",
        f"There is no target {name!r}.",
        where="--target",
        why="Known targets: " + ", ".join(TARGETS),
        try_next=f"--target {near[0] if near else 'cpu'}",
    )
