"""ONNX Runtime: sessions on the device asked for, and the probe of its integer sums."""

from __future__ import annotations

from typing import Any

from edgevit.errors import EnvironmentError_
from edgevit.runner.engines.base import Engine, OpenedBundle
from edgevit.runner.engines.onnxruntime.settings import ASKS, SETTINGS


def _available() -> EnvironmentError_ | None:
    from edgevit.runner.engines.onnxruntime.installed import onnxruntime_module

    try:
        onnxruntime_module()
    except EnvironmentError_ as error:
        return error
    return None


def _open(*arguments: Any, **options: Any) -> OpenedBundle:
    from edgevit.runner.engines.onnxruntime.opened import open_engines

    return open_engines(*arguments, **options)


def _session(*arguments: Any, **options: Any) -> Any:
    from edgevit.runner.engines.onnxruntime.session import session_from_bundle

    return session_from_bundle(*arguments, **options)


ENGINE = Engine(
    name="onnxruntime",
    title="ONNX Runtime",
    module="onnxruntime",
    available=_available,
    open=_open,
    session=_session,
    usual=True,
    settings=SETTINGS,
    asks=ASKS,
    example_target="cpu",
)
