"""The finding of one check: ok, a warning, or missing, and the command that mends it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

OK, WARNING, MISSING = "ok", "warning", "missing"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor's report.

    Args:
        name: What was checked.
        status: "ok"; "warning": it works but not as well; "missing": it does not work.
        found: What is there.
        mend: What to type, or "" where nothing is to be done.
    """

    name: str
    status: str
    found: str
    mend: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return it for JSON."""
        return {"name": self.name, "status": self.status, "found": self.found, "mend": self.mend}


def ok(name: str, found: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding(name=name, status=OK, found=found)


def warning(name: str, found: str, mend: str) -> Finding:
    """Return a finding that works, but not as well as it could."""
    return Finding(name=name, status=WARNING, found=found, mend=mend)


def missing(name: str, found: str, mend: str) -> Finding:
    """Return a finding that does not work."""
    return Finding(name=name, status=MISSING, found=found, mend=mend)


def report(findings: Iterable[Finding], **about: Any) -> dict[str, Any]:
    """Return findings and how many there are of each status, for JSON."""
    listed = list(findings)
    counts = {
        status: sum(finding.status == status for finding in listed)
        for status in (OK, WARNING, MISSING)
    }
    checks = [finding.to_dict() for finding in listed]
    return {"schema_version": 1, **about, "counts": counts, "checks": checks}
