"""Findings about TensorRT for RTX on a machine: the library, and whether its card and driver do."""

from __future__ import annotations

from typing import Any, Mapping

from edgevit.runner.board.finding import (
    Finding,
    install_command,
    missing_finding,
    module_finding,
    ok,
    warning_finding,
)
from edgevit.runner.engines.tensorrt.findings import has_cuda_13

_MACHINES = ("x86_64", "amd64")
"""Processors that NVIDIA's wheels are for."""


def rtx_findings(facts: Mapping[str, Any]) -> list[Finding]:
    """Return what there is of TensorRT for RTX, given a machine's facts; nothing on a Jetson."""
    if facts["kind"] == "jetson" or facts["system"]["machine"].lower() not in _MACHINES:
        return []
    graphics = facts["gpu"]
    newer = graphics["driver"] is None or has_cuda_13(graphics["driver"])
    wheel = "tensorrt-rtx-cu13" if newer else "tensorrt-rtx-cu12"
    module = module_finding("TensorRT for RTX", "tensorrt_rtx", facts, wheel=wheel)
    return [module, *([] if graphics["compute_capability"] is None else [_card(facts)])]


def _card(facts: Mapping[str, Any]) -> Finding:
    from edgevit.runner.engines.tensorrt_rtx.compiling import AHEAD, capability_of

    graphics, name = facts["gpu"], "RTX card"
    capability, driver = capability_of(graphics["compute_capability"]), graphics["driver"]
    found = f"{graphics['name'] or 'a GPU'}, {capability}, driver {driver or 'unknown'}"
    if capability not in AHEAD:
        known = ", ".join(AHEAD)
        mend = "quantize with --target tensorrt, for the full TensorRT"
        return missing_finding(name, f"{found}; TensorRT for RTX compiles for {known}", mend)
    if driver is not None and not has_cuda_13(driver):
        mend = f"update the driver, or {install_command(facts, 'tensorrt-rtx-cu12')}"
        return warning_finding(name, f"{found}, which has no CUDA 13", mend)
    return ok(name, found)
