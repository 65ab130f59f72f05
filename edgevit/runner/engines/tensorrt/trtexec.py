"""Builds, times and runs engines with NVIDIA's `trtexec`, where the Python module is missing.

Command lines are per version: TensorRT 11 made CUDA graphs, spinning and no copies the default and
reads the 10.x flags for them as no-ops, so the same measurement needs other flags.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from edgevit.errors import DeviceError, EnvironmentError_
from edgevit.runner.engines.tensorrt.bindings import check_version
from edgevit.runner.engines.tensorrt.building import BuildSettings
from edgevit.runner.engines.tensorrt.trtexec_report import TrtexecReport, report_from_output

PATH_VARIABLE = "EDGEVIT_TRTEXEC"
USUAL_PLACE = "/usr/src/tensorrt/bin/trtexec"
_TIMEOUT_SECONDS = 7200  # a first build on a small board takes tens of minutes
_HELP_SECONDS = 120


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


class Trtexec:
    """The tool of this machine.

    Args:
        path: The executable; found if left out.

    Raises:
        EnvironmentError_: It is not here (EV770), tells no version (EV759), or is too old
            (EV751).
        DeviceError: It can't be run (EV772).
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = find_trtexec() if path is None else path
        self.version = report_from_output(self._said(["--help"], _HELP_SECONDS).stdout).version
        check_version(self.version)

    def call(self, arguments: Sequence[str]) -> TrtexecReport:
        """Return the report of a run that must pass.

        Raises:
            DeviceError: It failed (EV772).
        """
        done = self._said(arguments, _TIMEOUT_SECONDS)
        report = report_from_output(done.stdout)
        if done.returncode or not report.passed:
            raise _failed(arguments, "\n".join(report.errors)[-2000:] or done.stdout[-2000:])
        return report

    def _said(self, arguments: Sequence[str], seconds: int) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [str(self.path), *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise _failed(arguments, f"It took more than {seconds} seconds.") from error
        except OSError as error:
            raise _failed(arguments, str(error)) from error


def _failed(arguments: Sequence[str], why: str) -> DeviceError:
    return DeviceError(
        "EV772",
        "trtexec failed.",
        where=" ".join(arguments)[:500],
        why=why,
        try_next="Run the command by hand with --verbose to see all of its output.",
    )


def _shape(name: str, batch: int, rest: Sequence[int]) -> str:
    return f"{name}:{'x'.join(str(size) for size in (batch, *rest))}"
