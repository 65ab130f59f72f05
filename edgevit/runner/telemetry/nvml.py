"""Reads an NVIDIA GPU's sensors through NVML, the library that every driver brings, with ctypes.

Signatures and constants are those of NVIDIA's NVML API Reference (nvml.h): power in milliwatts,
clocks in MHz, temperature in degrees Celsius, reasons for lowered clocks as a bit mask.
"""

from __future__ import annotations

import ctypes
import time
from typing import Any

from edgevit.runner.telemetry.reading import Reading

LIBRARY = "libnvidia-ml.so.1"
_GRAPHICS_CLOCK, _MEMORY_CLOCK, _GPU_SENSOR = 0, 2, 0
# nvmlClocksEventReason...: those that mean the GPU runs slower than it was asked to.
_SLOWED = {
    0x04: "gpu clocks lowered: power cap",
    0x08: "gpu clocks lowered: hardware slowdown",
    0x20: "gpu clocks lowered: temperature (software)",
    0x40: "gpu clocks lowered: temperature (hardware)",
    0x80: "gpu clocks lowered: power brake",
}


class NvmlSource:
    """One GPU.

    Args:
        index: Which GPU, in NVML's order.
        library: NVML's shared library.

    Raises:
        OSError: There is no such library, or NVML reports an error.
    """

    name = "nvml"

    def __init__(self, index: int = 0, library: str = LIBRARY) -> None:
        self._nvml = ctypes.CDLL(library)
        self._call("nvmlInit_v2")
        self._gpu = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(self._gpu))

    def read(self) -> Reading:
        """Return what NVML says now."""
        clocks = {
            "gpu": self._uint("nvmlDeviceGetClockInfo", _GRAPHICS_CLOCK),
            "memory": self._uint("nvmlDeviceGetClockInfo", _MEMORY_CLOCK),
        }
        celsius = self._uint("nvmlDeviceGetTemperature", _GPU_SENSOR)
        milliwatts = self._uint("nvmlDeviceGetPowerUsage")
        return Reading(
            time_s=time.monotonic(),
            clocks_hz={name: mhz * 10**6 for name, mhz in clocks.items() if mhz is not None},
            temperatures_c={} if celsius is None else {"gpu": float(celsius)},
            power_mw={} if milliwatts is None else {"GPU_BOARD": float(milliwatts)},
            flags=self._slowed(),
        )

    def close(self) -> None:
        """Give NVML back."""
        self._nvml.nvmlShutdown()

    def _slowed(self) -> list[str]:
        mask = ctypes.c_ulonglong()
        for function in (  # the second name is that of drivers before 535
            "nvmlDeviceGetCurrentClocksEventReasons",
            "nvmlDeviceGetCurrentClocksThrottleReasons",
        ):
            if hasattr(self._nvml, function):
                self._try(function, ctypes.byref(mask))
                break
        return [reason for bit, reason in _SLOWED.items() if mask.value & bit]

    def _uint(self, function: str, *arguments: int) -> int | None:
        """Return an unsigned int that a getter of this GPU writes, or None where it can't."""
        value = ctypes.c_uint()
        given = [ctypes.c_uint(argument) for argument in arguments]
        return value.value if self._try(function, *given, ctypes.byref(value)) else None

    def _try(self, function: str, *arguments: Any) -> bool:
        return bool(getattr(self._nvml, function)(self._gpu, *arguments) == 0)

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._nvml, function)(*arguments)
        if status != 0:
            raise OSError(f"NVML: {function} failed with status {status}.")
