"""TensorRT for RTX, NVIDIA's engine for desktop GPUs: compiles anywhere, runs on a card."""

from __future__ import annotations

from typing import Any

from edgevit.errors import EnvironmentError_
from edgevit.runner.engines.base import Engine, OpenedBundle
from edgevit.runner.engines.tensorrt_rtx.findings import rtx_findings


def _available() -> EnvironmentError_ | None:
    from edgevit.runner.engines.tensorrt_rtx.bindings import load_rtx

    try:
        load_rtx()
    except EnvironmentError_ as error:
        return error
    return None


def _open(*arguments: Any, **options: Any) -> OpenedBundle:
    from edgevit.runner.engines.tensorrt_rtx.opened import open_rtx

    return open_rtx(*arguments, **options)


ENGINE = Engine(
    name="tensorrt_rtx",
    title="TensorRT for RTX",
    module="tensorrt_rtx",
    available=_available,
    open=_open,
    clock="gpu",
    # Its bundles ask what stands in for it to run their graphs as they are written.
    asks={
        "provider": "CPUExecutionProvider",
        "session_config": {},
        "name": "tensorrt_rtx",
        "optimize": False,
    },
    stand_in="onnxruntime",
    lost="roundings to float16 that the graph asks for are dropped",
    example_target="rtx-ada",
    built_per_byte=4,
    ahead=True,
    wheel="tensorrt-rtx-cu13",
    mend="python3 -m pip install tensorrt-rtx-cu13 there, or tensorrt-rtx-cu12 where the driver has"
    " CUDA 12 only. To check accuracy alone, on its CPU: pip install onnxruntime there, and"
    " --engine onnxruntime.",
    findings=rtx_findings,
)
