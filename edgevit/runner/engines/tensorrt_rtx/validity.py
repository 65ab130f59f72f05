"""Asks TensorRT for RTX whether an engine can run on this machine, and says in words why not.

It reads the engine's header and the driver; nothing is loaded onto the card.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgevit.errors import DeviceError
from edgevit.runner.engines.tensorrt.bindings import MessageLog
from edgevit.runner.engines.tensorrt.cuda_device import (
    cuda_failed,
    cuda_failure_in,
    driver_too_old,
    out_of_memory,
)

_CALL = "get_engine_validity"


def check_engine(trt: Any, runtime: Any, plan: bytes, log: MessageLog) -> None:
    """Refuse an engine that can't run here.

    Args:
        trt: The module `tensorrt_rtx`.
        runtime: Its Runtime, which writes into `log`.
        plan: The serialized engine.
        log: What the library says.

    Raises:
        DeviceError: The engine is for another card (EV775) or another version of TensorRT for RTX
            (EV776), it is damaged (EV777) or needs a newer CUDA runtime (EV778), there is no
            driver or too old a one (EV772), no card (EV773) or too little memory on it (EV774),
            CUDA is not installed as it should be (EV758), or no reason is told (EV760).
    """
    verdict, told = runtime.get_engine_validity(plan)
    if verdict != trt.EngineValidity.INVALID:
        return
    reason = log.reason("")
    for name, fault in _FAULTS.items():
        if int(told) & int(getattr(trt.EngineInvalidityDiagnostics, name)):
            raise fault(reason)
    # without a driver no diagnosis is set: only the log has CUDA's error
    raise cuda_failure_in(reason, _CALL) or _no_reason(reason)


def _damaged(why: str) -> DeviceError:
    return DeviceError(
        "EV777",
        "The engine is damaged, or no engine of TensorRT for RTX.",
        where=_CALL,
        why=why or "Its header is not of the expected format.",
        try_next="Compile it again: edgevit build BUNDLE.",
    )


def _other_version(why: str) -> DeviceError:
    return DeviceError(
        "EV776",
        "The engine was compiled by another version of TensorRT for RTX.",
        where=_CALL,
        why=why or "An engine runs with the version that compiled it, and with no other.",
        try_next="Compile it again with the version here (edgevit build BUNDLE), or install that"
        " version.",
    )


def _other_card(why: str) -> DeviceError:
    return DeviceError(
        "EV775",
        "The engine was compiled for another card.",
        where=_CALL,
        why=why or "It has no code for this card's compute capability.",
        try_next="Compile it for this card too: edgevit build BUNDLE --for, with its compute"
        " capability, such as sm89.",
    )


def _old_driver(why: str) -> DeviceError:
    return driver_too_old(_CALL, why or "The engine needs a newer CUDA than the driver has.")


def _old_runtime(why: str) -> DeviceError:
    return DeviceError(
        "EV778",
        "The engine needs a newer CUDA runtime than this TensorRT for RTX has.",
        where=_CALL,
        why=why or "It was compiled with a newer one.",
        try_next="pip install --upgrade tensorrt-rtx-cu13, or compile the engine again here:"
        " edgevit build BUNDLE.",
    )


def _too_little_memory(why: str) -> DeviceError:
    return out_of_memory(_CALL, why or "The engine needs more than the card has free.")


def _no_cuda(why: str) -> DeviceError:
    return cuda_failure_in(why, _CALL) or cuda_failed(_CALL, why or "CUDA is not usable here.")


def _no_reason(why: str) -> DeviceError:
    return DeviceError(
        "EV760",
        "The engine does not load here.",
        where=_CALL,
        why=why or "TensorRT for RTX calls it invalid and gives no reason.",
        try_next="Build it again on this device.",
    )


_FAULTS: dict[str, Callable[[str], DeviceError]] = {
    "MALFORMED_ENGINE": _damaged,
    "VERSION_MISMATCH": _other_version,
    "CUDA_ERROR": _no_cuda,
    "OLD_CUDA_DRIVER": _old_driver,
    "OLD_CUDA_RUNTIME": _old_runtime,
    "UNSUPPORTED_CC": _other_card,
    "INSUFFICIENT_GPU_MEMORY": _too_little_memory,
}
"""Diagnosis (trt.EngineInvalidityDiagnostics, bits that may stand together) -> error, what has to
be mended first being first."""
