"""Reads what trtexec prints and exports: its summary, the time of every run, the outputs.

trtexec has printed PASSED after failing to load an engine, so errors count as failures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.errors import DeviceError
from edgevit.runner.engines.tensorrt.bindings import dotted

if TYPE_CHECKING:
    import numpy.typing as npt

_BANNER = re.compile(r"TensorRT\.trtexec \[TensorRT v([\d.]+)\]")
_LINE = re.compile(r"\[(?P<level>[VIWEF])\] (?:\[TRT\] )?(?P<text>.*)")
_STATISTIC = re.compile(r"([a-z]+)(?:\((\d+)%\))? = ([\d.eE+-]+) ms")
_ROWS = ("Latency", "Enqueue Time", "H2D Latency", "GPU Compute Time", "D2H Latency")


@dataclass(frozen=True)
class TrtexecReport:
    """The facts in the output of one run of trtexec.

    Args:
        version: TensorRT's version, (0, 0, 0) if it is not told.
        passed: Whether it says PASSED and no error.
        device: The GPU's name.
        compute_capability: Such as "8.7".
        throughput_qps: Queries per second; None if nothing was timed.
        statistics_ms: "GPU Compute Time" and so on -> {"min", "median", "p99", ...} in ms.
        errors: Lines marked as errors.
        warnings: Lines marked as warnings.
    """

    version: tuple[int, int, int] = (0, 0, 0)
    passed: bool = False
    device: str = ""
    compute_capability: str = ""
    throughput_qps: float | None = None
    statistics_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return {**asdict(self), "version": dotted(self.version)}


def report_from_output(text: str) -> TrtexecReport:
    """Return what trtexec's output says; an output of anything else gives an empty report."""
    lines = [match for match in map(_LINE.search, text.splitlines()) if match]
    shown = [match["text"] for match in lines if match["level"] == "I"]
    errors = tuple(match["text"] for match in lines if match["level"] in "EF")
    banner = _BANNER.search(text)
    return TrtexecReport(
        version=version_from_banner(banner.group(1)) if banner else (0, 0, 0),
        passed="&&&& PASSED TensorRT.trtexec" in text and not errors,
        device=_value(shown, "Selected Device: "),
        compute_capability=_value(shown, "Compute Capability: "),
        throughput_qps=_number(_value(shown, "Throughput: ")),
        statistics_ms={row: _statistics(shown, row) for row in _ROWS if _statistics(shown, row)},
        errors=errors,
        warnings=tuple(match["text"] for match in lines if match["level"] == "W"),
    )


def version_from_banner(text: str) -> tuple[int, int, int]:
    """Return (10, 13, 3) for "101303", (8, 5, 2) for "8502" and (11, 1, 0) for "11.1.0.106"."""
    if "." in text:
        parts = [int(part) for part in text.split(".")[:3]]
        return parts[0], parts[1], parts[2]
    number = int(text)
    if number >= 100000:  # from 10.0 on: two digits each
        return number // 10000, number // 100 % 100, number % 100
    return number // 1000, number // 100 % 10, number % 100


def times_ms_from_export(text: str) -> npt.NDArray[np.float64]:
    """Return the GPU time of every run of --exportTimes, float64 [runs], in milliseconds.

    Raises:
        DeviceError: It is not such a file (EV771).
    """
    try:
        return np.array([float(row["computeMs"]) for row in json.loads(text)])
    except (ValueError, TypeError, KeyError) as error:
        raise _unreadable("times", error) from error


def logits_from_export(text: str) -> npt.NDArray[np.float32]:
    """Return the logits of --exportOutput, float32 [B, classes].

    Raises:
        DeviceError: It is not such a file or holds several outputs (EV771).
    """
    try:
        # trtexec writes C++'s nan and inf, which JSON does not have
        plain = re.sub(r"(?<=[\[, ])(-?)(?:nan|inf)(?=[\], ])", "null", text)
        (output,) = json.loads(plain)
        shape = [int(size) for size in str(output["dimensions"]).split("x")]
        values = [float("nan") if value is None else value for value in output["values"]]
        return np.array(values, dtype=np.float32).reshape(shape)
    except (ValueError, TypeError, KeyError) as error:
        raise _unreadable("outputs", error) from error


def _value(lines: Sequence[str], prefix: str) -> str:
    return next((line[len(prefix) :].strip() for line in lines if line.startswith(prefix)), "")


def _number(text: str) -> float | None:
    found = re.match(r"[\d.eE+-]+", text)
    return float(found.group()) if found else None


def _statistics(lines: Sequence[str], row: str) -> dict[str, float]:
    found = _STATISTIC.findall(_value(lines, f"{row}: "))
    return {f"p{percent}" if percent else name: float(value) for name, percent, value in found}


def _unreadable(what: str, error: Exception) -> DeviceError:
    return DeviceError(
        "EV771", f"trtexec's file of {what} can't be read.", why=f"{type(error).__name__}: {error}"
    )
