"""The doctor's report: findings, and how many there are of each status."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgevit.runner.board.finding import (
    MISSING,
    OK,
    WARNING,
    Finding,
    missing_finding,
    ok,
    warning_finding,
)

__all__ = [
    "MISSING",
    "OK",
    "WARNING",
    "Finding",
    "missing_finding",
    "ok",
    "report",
    "warning_finding",
]


def report(findings: Iterable[Finding], **about: Any) -> dict[str, Any]:
    """Return findings and how many there are of each status, for JSON."""
    listed = list(findings)
    counts = {
        status: sum(finding.status == status for finding in listed)
        for status in (OK, WARNING, MISSING)
    }
    checks = [finding.to_dict() for finding in listed]
    return {"schema_version": 1, **about, "counts": counts, "checks": checks}
