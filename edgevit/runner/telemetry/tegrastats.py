"""Reads the sensors from NVIDIA's ``tegrastats`` where sysfs has no power rails.

The fields are those of the Jetson Linux Developer Guide, "tegrastats Utility". JetPack 5 and 6
print a rail as now/mean in mW, JetPack 7 adds the peak; the GPU's clock is ``GR3D_FREQ 5%@305``,
``5%@[305,305]`` or ``@[305,305,305]`` in MHz, or missing (``5%``) without root.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time

from edgevit.runner.telemetry.reading import Reading

_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/\d+")
_TEMPERATURE = re.compile(r"\b([A-Za-z]\w*)@(-?[\d.]+)C")
_GPU = re.compile(r"\bGR3D_FREQ (?:\d+%)?@\[?([\d,]+)")
_MEMORY = re.compile(r"\bEMC_FREQ (?:\d+%)?@(\d+)")
_CORES = re.compile(r"\bCPU \[([^\]]*)\]")
_NOT_RAILS = {"NC", "RAM", "SWAP", "IRAM"}
_OFFLINE_BELOW_C = -100
_FIRST_LINE_SECONDS = 5
_LASTING_INTERVALS, _LEAST_LASTING_SECONDS = 5, 0.5


def reading_from_line(line: str, time_s: float) -> Reading:
    """Return the reading of one line of tegrastats, taken at `time_s`."""
    clocks = {}
    gpu, memory, cores = _GPU.search(line), _MEMORY.search(line), _CORES.search(line)
    if gpu:
        clocks["gpu"] = 10**6 * max(int(clock) for clock in gpu.group(1).split(",") if clock)
    if memory:
        clocks["emc"] = 10**6 * int(memory.group(1))
    if cores and (running := re.findall(r"@(\d+)", cores.group(1))):
        clocks["cpu.highest"] = 10**6 * max(int(clock) for clock in running)
    temperatures = {name.lower(): float(value) for name, value in _TEMPERATURE.findall(line)}
    return Reading(
        time_s=time_s,
        clocks_hz=clocks,
        temperatures_c={n: c for n, c in temperatures.items() if c > _OFFLINE_BELOW_C},
        power_mw={n: float(mw) for n, mw in _RAIL.findall(line) if n not in _NOT_RAILS},
    )


class TegrastatsSource:
    """A running tegrastats; `read` returns its latest line.

    Args:
        interval_ms: How often it prints.
        command: The program, to be found on the PATH.

    Raises:
        OSError: It can't be started.
    """

    name = "tegrastats"

    def __init__(self, interval_ms: int, command: str = "tegrastats") -> None:
        self._process = subprocess.Popen(
            [command, "--interval", str(interval_ms)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            universal_newlines=True,
        )
        self._latest = Reading(time_s=time.monotonic())
        self._lasts_s = max(_LEAST_LASTING_SECONDS, _LASTING_INTERVALS * interval_ms / 1000)
        self._first = threading.Event()
        self._follower = threading.Thread(target=self._follow, daemon=True)
        self._follower.start()
        self._first.wait(_FIRST_LINE_SECONDS)

    def read(self) -> Reading:
        """Return the latest line's reading, with the time at which the line came.

        A line that is old says nothing any more: then the reading is empty.
        """
        latest, now = self._latest, time.monotonic()
        return latest if now - latest.time_s <= self._lasts_s else Reading(time_s=now)

    def close(self) -> None:
        """End tegrastats."""
        self._process.terminate()
        self._process.wait()
        self._follower.join()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._latest = reading_from_line(line, time.monotonic())
                self._first.set()


def is_there(command: str = "tegrastats") -> bool:
    """Return whether this machine has tegrastats."""
    return shutil.which(command) is not None
