"""TensorRT on the device: build, cache, run, inspect, and choose among a bundle's variants.

What ran on hardware and what did not is said in docs/tensorrt-session.md.
"""

from __future__ import annotations

from typing import Any

from edgevit.errors import EnvironmentError_
from edgevit.runner.engines.base import Engine, OpenedBundle
from edgevit.runner.engines.tensorrt.bindings import OLDEST
from edgevit.runner.engines.tensorrt.findings import tensorrt_findings


def _available() -> EnvironmentError_ | None:
    from edgevit.runner.engines.tensorrt.bindings import load_tensorrt

    try:
        load_tensorrt()
    except EnvironmentError_ as error:
        return error
    return None


def _open(*arguments: Any, **options: Any) -> OpenedBundle:
    from edgevit.runner.engines.tensorrt.opened import open_kept

    return open_kept(*arguments, **options)


ENGINE = Engine(
    name="tensorrt",
    title="TensorRT",
    module="tensorrt",
    available=_available,
    open=_open,
    clock="gpu",
    usual=True,
    oldest=".".join(map(str, OLDEST)),
    unfit_code="EV751",
    # Its bundles ask what stands in for it to run their graphs as they are written.
    asks={
        "provider": "CPUExecutionProvider",
        "session_config": {},
        "name": "tensorrt",
        "optimize": False,
    },
    stand_in="onnxruntime",
    lost="roundings to float16 that the graph asks for are dropped",
    example_target="jetson-orin-nano",
    built_per_byte=4,  # engines and kernel timings
    package="python3-libnvinfer",
    mend="On a Jetson: sudo apt install python3-libnvinfer. To check accuracy alone, on its CPU: "
    "pip install onnxruntime there, and --engine onnxruntime.",
    findings=tensorrt_findings,
)
