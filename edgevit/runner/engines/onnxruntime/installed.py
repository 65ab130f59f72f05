"""ONNX Runtime as a module, or what is wrong with the one that is here."""

from __future__ import annotations

import sys
from typing import Any

from edgevit.errors import EnvironmentError_

_USED = ("InferenceSession", "SessionOptions", "get_available_providers", "__version__")


def onnxruntime_module() -> Any:
    """Return the module `onnxruntime`, its telemetry off.

    Raises:
        EnvironmentError_: It is not installed (EV701), or it can't be used: its import fails, or
            another thing has its name (EV838).
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise _unusable(f"{type(error).__name__}: {error}") from error
        raise EnvironmentError_(
            "EV701",
            "ONNX Runtime is not installed.",
            why=str(error),
            try_next="pip install onnxruntime",
        ) from error
    except Exception as error:  # a library that it loads may raise anything
        raise _unusable(f"{type(error).__name__}: {error}") from error
    missing = [name for name in _USED if not hasattr(onnxruntime, name)]
    if missing:
        where = getattr(onnxruntime, "__file__", None) or list(onnxruntime.__path__)
        raise _unusable(f"What is imported from {where} has no {missing[0]}.")
    _keep_to_itself(onnxruntime)
    return onnxruntime


def _keep_to_itself(onnxruntime: Any) -> None:
    """Let it send nothing and write nothing of its own into the user's home.

    Releases from 1.32 on record their use there; older ones have no such switch, or do nothing.
    """
    switch = getattr(onnxruntime, "disable_telemetry_events", None)
    if callable(switch):
        switch()


def _unusable(why: str) -> EnvironmentError_:
    return EnvironmentError_(
        "EV838",
        "ONNX Runtime can't be used.",
        why=why[:500],
        try_next=f"{sys.executable} -m pip install --force-reinstall onnxruntime",
    )
