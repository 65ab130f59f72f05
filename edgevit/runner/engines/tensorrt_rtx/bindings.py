"""Finds NVIDIA's `tensorrt_rtx` module, which has the surface of `tensorrt`."""

from __future__ import annotations

from typing import Any

from edgevit.errors import EnvironmentError_


def load_rtx() -> Any:
    """Return the module `tensorrt_rtx`.

    Raises:
        EnvironmentError_: It can't be imported (EV770).
    """
    try:
        import tensorrt_rtx
    except (ImportError, OSError) as error:  # OSError: its libraries are missing or don't fit
        raise _not_loaded(str(error)[:500]) from error
    if not hasattr(tensorrt_rtx, "Builder"):  # Python takes any folder of that name for a package
        raise _not_loaded(f"The package found is not it: {list(tensorrt_rtx.__path__)}")
    return tensorrt_rtx


def _not_loaded(why: str) -> EnvironmentError_:
    return EnvironmentError_(
        "EV770",
        "TensorRT for RTX can't be loaded.",
        where="import tensorrt_rtx",
        why=why,
        try_next="pip install 'edgevit[rtx]' brings it (Linux and Windows on x86-64, NVIDIA's own"
        " licence); pip install tensorrt-rtx-cu12 where the driver has CUDA 12 only.",
    )
