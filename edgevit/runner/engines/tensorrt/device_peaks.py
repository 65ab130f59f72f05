"""Peaks of NVIDIA's devices: operations, memory bandwidth, and the least time of a kernel.

One device stands for each profile. Figures are dense (without structured sparsity) and at boost
clock. Sources are named with each; `doubtful` says what could not be read in NVIDIA's own words or
is an assumption. Every prediction made of them is a prediction and no measurement.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping

from edgevit.errors import UnsupportedError

_GRAPH_LAUNCH_US = 1.5
_LAUNCH = (
    "the time between kernels is an assumption (NVIDIA's blog 'Getting Started with CUDA Graphs'"
    " has 0.5 us between kernels of one graph on a V100; filling and draining the GPU comes on top)"
)
_HALF_SUMS = "FP16 is with FP16 sums; with FP32 sums this card does half of it"


@dataclass(frozen=True)
class DevicePeaks:
    """One device.

    Args:
        device: Its name.
        tera: Precision -> tera operations a second (a multiply-add is two), dense.
        bandwidth_gb_s: Memory bandwidth in GB a second.
        launch_us: Least time that one kernel more takes, in microseconds.
        source: Where the figures are from.
        doubtful: What of them is uncertain.
    """

    device: str
    tera: Mapping[str, float] = field(repr=False)
    bandwidth_gb_s: float
    launch_us: float
    source: str
    doubtful: str

    def operations(self, precision: str) -> float:
        """Return operations a second in a precision.

        Raises:
            UnsupportedError: The device does not compute in it (EV850).
        """
        known = "fp16" if precision == "bf16" else precision
        if known not in self.tera:
            raise UnsupportedError(
                "EV850",
                "A kernel has a precision of which the device's peak is not known.",
                where=self.device,
                why=f"The kernel computes in {precision or 'an unknown precision'}; known are"
                f" {', '.join(self.tera)}.",
                try_next="Compile the bundle again for its own target.",
            )
        return self.tera[known] * 1e12


def _geforce(
    device: str, fp32: float, fp16: float, bandwidth: float, source: str, **low: float
) -> DevicePeaks:
    tera = {"fp32": fp32, "fp16": fp16, **low}
    doubt = f"{_HALF_SUMS}; {_LAUNCH}"
    return DevicePeaks(device, tera, bandwidth, _GRAPH_LAUNCH_US, source, doubt)


def _other(
    device: str,
    tera: Mapping[str, float],
    bandwidth: float,
    source: str,
    launch_us: float = _GRAPH_LAUNCH_US,
    doubt: str = "",
) -> DevicePeaks:
    doubtful = "; ".join(filter(None, (doubt, _LAUNCH)))
    return DevicePeaks(device, tera, bandwidth, launch_us, source, doubtful)


_BRIEF = "NVIDIA Jetson AGX Orin Series technical brief v1.2 and the module's data sheet"
_ORIN_DOUBT = "INT8 is the half of the GPU's sparse TOPS, FP16 the half of that; no DLA"
_JETSON_LAUNCH_US = 4.0
_A100 = _other(
    "A100 SXM 40 GB",
    {"fp32": 19.5, "fp16": 312, "int8": 624},
    1555,
    "NVIDIA A100 Tensor Core GPU architecture whitepaper",
)
DEVICES: dict[str, DevicePeaks] = {
    "tensorrt": _A100,
    "tensorrt-ampere": _A100,
    "tensorrt-ada": _other(
        "L40S",
        {"fp32": 91.6, "fp16": 362, "int8": 733, "fp8": 733},
        864,
        "NVIDIA L40S data sheet",
    ),
    "tensorrt-hopper": _other(
        "H100 SXM",
        {"fp32": 67, "fp16": 989, "int8": 1979, "fp8": 1979},
        3350,
        "NVIDIA H100 Tensor Core GPU data sheet",
    ),
    "tensorrt-blackwell": _other(
        "B200",
        {"fp32": 75, "fp16": 2250, "int8": 4500, "fp8": 4500, "fp4": 9000},
        8000,
        "NVIDIA Blackwell architecture technical brief, DGX B200 data sheet",
        doubt="FP32 and INT8 are stated differently in several of NVIDIA's papers",
    ),
    "rtx-turing": _geforce(
        "GeForce RTX 2080 Ti",
        14.2,
        113.8,
        616,
        "NVIDIA Turing GPU architecture whitepaper, Founders Edition",
        int8=227.7,
    ),
    "rtx-ampere": _geforce(
        "GeForce RTX 3090",
        35.6,
        142,
        936,
        "NVIDIA Ampere GA102 GPU architecture whitepaper",
        int8=284,
    ),
    "rtx-ada": _geforce(
        "GeForce RTX 4090",
        82.6,
        330.3,
        1008,
        "NVIDIA Ada GPU architecture whitepaper",
        int8=660.6,
        fp8=660.6,
    ),
    "rtx-blackwell": _geforce(
        "GeForce RTX 5090",
        104.8,
        419,
        1792,
        "NVIDIA RTX Blackwell GPU architecture whitepaper",
        int8=838,
        fp8=838,
        fp4=1676,
    ),
    "jetson-orin-nano": _other(
        "Jetson Orin Nano 8 GB (15 W)",
        {"fp32": 1.28, "fp16": 10, "int8": 20},
        68,
        _BRIEF,
        _JETSON_LAUNCH_US,
        _ORIN_DOUBT,
    ),
    "jetson-orin-nx": _other(
        "Jetson Orin NX 16 GB",
        {"fp32": 1.88, "fp16": 15, "int8": 30},
        102.4,
        _BRIEF,
        _JETSON_LAUNCH_US,
        _ORIN_DOUBT,
    ),
    "jetson-agx-orin": _other(
        "Jetson AGX Orin 64 GB",
        {"fp32": 5.3, "fp16": 42.5, "int8": 85},
        204.8,
        _BRIEF,
        _JETSON_LAUNCH_US,
        _ORIN_DOUBT,
    ),
    "jetson-thor": _other(
        "Jetson AGX Thor T5000",
        {"fp32": 8, "fp16": 258, "int8": 517, "fp8": 517, "fp4": 1035},
        273,
        "NVIDIA Jetson Thor data sheet: 2070 TFLOPS FP4 sparse, 273 GB/s",
        _JETSON_LAUNCH_US,
        "all but FP4 and memory are halves of each other by rule, not read",
    ),
}
"""Name of a profile -> the device that stands for it."""
