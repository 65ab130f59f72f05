"""The finding of one check: ok, a warning, or missing, and the command that mends it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Any, Mapping

OK, WARNING, MISSING = "ok", "warning", "missing"


@dataclass(frozen=True)
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


def warning_finding(name: str, found: str, mend: str) -> Finding:
    """Return a finding that works, but not as well as it could."""
    return Finding(name=name, status=WARNING, found=found, mend=mend)


def missing_finding(name: str, found: str, mend: str) -> Finding:
    """Return a finding that does not work."""
    return Finding(name=name, status=MISSING, found=found, mend=mend)


def module_finding(
    name: str, module: str, facts: Mapping[str, Any], *, wheel: str, package: str = ""
) -> Finding:
    """Return whether Python imports a module, under the name of its check.

    Args:
        name: Of the check.
        module: As it is imported.
        facts: As `edgevit.runner.board.facts.board_facts` returns them.
        wheel: What pip installs to bring it.
        package: The Debian package that brings it on a Jetson; empty for none.
    """
    python = facts["python"]
    version, problem = python.get(module), python["problems"].get(module)
    if problem is not None:
        found = f"{version or ''} can't be used: {problem}".strip()
        return missing_finding(name, found, install_command(facts, wheel, package, again=True))
    if version is None:
        return missing_finding(name, "not installed", install_command(facts, wheel, package))
    return ok(name, version)


def install_command(
    facts: Mapping[str, Any], wheel: str, package: str = "", *, again: bool = False
) -> str:
    """Return what installs it: JetPack's package on a Jetson, else the wheel.

    Args:
        facts: Of the machine.
        wheel: For pip.
        package: JetPack's; empty for none.
        again: It is there and broken.
    """
    if facts["kind"] == "jetson" and package:
        how = "sudo apt install --reinstall" if again else "sudo apt update && sudo apt install"
        return f"{how} {package}"
    how = "install --force-reinstall" if again else "install"
    return f"{interpreter(facts)} -m pip {how} {wheel}"


def interpreter(facts: Mapping[str, Any]) -> str:
    """Return its Python as a word for a shell: a board may say anything."""
    return shlex.quote(facts["python"]["executable"] or "python3")


def why_too_old(version: str, oldest: str, title: str) -> str:
    """Return why a release won't do, "" if it does.

    Args:
        version: Such as "10.3.0.26".
        oldest: Such as "10.3"; empty for any.
        title: Whose release it is.
    """
    release = re.match(r"[0-9]+\.[0-9]+", version)
    if not oldest:
        return ""
    if release is None:
        return f"What it imports under that name tells no version: {version}."
    if _key(release.group()) < _key(oldest):
        return f"It is {title} {version}; {oldest} or newer is needed."
    return ""


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
