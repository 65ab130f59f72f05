"""Records readings in a process of its own while this one measures, and marks what it was doing.

A thread would share the interpreter's lock with the engine's caller and show up in the latencies;
a process does not. Both sides use CLOCK_MONOTONIC, so readings and phases fit together.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from edgevit.runner.telemetry.reading import Reading
from edgevit.runner.telemetry.sources import INTERVAL_MS

_START_SECONDS = 20
_STOP_SECONDS = 10


@dataclass(frozen=True)
class Recording:
    """The readings of a run, and the times of its phases.

    Args:
        source: Where the readings are from, such as "sysfs" or "sysfs+nvml".
        interval_ms: Time between readings.
        readings: In the order of time.
        phases: Phase -> (start, end) in seconds of CLOCK_MONOTONIC, for each time it was entered.
        problem: Why there are no readings, or "".
    """

    source: str
    interval_ms: int
    readings: Sequence[Reading]
    phases: Mapping[str, Sequence[tuple[float, float]]]
    problem: str = ""

    def during(self, phase: str) -> list[Reading]:
        """Return the readings of a phase, of all its times."""
        spans = self.phases.get(phase, ())
        return [r for r in self.readings if any(a <= r.time_s <= b for a, b in spans)]


class Recorder:
    """Starts recording on entering the with block and ends it on leaving.

    Args:
        root: ``/``, or a recorded tree.
        interval_ms: Time between readings.

    It never raises because of the sensors: what went wrong is `Recording.problem`.
    """

    def __init__(self, root: str | os.PathLike[str] = "/", interval_ms: int = INTERVAL_MS) -> None:
        self._root, self._interval_ms = os.fspath(root), interval_ms
        self._phases: dict[str, list[tuple[float, float]]] = {}

    def __enter__(self) -> Recorder:
        # Files without names: however this process ends, nothing of them stays behind.
        self._readings, self._errors = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        command = [sys.executable, "-m", "edgevit.runner.telemetry", "--root", self._root]
        command += ["--interval-ms", str(self._interval_ms)]
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=self._readings,
                stderr=self._errors,
                env=_environment(),
            )
            self._wait_for_a_reading(self._process)
        except OSError as error:  # a board whose memory is full starts no further process
            self._errors.write(str(error).encode())
            self._errors.flush()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._last = self.recording()
        self._end()

    def _end(self) -> None:
        """End the process and forget the files."""
        if self._process is not None:
            _end(self._process)
        self._readings.close()
        self._errors.close()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Mark the time of the with block as phase `name`."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.mark(name, start, time.monotonic())

    def mark(self, name: str, start: float, end: float) -> None:
        """Mark a time that is over, in seconds of CLOCK_MONOTONIC, as phase `name`."""
        self._phases.setdefault(name, []).append((start, end))

    def watch(self, name: str, seconds: float) -> None:
        """Do nothing for a while, as phase `name`."""
        with self.phase(name):
            time.sleep(seconds)

    def recording(self) -> Recording:
        """Return what was recorded so far; after the with block, all of it."""
        if self._readings.closed:
            return self._last
        lines = _text(self._readings).split("\n")[:-1]  # the last one is not whole
        if len(lines) < 2:
            return self._empty()
        return Recording(
            source=json.loads(lines[0])["source"],
            interval_ms=self._interval_ms,
            readings=[Reading.from_json(line) for line in lines[1:]],
            phases={name: tuple(spans) for name, spans in self._phases.items()},
        )

    def _wait_for_a_reading(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end and process.poll() is None:
            if self.recording().readings:
                return
            time.sleep(0.02)

    def _empty(self) -> Recording:
        problem = _text(self._errors).strip()[-500:]
        problem = problem or f"No sensor answered within {_START_SECONDS} seconds."
        return Recording("", self._interval_ms, (), dict(self._phases), problem)


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()  # that ends it
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _text(file: IO[bytes]) -> str:
    """Return what the other process wrote; its place in the file, which is shared, stays put."""
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode("utf-8", "replace")


def _environment() -> dict[str, str]:
    """Return this environment with the running EdgeViT importable, installed or not."""
    home = str(Path(__file__).resolve().parents[3])
    paths = [home, os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
