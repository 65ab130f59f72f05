"""Checks this machine: what quantizing, checking and deploying need."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from edgevit.bundle import leftovers
from edgevit.doctor.board import (
    compiling_findings,
    device_finding,
    engine_findings,
    is_for_processor,
    numpy_finding,
    optional,
)
from edgevit.doctor.finding import Finding, missing_finding, ok, warning_finding
from edgevit.doctor.importing import import_problems
from edgevit.runner.telemetry.sources import has_sensors
from edgevit.scratch import clear_left_over

_NEEDED = ("torch", "torchvision", "timm", "onnx", "pillow", "safetensors", "msgspec")
_OLDEST_PYTHON = (3, 10)
_GIB = 1 << 30
_ENOUGH_MEMORY, _ENOUGH_DISK = 4 * _GIB, 2 * _GIB


def workstation_findings(facts: Mapping[str, Any], target: str | None = None) -> list[Finding]:
    """Return what is here and what is missing.

    Args:
        facts: This machine's, from `edgevit.runner.board.facts.board_facts`.
        target: The target to quantize for; None for any.

    Raises:
        UsageError: There is no such target (EV203, EV340).
    """
    problems = import_problems(_NEEDED)
    findings = [_python(), *(_package(name, problems[name]) for name in _NEEDED)]
    findings += [*engine_findings(facts, "cpu"), numpy_finding(facts)]
    findings += [_memory(facts), _disk(facts), _ssh(), _telemetry(), _clear_leftovers()]
    device = None if target is None or is_for_processor(target) else target
    if device is not None or facts["gpu"]["compute_capability"]:
        found = (device_finding(facts, device), *engine_findings(facts, "gpu"))
        findings += map(optional, found)
    elif target is None:
        findings += compiling_findings(facts)
    return findings


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < _OLDEST_PYTHON:
        return missing_finding(
            "Python", f"{version}; 3.10 or newer is needed", "install Python 3.12"
        )
    return ok("Python", version)


def _package(name: str, problem: str) -> Finding:
    install = f"{sys.executable} -m pip install"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        version = ""
    if problem and not version:
        return missing_finding(name, f"not installed ({problem})", f"{install} {name}")
    if problem:
        found = f"{version} can't be used: {problem}"
        return missing_finding(name, found, f"{install} --force-reinstall {name}")
    return ok(name, version or "of unknown version")


def _memory(facts: Mapping[str, Any]) -> Finding:
    free, total = facts["memory_bytes"]["available"], facts["memory_bytes"]["total"]
    if free is None or total is None:
        return ok("memory", "this system does not say")
    found = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    if free < _ENOUGH_MEMORY:
        return warning_finding(
            "memory", f"{found}; large models may not fit", "close other programs"
        )
    return ok("memory", found)


def _disk(facts: Mapping[str, Any]) -> Finding:
    free, path = facts["disk_bytes"]["free"], facts["disk_bytes"]["path"]
    found = f"{free / _GIB:.1f} GiB free in {path}"
    if free < _ENOUGH_DISK:
        return warning_finding("disk", found, f"du -xh {path} | sort -h | tail")
    return ok("disk", found)


def _ssh() -> Finding:
    found = shutil.which("ssh")
    if found is None:
        mend = "sudo apt install openssh-client"
        return warning_finding("ssh", "not installed; edgevit deploy needs it", mend)
    return ok("ssh", found)


def _telemetry() -> Finding:
    if has_sensors():
        return ok("telemetry", "clocks, throttling or power can be read")
    return ok("telemetry", "no sensors here: latency is measured without watching the clocks")


def _clear_leftovers() -> Finding:
    """Clear what killed runs left among temporary files and here, and say what it was."""
    cleared = clear_left_over()
    cleared += [path.name for path in leftovers.clear_leftovers(leftovers.find(Path.cwd()))]
    if cleared:
        found = f"cleared what ended runs had left: {', '.join(cleared)}"
        return ok("temporary files", found)
    return ok("temporary files", "nothing is left of ended runs")
