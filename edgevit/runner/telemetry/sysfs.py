"""Reads a Linux board's sensors from sysfs: devfreq, cpufreq, thermal, INA3221 and INA238 monitors.

Documented by the kernel (hwmon/ina3221, hwmon/ina238, thermal/sysfs-api, ABI sysfs-class-devfreq)
and by NVIDIA's Jetson Linux Developer Guide, "Platform Power and Performance" (over-current event
counters, throttle alerts). Numbers of hwmon and cooling devices change from boot to boot, so
everything is found by its name. A Tegra zone that is switched off answers EAGAIN or -256 degrees.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from edgevit.runner.telemetry.reading import Reading

_GPU = re.compile(
    r"(?:.*\.gpu|.*\.ga10b|gpu-gpc-0|gpu)$"
)  # 17000000.gpu on Orin, gpu-gpc-0 on Thor
_OFFLINE_BELOW_C = -100


class SysfsSource:
    """The sensors below a root folder.

    Args:
        root: ``/``, or the folder of a recorded tree.
    """

    name = "sysfs"

    def __init__(self, root: str | os.PathLike[str] = "/") -> None:
        system = Path(root) / "sys"
        self._clocks = _clocks(system)
        self._zones = _zones(system)
        self._rails = _rails(system)
        self._counters = _counters(system)
        self._alerts, self._caps = _cooling(system)
        self._alarms = _alarms(system)

    @property
    def clocks(self) -> tuple[str, ...]:
        """The clocks that can be read."""
        return tuple(self._clocks)

    @property
    def rails(self) -> tuple[str, ...]:
        """The power rails that can be read."""
        return tuple(self._rails)

    def read(self) -> Reading:
        """Return what the sensors say now."""
        flags = [name for name, path in self._alerts.items() if (_number(path) or 0) > 0]
        flags += [name for name, path in self._alarms.items() if (_number(path) or 0) > 0]
        return Reading(
            time_s=time.monotonic(),
            clocks_hz=_present({n: _hertz(*source) for n, source in self._clocks.items()}),
            temperatures_c=_temperatures(self._zones),
            power_mw={
                n: mw for n, path in self._rails.items() if (mw := _power(*path)) is not None
            },
            counters=_present({n: _number(path) for n, path in self._counters.items()}),
            caps=_present({n: _number(path) for n, path in self._caps.items()}),
            flags=flags,
        )

    def close(self) -> None:
        """Nothing stays open."""


def _clocks(system: Path) -> dict[str, tuple[Path, int]]:
    """Return clock -> (file, Hz of its unit)."""
    found: dict[str, tuple[Path, int]] = {}
    for folder in sorted((system / "class/devfreq").glob("*")):
        if _GPU.match(folder.name):
            found.setdefault("gpu", (folder / "cur_freq", 1))
        elif folder.name == "bwmgr":  # the memory controller's, on Thor
            found["emc"] = (folder / "cur_freq", 1)
    for folder in sorted((system / "devices/system/cpu/cpufreq").glob("policy*")):
        found[f"cpu.{folder.name}"] = (folder / "scaling_cur_freq", 1000)
    return found


def _zones(system: Path) -> dict[str, Path]:
    found = {}
    for folder in sorted((system / "class/thermal").glob("thermal_zone*")):
        name = (_text(folder / "type") or folder.name).lower()
        for ending in ("-thermal", "-therm", "_thermal"):
            name = name[: -len(ending)] if name.endswith(ending) else name
        found[name] = folder / "temp"
    return found


def _rails(system: Path) -> dict[str, tuple[Path, int]]:
    """Return rail -> (folder of its monitor, channel); NC is a channel that is not connected."""
    found: dict[str, tuple[Path, int]] = {}
    for folder in _monitors(system):
        for label in sorted(folder.glob("in*_label")):
            channel = int(re.sub(r"\D", "", label.name))
            name = _text(label)
            measured = (folder / f"curr{channel}_input").exists()
            if name and name != "NC" and measured:  # "sum of shunt voltages" is not a rail
                found[name] = (folder, channel)
        name = _text(folder / "label")  # a monitor with one channel, such as the INA238
        if name and (folder / "power1_input").exists():
            found[name] = (folder, 1)
    return found


def _monitors(system: Path) -> list[Path]:
    folders = sorted((system / "class/hwmon").glob("hwmon*"))
    return [folder for folder in folders if (_text(folder / "name") or "").startswith("ina")]


def _alarms(system: Path) -> dict[str, Path]:
    """Return the critical-current alarms of connected channels; they make the board throttle."""
    return {
        f"{name} above its critical current": folder / f"curr{channel}_crit_alarm"
        for name, (folder, channel) in _rails(system).items()
    }


def _counters(system: Path) -> dict[str, Path]:
    """Return over-current and under-voltage events that make the hardware throttle."""
    found = {}
    for path in sorted((system / "class/hwmon").glob("hwmon*/oc*_event_cnt")):
        name = path.name.split("_")[0]
        if _number(path.with_name(f"{name}_throt_en")) != 0:
            found[name] = path
    return found


def _cooling(system: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return alerts (throttling when not 0) and frequency caps; a fan is neither."""
    alerts, caps = {}, {}
    for folder in sorted((system / "class/thermal").glob("cooling_device*")):
        name = _text(folder / "type") or ""
        if name.endswith("-throttle-alert"):
            alerts[name] = folder / "cur_state"
        elif name.startswith(("cpufreq-", "devfreq-")):
            caps[name] = folder / "cur_state"
    return alerts, caps


def _temperatures(zones: dict[str, Path]) -> dict[str, float]:
    read = {name: _number(path) for name, path in zones.items()}
    celsius = {name: value / 1000 for name, value in read.items() if value is not None}
    return {name: value for name, value in celsius.items() if value > _OFFLINE_BELOW_C}


def _power(folder: Path, channel: int) -> float | None:
    """Return milliwatts: a power register in microwatts, or millivolts times milliamperes."""
    measured = _number(folder / f"power{channel}_input")
    if measured is not None:
        return measured / 1000
    millivolts = _number(folder / f"in{channel}_input")
    milliamperes = _number(folder / f"curr{channel}_input")
    if millivolts is None or milliamperes is None:
        return None
    return millivolts * milliamperes / 1000


def _hertz(path: Path, unit_hz: int) -> int | None:
    number = _number(path)
    return None if number is None else number * unit_hz


def _present(values: dict[str, int | None]) -> dict[str, int]:
    return {name: value for name, value in values.items() if value is not None}


def _number(path: Path) -> int | None:
    text = _text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
