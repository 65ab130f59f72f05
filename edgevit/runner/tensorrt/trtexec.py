"""Builds, times and runs engines with NVIDIA's `trtexec`, where the Python module is missing.

Command lines are per version: TensorRT 11 made CUDA graphs, spinning and no copies the default and
reads the 10.x flags for them as no-ops, so the same measurement needs other flags. trtexec has
printed PASSED after failing to load an engine, so errors in its output count as failures.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.errors import DeviceError, EnvironmentError_
from edgevit.runner.tensorrt.bindings import check_version, dotted
from edgevit.runner.tensorrt.building import BuildSettings

if TYPE_CHECKING:
    import numpy.typing as npt

PATH_VARIABLE = "EDGEVIT_TRTEXEC"
USUAL_PLACE = "/usr/src/tensorrt/bin/trtexec"
_TIMEOUT_SECONDS = 7200  # a first build on a small board takes tens of minutes
_BANNER = re.compile(r"TensorRT\.trtexec \[TensorRT v([\d.]+)\]")
_LINE = re.compile(r"\[(?P<level>[VIWEF])\] (?:\[TRT\] )?(?P<text>.*)")
_STATISTIC = re.compile(r"([a-z]+)(?:\((\d+)%\))? = ([\d.eE+-]+) ms")
_ROWS = ("Latency", "Enqueue Time", "H2D Latency", "GPU Compute Time", "D2H Latency")


@dataclass(frozen=True)
class TrtexecReport:
    """What one run of trtexec said.

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


def find_trtexec() -> Path:
    """Return the path of trtexec.

    Raises:
        EnvironmentError_: It is neither named by EDGEVIT_TRTEXEC, nor on the path, nor in
            /usr/src/tensorrt/bin (EV770).
    """
    named = os.environ.get(PATH_VARIABLE)
    found = named or shutil.which("trtexec") or USUAL_PLACE
    if os.access(found, os.X_OK) and Path(found).is_file():
        return Path(found)
    raise EnvironmentError_(
        "EV770",
        "trtexec is not here.",
        where=found,
        why="It is neither on the path nor where JetPack installs it.",
        try_next=f"sudo apt install libnvinfer-bin, or set {PATH_VARIABLE} to its path.",
    )


def build_arguments(
    version: tuple[int, int, int],
    onnx: Path,
    plan: Path,
    settings: BuildSettings,
    *,
    input_name: str,
    image_shape: Sequence[int],
    timing_cache: Path | None = None,
) -> list[str]:
    """Return the arguments that build an engine.

    Args:
        version: trtexec's version.
        onnx: The graph.
        plan: Where the engine goes.
        settings: As for the Python builder.
        input_name: Name of the graph's input.
        image_shape: (3, H, W).
        timing_cache: Kernel timings, read and written.
    """
    settings.check()
    batches = (settings.min_batch, settings.best_batch, settings.max_batch)
    arguments = [
        f"--onnx={onnx}",
        f"--saveEngine={plan}",
        "--skipInference",
        f"--memPoolSize=workspace:{settings.workspace_bytes >> 20}M",
        f"--builderOptimizationLevel={settings.optimization_level}",
    ]
    for which, batch in zip(("min", "opt", "max"), batches):
        arguments.append(f"--{which}Shapes={_shape(input_name, batch, image_shape)}")
    if version < (11, 0, 0):
        arguments.append("--stronglyTyped")  # 11 knows nothing else
    if not settings.tf32:
        arguments.append("--noTF32")
    if settings.detailed:
        arguments.append("--profilingVerbosity=detailed")
    if timing_cache is not None:
        arguments.append(f"--timingCacheFile={timing_cache}")
    return arguments


def latency_arguments(
    version: tuple[int, int, int],
    plan: Path,
    *,
    input_name: str,
    shape: Sequence[int],
    times: Path,
    seconds: int = 10,
    warmup_ms: int = 500,
) -> list[str]:
    """Return the arguments that time an engine: CUDA graph, spinning, no copies, one stream.

    Args:
        version: trtexec's version.
        plan: The engine.
        input_name: Name of its input.
        shape: (B, 3, H, W).
        times: File for the time of every run.
        seconds: How long is measured.
        warmup_ms: How long is warmed up.
    """
    arguments = [
        f"--loadEngine={plan}",
        f"--shapes={_shape(input_name, shape[0], shape[1:])}",
        f"--warmUp={warmup_ms}",
        f"--duration={seconds}",
        "--infStreams=1",
        "--percentile=50,90,95,99",
        f"--exportTimes={times}",
    ]
    if version < (11, 0, 0):
        arguments += ["--useCudaGraph", "--useSpinWait", "--noDataTransfers"]
    return arguments


def profile_arguments(
    version: tuple[int, int, int],
    plan: Path,
    *,
    input_name: str,
    shape: Sequence[int],
    profile: Path,
    layers: Path,
) -> list[str]:
    """Return the arguments that write per-layer times and the inspector's JSON; never for latency.

    Args:
        version: trtexec's version.
        plan: The engine.
        input_name: Name of its input.
        shape: (B, 3, H, W).
        profile: File for the per-layer times.
        layers: File for the inspector's JSON.
    """
    del version  # these flags are the same everywhere
    return [
        f"--loadEngine={plan}",
        f"--shapes={_shape(input_name, shape[0], shape[1:])}",
        "--iterations=20",
        "--duration=0",
        "--profilingVerbosity=detailed",
        "--dumpProfile",
        f"--exportProfile={profile}",
        f"--exportLayerInfo={layers}",
    ]


def run_arguments(
    version: tuple[int, int, int],
    plan: Path,
    *,
    input_name: str,
    shape: Sequence[int],
    images: Path,
    outputs: Path,
) -> list[str]:
    """Return the arguments that run an engine once on given images and write its outputs.

    Args:
        version: trtexec's version.
        plan: The engine.
        input_name: Name of its input.
        shape: (B, 3, H, W).
        images: Raw float32 values.
        outputs: File for the outputs, JSON.
    """
    arguments = [
        f"--loadEngine={plan}",
        f"--shapes={_shape(input_name, shape[0], shape[1:])}",
        f"--loadInputs={input_name}:{images}",
        "--iterations=1",
        "--duration=0",
        "--warmUp=0",
        f"--exportOutput={outputs}",
    ]
    if version >= (11, 0, 0):
        arguments.append("--includeDataTransfers")  # or the images never reach the device
    return arguments


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


class Trtexec:
    """The tool of this machine.

    Args:
        path: The executable; found if left out.

    Raises:
        EnvironmentError_: It is not here (EV770), tells no version, or is too old (EV751).
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = find_trtexec() if path is None else path
        banner = subprocess.run(
            [str(self.path), "--help"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        self.version = report_from_output(banner.stdout).version
        check_version(self.version)

    def call(self, arguments: Sequence[str]) -> TrtexecReport:
        """Return the report of a run that must pass.

        Raises:
            DeviceError: It failed (EV772).
        """
        done = subprocess.run(
            [str(self.path), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TIMEOUT_SECONDS,
        )
        report = report_from_output(done.stdout)
        if done.returncode or not report.passed:
            raise DeviceError(
                "EV772",
                "trtexec failed.",
                where=" ".join(arguments)[:500],
                why="\n".join(report.errors)[-2000:] or done.stdout[-2000:],
                try_next="Run the command by hand with --verbose to see all of its output.",
            )
        return report


def _shape(name: str, batch: int, rest: Sequence[int]) -> str:
    return f"{name}:{'x'.join(str(size) for size in (batch, *rest))}"


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
