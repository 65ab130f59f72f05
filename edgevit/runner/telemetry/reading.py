"""One look at a device's sensors, whatever they are, and which power rails make up the whole.

A reading holds only what could be read: a zone that is switched off or a rail that is not there is
left out, never zero. Names are lower case and the same on every device where they mean the same:
``gpu``, ``cpu.policy0``, ``emc`` for clocks, ``cpu``, ``gpu``, ``tj`` for temperatures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

# Rails that together are the input of the module or the board. Sources: VDD_IN is the module's
# total (NVIDIA forum 200883); AGX Orin and Thor have three inputs side by side (Developer Guide,
# "Software-Based Power Consumption Modeling"); VIN is the input of Thor's carrier board.
# On AGX Orin VDDQ_VDD2_1V8AO lies behind VIN_SYS_5V0: adding it would count it twice.
WHOLE_DEVICE = (
    ("VIN",),
    ("VDD_IN",),
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
    ("GPU_BOARD",),
)


@dataclass(frozen=True)
class Reading:
    """The sensors' values at one time.

    Args:
        time_s: Seconds of CLOCK_MONOTONIC, which all processes share.
        clocks_hz: Clock -> Hz.
        temperatures_c: Zone -> degrees Celsius.
        power_mw: Rail -> milliwatts.
        counters: Event -> how often it happened since boot (over-current, under-voltage).
        caps: Thermal frequency cap -> its step; 0 is no cap.
        flags: What throttles or alarms right now.
    """

    time_s: float
    clocks_hz: Mapping[str, int] = field(default_factory=dict)
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    power_mw: Mapping[str, float] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    caps: Mapping[str, int] = field(default_factory=dict)
    flags: Sequence[str] = ()

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(line: str) -> Reading:
        """Return the reading of a line that `to_json` wrote."""
        return Reading(**json.loads(line))


def merge(first: Reading, second: Reading) -> Reading:
    """Return both readings as one; where both know a value, the first one's."""
    return Reading(
        time_s=first.time_s,
        clocks_hz={**second.clocks_hz, **first.clocks_hz},
        temperatures_c={**second.temperatures_c, **first.temperatures_c},
        power_mw={**second.power_mw, **first.power_mw},
        counters={**second.counters, **first.counters},
        caps={**second.caps, **first.caps},
        flags=[*first.flags, *(flag for flag in second.flags if flag not in first.flags)],
    )


def rails_of_the_whole(rails: Sequence[str]) -> tuple[str, ...]:
    """Return the rails to add up for the whole device: a known set, or all there are."""
    for known in WHOLE_DEVICE:
        if set(known) <= set(rails):
            return known
    return tuple(rails)
