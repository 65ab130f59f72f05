"""The list of targets: what each runs, with which engine, and what of it has run on hardware."""

from __future__ import annotations

from typing import Any

from edgevit.targets.base import Target
from edgevit.targets.registry import TARGETS


def list_targets() -> list[dict[str, Any]]:
    """Return JSON-able rows: name, what it is, engine, widths in bits, precisions, seen to run."""
    return [_row(target) for target in TARGETS.values()]


def _row(target: Target) -> dict[str, Any]:
    return {
        "name": target.name,
        "description": target.description,
        "engine": target.engine,
        "widths": list(target.widths),
        "grids": list(target.grids),
        "float_precisions": list(target.precisions),
        "seen_to_run": target.seen_to_run,
    }
