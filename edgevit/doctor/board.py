"""Judges the facts of a board or of a computer with an NVIDIA GPU (see runner/board/facts.py).

Pure functions from facts to findings: the same for this machine, for one at the other end of SSH
and for a recorded one. What is to be said of an engine, the engine says
(`edgevit.runner.engines.base.Engine.findings`).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from edgevit.doctor.finding import MISSING, Finding, missing_finding, ok, warning_finding
from edgevit.runner.board.finding import module_finding
from edgevit.runner.engines import all_engines
from edgevit.runner.engines.base import Engine
from edgevit.targets.naming import target_names
from edgevit.targets.tensorrt.profiles import (
    OLDEST_TENSORRT,
    PROFILES,
    DeviceProfile,
    profile_named,
    version_key,
)

_OLDEST_PYTHON = (3, 8)
_GIB = 1 << 30
_ENOUGH_MEMORY, _ENOUGH_DISK, _LEAST_DISK = 2 * _GIB, 4 * _GIB, _GIB
_SDK_MANAGER = "flash JetPack 6.2 with NVIDIA SDK Manager: https://developer.nvidia.com/sdk-manager"


def board_findings(facts: Mapping[str, Any], target: str | None = None) -> list[Finding]:
    """Return what the facts mean for running bundles there: TensorRT's, or a processor's.

    Args:
        facts: As `edgevit.runner.board.facts.board_facts` returns them.
        target: The target the bundle is for; None for the one the device is: "cpu" where there is
            no NVIDIA GPU.

    Raises:
        UsageError: There is no such target (EV340).
    """
    general = [_python(facts), numpy_finding(facts), _memory(facts), _disk(facts)]
    jetson = facts["kind"] == "jetson"
    watched = [_power_mode(facts), _clocks(facts), _sensors(facts)] if jetson else []
    gpu = facts["gpu"]["name"] or facts["gpu"]["compute_capability"]
    if gpu is None if target is None else is_for_processor(target):
        return [_processor(facts, target), *engine_findings(facts, "cpu"), *general, *watched]
    findings = [device_finding(facts, target)]
    if jetson:
        findings.append(_jetpack(facts))
    needed = None if target is None else profile_named(target).engine
    return [*findings, *engine_findings(facts, "gpu", needed), *general, *watched]


def is_for_processor(target: str) -> bool:
    """Return whether bundles of a target need no TensorRT device."""
    return target in target_names() and target not in PROFILES


def _processor(facts: Mapping[str, Any], target: str | None) -> Finding:
    what = facts["model"] or facts["system"]["name"] or "a computer"
    return ok("device", f"{what}, {facts['system']['machine']}, target {target or 'cpu'}")


def engine_findings(
    facts: Mapping[str, Any], clock: str, needed: str | None = None
) -> list[Finding]:
    """Return what the engines of a processor, "cpu" or "gpu", say of a machine.

    That one is missing which is not needed is a warning.

    Args:
        facts: Of the machine.
        clock: The processor.
        needed: Name of the engine that is; the usual ones if left out.
    """
    found: list[Finding] = []
    for engine in all_engines().values():
        if engine.clock == clock:
            said = findings_of(engine, facts)
            is_needed = engine.usual if needed is None else engine.name == needed
            found += said if is_needed else [optional(one) for one in said]
    return found


def findings_of(engine: Engine, facts: Mapping[str, Any]) -> list[Finding]:
    """Return what an engine says of a machine: by itself, or whether its module can be imported."""
    if engine.findings is not None:
        return engine.findings(facts)
    wheel = engine.wheel or engine.module
    return [module_finding(engine.name, engine.module, facts, wheel=wheel, package=engine.package)]


def optional(finding: Finding, use: str = "run engines here") -> Finding:
    """Return a finding about what is needed for one use alone."""
    if finding.status != MISSING:
        return finding
    return warning_finding(finding.name, f"{finding.found} (to {use})", finding.mend)


def compiling_findings(facts: Mapping[str, Any]) -> list[Finding]:
    """Return what the engines say that compile for devices which are not there."""
    engines = [engine for engine in all_engines().values() if engine.ahead]
    use = "compile engines for cards that are not here"
    return [optional(one, use) for engine in engines for one in findings_of(engine, facts)]


def device_finding(facts: Mapping[str, Any], target: str | None) -> Finding:
    """Return whether this is the device that is asked for."""
    own = facts["target"]
    profile = None if target is None else profile_named(target)
    what = facts["model"] or facts["gpu"]["name"] or "no NVIDIA GPU"
    capability = facts["gpu"]["compute_capability"]
    if capability is None:
        return missing_finding("device", what, "name a board with --device, or run this on one")
    found = f"{what}, compute capability {capability}"
    if profile is not None and not _fits(profile, facts):
        return missing_finding(
            "device", f"{found}; not a {target}", f"quantize with --target {own}"
        )
    if profile is None and own is None:
        return warning_finding(
            "device", found, "quantize with --target tensorrt, which runs on any GPU"
        )
    return ok("device", f"{found}, target {target or own}")


def _fits(profile: DeviceProfile, facts: Mapping[str, Any]) -> bool:
    """Return whether bundles of this profile run here: its own, or rules of an older GPU."""
    if profile.is_jetson:
        return bool(facts["target"] == profile.name)
    if profile.engine != "tensorrt" and facts["kind"] == "jetson":
        return False  # TensorRT for RTX is for computers
    return version_key(facts["gpu"]["compute_capability"]) >= version_key(
        profile.compute_capability
    )


def _jetpack(facts: Mapping[str, Any]) -> Finding:
    found = f"JetPack {facts['jetpack'] or 'unknown'}, Jetson Linux {facts['l4t'] or 'unknown'}"
    if facts["l4t"] is None:
        return warning_finding("JetPack", found, "cat /etc/nv_tegra_release")
    release = version_key(facts["l4t"])
    if release < (36,):
        return missing_finding("JetPack", f"{found}; 6.1 or newer is needed", _SDK_MANAGER)
    if release < (36, 4):
        return missing_finding(
            "JetPack",
            f"{found}; 6.1 or newer is needed for TensorRT {OLDEST_TENSORRT}",
            "sudo sed -i 's/r36\\.[0-9]/r36.4/' /etc/apt/sources.list.d/nvidia-l4t-apt-source.list"
            " && sudo apt update && sudo apt dist-upgrade && sudo apt install nvidia-jetpack",
        )
    return ok("JetPack", found)


def _python(facts: Mapping[str, Any]) -> Finding:
    version = facts["python"]["version"]
    if tuple(int(part) for part in re.findall(r"[0-9]+", version)[:2]) < _OLDEST_PYTHON:
        return missing_finding(
            "Python", f"{version}; 3.8 or newer is needed", "sudo apt install python3"
        )
    return ok("Python", version)


def numpy_finding(facts: Mapping[str, Any]) -> Finding:
    """Return whether numpy is there and can be imported."""
    return module_finding("numpy", "numpy", facts, wheel="numpy", package="python3-numpy")


def _memory(facts: Mapping[str, Any]) -> Finding:
    free, total = facts["memory_bytes"]["available"], facts["memory_bytes"]["total"]
    if free is None or total is None:
        return warning_finding("memory", "unknown", "free -h")
    found = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    if free >= _ENOUGH_MEMORY:
        return ok("memory", found)
    if facts["system"]["desktop"]:
        mend = "sudo systemctl isolate multi-user.target  (stops the desktop until the next boot)"
    else:
        mend = "sudo fallocate -l 8G /swap && sudo chmod 600 /swap && sudo mkswap /swap"
        mend += " && sudo swapon /swap"
    return warning_finding("memory", f"{found}; building an engine may need 2 GiB", mend)


def _disk(facts: Mapping[str, Any]) -> Finding:
    free, path = facts["disk_bytes"]["free"], facts["disk_bytes"]["path"]
    found = f"{free / _GIB:.1f} GiB free in {path}"
    mend = f"sudo apt clean; du -xh {shlex.quote(path)} | sort -h | tail"
    if free < _LEAST_DISK:
        return missing_finding("disk", found, mend)
    if free < _ENOUGH_DISK:
        return warning_finding("disk", found, mend)
    return ok("disk", found)


def _power_mode(facts: Mapping[str, Any]) -> Finding:
    mode = facts["power_mode"]
    if mode is None or mode["name"] is None:
        return warning_finding("power mode", "unknown", "sudo nvpmodel -q")
    fastest = _fastest(mode["modes"])
    if fastest is None or mode["name"] == fastest[1]:
        return ok("power mode", mode["name"])
    found = f"{mode['name']}; the fastest is {fastest[1]}"
    return warning_finding("power mode", found, f"sudo nvpmodel -m {fastest[0]}")


def _fastest(modes: Mapping[Any, str]) -> tuple[Any, str] | None:
    """Return number and name of the mode without a power budget; numbers differ by board."""
    for wanted in ("MAXN_SUPER", "MAXN"):
        for number, name in modes.items():
            if name == wanted:
                return number, name
    return None


def _clocks(facts: Mapping[str, Any]) -> Finding:
    clocks = facts["gpu"]["clock_hz"]
    if facts["gpu"]["clocks_locked"] and clocks and clocks["max"]:
        return ok("clocks", f"GPU locked at {clocks['max'] / 1e6:.0f} MHz")
    found = "the GPU's clock follows its load" if clocks else "unknown"
    return warning_finding("clocks", found, "sudo jetson_clocks  (until the next boot)")


def _sensors(facts: Mapping[str, Any]) -> Finding:
    if facts["rails"]:
        return ok("power sensors", ", ".join(facts["rails"]))
    return warning_finding(
        "power sensors", "none; energy is not measured", "ls /sys/class/hwmon/*/name"
    )
