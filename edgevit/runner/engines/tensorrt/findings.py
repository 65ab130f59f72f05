"""Findings about TensorRT on a machine: the library, its Python module, and CUDA.

What JetPack brings is NVIDIA's packaging (Debian packages tensorrt, python3-libnvinfer).
"""

from __future__ import annotations

from typing import Any, Mapping

from edgevit.runner.board.finding import (
    Finding,
    install_command,
    interpreter,
    missing_finding,
    module_finding,
    ok,
    warning_finding,
    why_too_old,
)
from edgevit.runner.engines.tensorrt.bindings import OLDEST
from edgevit.runner.engines.tensorrt.cuda_device import CHOICE_VARIABLE

_OLDEST = ".".join(map(str, OLDEST))
_FIRST_DRIVER_OF_CUDA_13 = 580  # NVIDIA's CUDA release notes, table of toolkit and driver versions


def tensorrt_findings(facts: Mapping[str, Any]) -> list[Finding]:
    """Return what there is of TensorRT, given a machine's facts."""
    module = module_finding(
        "TensorRT's Python module",
        "tensorrt",
        facts,
        wheel="tensorrt",
        package="python3-libnvinfer",
    )
    return [_library(facts), module, _cuda(facts)]


def _library(facts: Mapping[str, Any]) -> Finding:
    version = facts["tensorrt"]["version"] or facts["python"]["tensorrt"]
    mend = install_command(facts, "tensorrt", "tensorrt")
    if version is None:
        return missing_finding("TensorRT", "not installed", mend)
    if why_too_old(version, _OLDEST, "TensorRT"):
        return missing_finding("TensorRT", f"{version}; {_OLDEST} or newer is needed", mend)
    return ok("TensorRT", version)


def _cuda(facts: Mapping[str, Any]) -> Finding:
    python, name = facts["python"], "CUDA for Python"
    if python["cuda"] is not None:
        return ok(name, f"cuda {python['cuda']}")
    if facts["cuda"] is not None:
        return ok(name, f"ctypes, with the CUDA runtime {facts['cuda']}; no package is needed")
    for module in ("pycuda", "torch"):
        if python[module] is not None:
            found = f"{module} {python[module]}, which is used only where it is named"
            return warning_finding(name, found, f"export {CHOICE_VARIABLE}={module}")
    newer = has_cuda_13(facts["gpu"]["driver"] or "")
    version = "'cuda-python>=13,<14'" if newer else "'cuda-python>=12.6,<13'"
    mend = f"{interpreter(facts)} -m pip install --user {version}"
    return missing_finding(name, "not installed", mend)


def has_cuda_13(driver: str) -> bool:
    """Return whether a driver such as "580.65.06" brings CUDA 13."""
    release = driver.split(".")[0]
    return release.isascii() and release.isdigit() and int(release) >= _FIRST_DRIVER_OF_CUDA_13
