"""The verb `doctor`: facts of this machine or of a board, judged, as a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgevit.doctor.board import board_findings
from edgevit.doctor.finding import MISSING, report
from edgevit.doctor.workstation import workstation_findings
from edgevit.errors import EnvironmentError_, UsageError


def examine(
    device: str | None = None, target: str | None = None, *, python: str = "python3"
) -> dict[str, Any]:
    """Return the findings for this machine, or for a board.

    Args:
        device: ``user@host`` of the board; None for this machine.
        target: The target bundles are for.
        python: The board's Python.

    Returns:
        schema_version, device, target, facts, counts by status, and checks (name, status, found,
        mend).

    Raises:
        UsageError: There is no such target (EV340), or no device runs it (EV837).
        EdgeViTError: The board can't be reached.
    """
    target = resolve_target(target, device)
    if device is not None:
        from edgevit.doctor.remote import facts_over_ssh

        facts = facts_over_ssh(device, python)
        return report(board_findings(facts, target), device=device, target=target, facts=facts)
    from edgevit.runner.board.facts import board_facts
    from edgevit.runner.engines import all_engines

    facts = board_facts(modules=[engine.module for engine in all_engines().values()])
    jetson = facts["kind"] == "jetson"
    findings = board_findings(facts, target) if jetson else workstation_findings(facts, target)
    return report(findings, device=None, target=target, facts=facts)


def resolve_target(target: str | None, device: str | None) -> str | None:
    """Return a target's own name; refuse one that does not exist before anything is asked.

    Raises:
        UsageError: There is none of this name (EV340), or no device runs it (EV837).
    """
    from edgevit.targets.naming import target_names
    from edgevit.targets.tensorrt.profiles import profile_named

    if target is None:
        return None
    known = target.lower()
    if known == "simulation" and device is not None:
        raise UsageError(
            "EV837",
            "No device runs the simulation target.",
            where=f"--target {target} --device {device}",
            try_next="Leave --device out, or name a target that has bundles, such as cpu.",
        )
    return known if known in target_names() else profile_named(target).name


def check_nothing_missing(found: Mapping[str, Any]) -> None:
    """Turn a report with something missing into an exit status.

    Raises:
        EnvironmentError_: Something is missing (EV783).
    """
    names = [check["name"] for check in found["checks"] if check["status"] == MISSING]
    if names:
        raise EnvironmentError_(
            "EV783",
            f"{len(names)} of {len(found['checks'])} checks failed.",
            where=found["device"] or "this machine",
            why="Missing: " + ", ".join(names) + ".",
            try_next="The commands in the list above.",
        )
