"""Runs an engine through trtexec: one process per batch, for boards without the Python module.

Every run loads the engine again, which takes seconds; good for golden images and a small check of
accuracy. Latency comes from trtexec's own measurement, never from the wall clock of these runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgevit.errors import DeviceError, UsageError
from edgevit.runner.engines.tensorrt.bindings import dotted
from edgevit.runner.engines.tensorrt.inspecting import (
    EngineLayer,
    layers_from_inspector,
    times_from_profile,
)
from edgevit.runner.engines.tensorrt.trtexec import (
    Trtexec,
    latency_arguments,
    profile_arguments,
    run_arguments,
)
from edgevit.runner.engines.tensorrt.trtexec_report import logits_from_export, times_ms_from_export
from edgevit.scratch import scratch_folder

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class EngineFile:
    """A plan on disk and what trtexec has to be told about it.

    Args:
        path: The plan.
        input_name: Name of its input.
        image_shape: (3, H, W).
        max_batch: Its largest batch.
    """

    path: Path
    input_name: str
    image_shape: tuple[int, int, int]
    max_batch: int


class TrtexecSession:
    """Runs a plan through trtexec.

    Args:
        tool: trtexec of this machine.
        engine_file: The plan.
    """

    provider = "TensorRT (trtexec)"
    threads: int | None = None

    def __init__(self, tool: Trtexec, engine_file: EngineFile) -> None:
        self._tool, self._file = tool, engine_file
        self.engine = f"tensorrt {dotted(tool.version)}"

    def run(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the logits of normalized images.

        Args:
            images: float32 [B, 3, H, W].

        Returns:
            float32 [B, classes].

        Raises:
            UsageError: The images don't fit (EV762).
            DeviceError: trtexec fails (EV771, EV772) or returns NaN or infinity (EV764).
        """
        if images.dtype != np.float32 or images.shape[1:] != self._file.image_shape:
            raise UsageError(
                "EV762",
                "The images do not fit the engine's input.",
                why=f"{images.dtype} {list(images.shape)}, not float32 [B, "
                f"{', '.join(map(str, self._file.image_shape))}].",
            )
        size = self._file.max_batch
        parts = [self._run_part(images[at : at + size]) for at in range(0, len(images), size)]
        logits = np.concatenate(parts)  # [B, classes]
        if not np.isfinite(logits).all():
            raise DeviceError("EV764", "The engine returned logits that can't be used.")
        return logits

    def kernel_times_ms(self, batch: int = 1, seconds: int = 10) -> npt.NDArray[np.float64]:
        """Return the GPU time of every run in trtexec's own measurement, float64 [runs]."""
        with scratch_folder() as folder:
            times = folder / "times.json"
            self._tool.call(
                latency_arguments(
                    self._tool.version,
                    self._file.path,
                    input_name=self._file.input_name,
                    shape=self._shape(batch),
                    times=times,
                    seconds=seconds,
                )
            )
            return times_ms_from_export(times.read_text())

    def layers(self, batch: int = 1) -> tuple[tuple[EngineLayer, ...], dict[str, float]]:
        """Return the engine's layers and their times in milliseconds by name."""
        with scratch_folder() as folder:
            profile, layers = folder / "profile.json", folder / "layers.json"
            self._tool.call(
                profile_arguments(
                    self._tool.version,
                    self._file.path,
                    input_name=self._file.input_name,
                    shape=self._shape(batch),
                    profile=profile,
                    layers=layers,
                )
            )
            found = layers_from_inspector(layers.read_text())
            return found, times_from_profile(profile.read_text())

    def close(self) -> None:
        """Nothing to free: no process outlives its run."""

    def _run_part(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with scratch_folder() as folder:
            inputs, outputs = folder / "images.bin", folder / "logits.json"
            inputs.write_bytes(np.ascontiguousarray(images).tobytes())
            self._tool.call(
                run_arguments(
                    self._tool.version,
                    self._file.path,
                    input_name=self._file.input_name,
                    shape=images.shape,
                    images=inputs,
                    outputs=outputs,
                )
            )
            return logits_from_export(outputs.read_text())

    def _shape(self, batch: int) -> Sequence[int]:
        return (batch, *self._file.image_shape)
