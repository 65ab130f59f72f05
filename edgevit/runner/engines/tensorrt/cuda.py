"""The little of CUDA that a session needs, as one interface, and the choice of what provides it.

`cuda` is NVIDIA's cuda-python, `ctypes` the CUDA runtime library itself (for boards that have no
other), `pycuda` and `torch` those packages. The variable EDGEVIT_CUDA names one; without it the
first of `cuda` and `ctypes` that works is taken. All use the device's primary context, the one
TensorRT uses; a second context (such as `pycuda.autoinit` makes) gives "invalid resource handle".
"""

from __future__ import annotations

import os
from typing import Any

from edgevit.errors import DeviceError, EnvironmentError_, UsageError
from edgevit.runner.engines.tensorrt.cuda_device import (
    CHOICE_VARIABLE,
    CudaDevice,
    missing_cuda_error,
)

ADAPTERS = ("cuda", "ctypes", "pycuda", "torch")
_TRIED = ("cuda", "ctypes")


def open_device(choice: str | None = None) -> CudaDevice:
    """Return the device of this machine.

    Args:
        choice: One of `ADAPTERS`; without it the variable EDGEVIT_CUDA, and without that the
            first of "cuda" and "ctypes" that works.

    Raises:
        UsageError: There is no such adapter (EV756).
        EnvironmentError_: Its package is missing (EV757).
        DeviceError: CUDA refuses to work (EV758): for want of a driver (EV772) or a GPU (EV773).
    """
    named = choice or os.environ.get(CHOICE_VARIABLE) or ""
    if named and named not in ADAPTERS:
        raise UsageError(
            "EV756",
            f"There is no CUDA adapter {named!r}.",
            where=CHOICE_VARIABLE,
            try_next=f"One of {', '.join(ADAPTERS)}.",
        )
    failures: list[str] = []
    broken: DeviceError | None = None
    for name in (named,) if named else _TRIED:
        try:
            return _open(name)
        except EnvironmentError_ as error:
            failures.append(f"{name}: {error.why}")
        except DeviceError as error:  # a package newer than the driver; another one may fit
            broken = broken or error
    if broken is not None:
        raise broken
    raise EnvironmentError_(
        "EV757",
        "CUDA can't be used from Python here.",
        where=named or " or ".join(_TRIED),
        why="\n".join(failures),
        try_next='CUDA 12: pip install "cuda-python>=12.6,<13". CUDA 13: pip install'
        ' "cuda-python>=13,<14". Without pip: make libcudart findable (ldconfig -p).',
    )


def _open(name: str) -> CudaDevice:
    """Return the device through one adapter, or raise EV769 or EV758."""
    if name == "pycuda":
        from edgevit.runner.engines.tensorrt.cuda_pycuda import PycudaDevice

        return PycudaDevice()
    if name == "torch":
        from edgevit.runner.engines.tensorrt.cuda_torch import TorchDevice

        return TorchDevice()
    from edgevit.runner.engines.tensorrt.cuda_runtime import RuntimeDevice

    if name == "cuda":
        return RuntimeDevice(_cuda_python(), "cuda")
    from edgevit.runner.engines.tensorrt.cuda_library import CudaLibrary

    return RuntimeDevice(CudaLibrary(), "ctypes")


def _cuda_python() -> Any:
    """Return cuda-python's module of the CUDA runtime; its place changed with version 12.8."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        try:
            from cuda import cudart as runtime
        except ImportError as error:
            raise missing_cuda_error("cuda", error) from error
    return runtime
