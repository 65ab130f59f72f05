"""Sensors: recorded Orin and Thor trees, lines of tegrastats, NVML by a C library with its API."""

import ctypes
import os
import shutil
import stat
import subprocess
import time

import pytest
from recorded_trees import ORIN_NANO, THOR, write_tree

from edgevit.runner.telemetry.nvml import NvmlSource
from edgevit.runner.telemetry.reading import Reading, merge, rails_of_the_whole
from edgevit.runner.telemetry.sources import CombinedSource, has_sensors, source_here
from edgevit.runner.telemetry.sysfs import SysfsSource
from edgevit.runner.telemetry.tegrastats import TegrastatsSource, reading_from_line

# Lines as people published them: Orin Nano (JetPack 6, parser tests of a public Rust crate), AGX
# Orin (JetPack 5, a how-to; JetPack 7.2, notes in a public viewer), Thor (Jetson Linux 39, parser
# tests of a public repository).
NANO = (
    "11-30-2025 13:26:01 RAM 2461/7620MB (lfb 3x2MB) SWAP 1243/3810MB (cached 5MB) CPU "
    "[19%@729,14%@729,22%@729,8%@729,15%@729,off] EMC_FREQ 4%@2133 GR3D_FREQ 0%@[305] NVDEC off "
    "VIC off OFA off APE 200 cpu@46.531C soc2@47.312C gpu@48.218C tj@48.843C VDD_IN 5704mW/5611mW "
    "VDD_CPU_GPU_CV 831mW/832mW VDD_SOC 1624mW/1623mW"
)
AGX = (
    "04-24-2023 00:01:24 RAM 1282/62795MB (lfb 15152x4MB) SWAP 0/31398MB (cached 0MB) CPU "
    "[0%@729,0%@729] EMC_FREQ 0%@2133 GR3D_FREQ 0%@0 GR3D2_FREQ 0%@0 VIC_FREQ 729 APE 174 "
    "CV0@-256C CPU@42.593C GPU@-256C tj@42.593C VDD_GPU_SOC 2399mW/2399mW VDD_CPU_CV 400mW/400mW "
    "VIN_SYS_5V0 4032mW/4032mW NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
AGX_JETPACK7 = (
    "07-17-2026 15:15:24 RAM 8182/62817MB (lfb 6x4MB) CPU [18%@729,12%@729] GR3D_FREQ 5% "
    "cpu@51.343C/51.343C gpu@46.843C/46.843C VDD_GPU_SOC 3588mW/3587mW/3589mW "
    "VDD_CPU_CV 797mW/797mW/797mW VIN_SYS_5V0 5148mW/5148mW/5148mW"
)
THOR_LINE = (
    "08-08-2026 20:58:23 RAM 3429/125749MB (lfb 120x4MB) CPU [0%,5%,off]@2601 EMC_FREQ 34%@4266 "
    "GR3D_FREQ @[1574,1574,1574] NVENC0_FREQ @1691 VIC off cpu@58.25C/61.75C gpu@56.937C/66.625C "
    "VDD_GPU 37939mW/8660mW/37939mW VDD_CPU_SOC_MSS 30059mW/12281mW/30059mW "
    "VIN_SYS_5V0 15486mW/7424mW/15486mW VIN 124486mW/36487mW/124486mW"
)


def test_orin_tree(tmp_path):
    reading = SysfsSource(write_tree(tmp_path, ORIN_NANO)).read()
    assert reading.clocks_hz == {
        "gpu": 1_020_000_000,
        "cpu.policy0": 1_728_000_000,
        "cpu.policy4": 1_728_000_000,
    }
    # cv0 answers EAGAIN and cv1 -256 degrees: both are left out, not zero
    assert reading.temperatures_c == {"cpu": 46.531, "gpu": 48.218, "soc0": 46.593, "tj": 48.843}
    assert reading.power_mw == pytest.approx(
        {"VDD_IN": 5.016 * 1520, "VDD_CPU_GPU_CV": 5.016 * 160, "VDD_SOC": 5.016 * 320}
    )
    assert reading.counters == {"oc1": 0, "oc2": 0, "oc3": 0}
    assert reading.caps == {"cpufreq-cpu0": 0, "devfreq-17000000.gpu": 0}
    assert list(reading.flags) == []
    assert rails_of_the_whole(sorted(reading.power_mw)) == ("VDD_IN",)


def test_thor_tree(tmp_path):
    reading = SysfsSource(write_tree(tmp_path, THOR)).read()
    assert reading.clocks_hz == {
        "gpu": 1_574_000_000,
        "emc": 4_266_000_000,
        "cpu.policy0": 2_601_000_000,
    }
    assert reading.temperatures_c == {"tj": 55.1, "soc012": 55.1, "cpu": 53.7}
    assert reading.power_mw == pytest.approx(
        {
            "VDD_GPU": 12.04 * 640,
            "VDD_CPU_SOC_MSS": 12.04 * 960,
            "VIN_SYS_5V0": 5.088 * 1740,
            "VIN": 28906,  # the INA238 gives microwatts
        }
    )
    assert reading.counters == {"oc2": 0, "oc3": 1}  # oc1 does not throttle there
    assert reading.caps["devfreq-gpu-gpc-0"] == 18
    assert rails_of_the_whole(sorted(reading.power_mw)) == ("VIN",)


@pytest.mark.parametrize(
    ("file", "value", "flag"),
    [
        ("sys/class/thermal/cooling_device2/cur_state", "1", "gpu-throttle-alert"),
        (
            "sys/class/hwmon/hwmon1/curr1_crit_alarm",
            "1",
            "VDD_IN above its critical current",
        ),
    ],
)
def test_what_throttles_is_flagged(tmp_path, file, value, flag):
    source = SysfsSource(write_tree(tmp_path, ORIN_NANO))
    assert flag not in source.read().flags
    (tmp_path / file).write_text(value)
    assert list(source.read().flags) == [flag]


def test_a_fan_or_a_warm_surface_is_no_throttling(tmp_path):
    source = SysfsSource(write_tree(tmp_path, ORIN_NANO))
    for number in (0, 3):  # pwm-fan, hot-surface-alert
        (tmp_path / f"sys/class/thermal/cooling_device{number}/cur_state").write_text("1")
    assert list(source.read().flags) == []


def test_rails_that_make_up_the_whole():
    agx = ["NC", "VDDQ_VDD2_1V8AO", "VDD_CPU_CV", "VDD_GPU_SOC", "VIN_SYS_5V0"]
    assert rails_of_the_whole(agx) == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
    thor = ["VDD_CPU_SOC_MSS", "VDD_GPU", "VIN_SYS_5V0"]
    assert set(rails_of_the_whole(thor)) == set(thor)
    assert rails_of_the_whole(["A", "B"]) == ("A", "B")
    assert rails_of_the_whole([]) == ()


def test_tegrastats_of_an_orin_nano():
    reading = reading_from_line(NANO, 3.5)
    assert reading.time_s == 3.5
    assert reading.clocks_hz == {"gpu": 305e6, "emc": 2133e6, "cpu.highest": 729e6}
    assert reading.temperatures_c == {"cpu": 46.531, "soc2": 47.312, "gpu": 48.218, "tj": 48.843}
    assert reading.power_mw == {"VDD_IN": 5704, "VDD_CPU_GPU_CV": 831, "VDD_SOC": 1624}


def test_tegrastats_of_an_agx_orin():
    reading = reading_from_line(AGX, 0)
    assert reading.power_mw == {
        "VDD_GPU_SOC": 2399,
        "VDD_CPU_CV": 400,
        "VIN_SYS_5V0": 4032,
        "VDDQ_VDD2_1V8AO": 301,
    }
    assert reading.clocks_hz["gpu"] == 0
    assert reading.temperatures_c == {"cpu": 42.593, "tj": 42.593}


def test_tegrastats_of_jetpack_7():
    reading = reading_from_line(AGX_JETPACK7, 0)
    assert reading.power_mw == {"VDD_GPU_SOC": 3588, "VDD_CPU_CV": 797, "VIN_SYS_5V0": 5148}
    assert reading.temperatures_c == {"cpu": 51.343, "gpu": 46.843}
    assert "gpu" not in reading.clocks_hz  # "5%" alone is a load, not a clock
    thor = reading_from_line(THOR_LINE, 0)
    assert thor.power_mw["VIN"] == 124486
    assert thor.clocks_hz["gpu"] == 1574e6
    assert thor.clocks_hz["emc"] == 4266e6
    assert thor.temperatures_c == {"cpu": 58.25, "gpu": 56.937}


def test_a_line_that_is_none_says_nothing():
    assert reading_from_line("tegrastats: permission denied", 1.0) == Reading(time_s=1.0)


def test_tegrastats_as_a_process(tmp_path):
    """A program that prints such lines, as the real one does; it ends when it is closed."""
    program = tmp_path / "tegrastats"
    program.write_text(f'#!/bin/sh\necho $$ > {tmp_path}/pid\nwhile echo "{NANO}"; do sleep 0.05;'
                       " done\n")  # fmt: skip
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    source = TegrastatsSource(50, str(program))
    first = source.read()
    assert first.power_mw["VDD_IN"] == 5704
    time.sleep(0.3)
    assert source.read().time_s > first.time_s
    source.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_tegrastats_that_ended_says_nothing_any_more(tmp_path):
    program = tmp_path / "tegrastats"
    program.write_text(f'#!/bin/sh\necho "{NANO}"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    source = TegrastatsSource(50, str(program))
    time.sleep(0.6)
    assert source.read().power_mw == {}
    source.close()


def test_sysfs_comes_before_what_adds_to_it(tmp_path):
    board = SysfsSource(write_tree(tmp_path, ORIN_NANO)).read()
    added = merge(board, reading_from_line(THOR_LINE, 0))
    assert added.clocks_hz["gpu"] == board.clocks_hz["gpu"]
    assert added.power_mw["VIN"] == 124486
    assert added.time_s == board.time_s


def test_sources_of_a_tree(tmp_path):
    assert not has_sensors(tmp_path)
    assert source_here(tmp_path).name == ""
    write_tree(tmp_path, THOR)
    assert has_sensors(tmp_path)
    assert source_here(tmp_path).name == "sysfs"


NVML_STUB = """
/* The functions of nvml.h that are used, with its signatures and units. */
static unsigned long long reasons = %dULL;
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
  if (index != 0) return 2;                       /* NVML_ERROR_INVALID_ARGUMENT */
  *device = (void *)0xf00dcafe12345678UL;         /* a full pointer: it must not be cut to int */
  return 0;
}
static int known(void *device) { return device == (void *)0xf00dcafe12345678UL ? 0 : 2; }
int nvmlDeviceGetClockInfo(void *device, unsigned int type, unsigned int *mhz) {
  *mhz = type == 0 ? 1980 : type == 2 ? 2619 : 0;
  return known(device);
}
int nvmlDeviceGetTemperature(void *device, unsigned int sensor, unsigned int *celsius) {
  *celsius = 41 + sensor;
  return known(device);
}
int nvmlDeviceGetPowerUsage(void *device, unsigned int *milliwatts) {
  *milliwatts = 71234;
  return %s;
}
int nvmlDeviceGetCurrentClocks%sReasons(void *device, unsigned long long *mask) {
  *mask = reasons;
  return known(device);
}
"""


@pytest.fixture
def nvml(tmp_path):
    """Return a builder of a shared library with NVML's functions."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("NVML's stub library needs a C compiler")

    def build(reasons=0, power="known(device)", name="Event"):
        source, library = tmp_path / "nvml.c", tmp_path / f"libnvidia-ml-{reasons}-{name}.so.1"
        source.write_text(NVML_STUB % (reasons, power, name))
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
        return str(library)

    return build


def test_nvml(nvml):
    source = NvmlSource(library=nvml(reasons=0x1 | 0x2))  # idle, and clocks as asked: no throttling
    reading = source.read()
    assert reading.clocks_hz == {"gpu": 1_980_000_000, "memory": 2_619_000_000}
    assert reading.temperatures_c == {"gpu": 41.0}
    assert reading.power_mw == {"GPU_BOARD": 71234.0}
    assert list(reading.flags) == []
    source.close()


@pytest.mark.parametrize("name", ["Event", "Throttle"])
def test_nvml_tells_why_clocks_are_lower(nvml, name):
    reading = NvmlSource(library=nvml(reasons=0x1 | 0x4 | 0x40, name=name)).read()
    assert list(reading.flags) == [
        "gpu clocks lowered: power cap",
        "gpu clocks lowered: temperature (hardware)",
    ]


def test_nvml_without_power_leaves_it_out(nvml):
    reading = NvmlSource(library=nvml(power="3")).read()  # NVML_ERROR_NOT_SUPPORTED
    assert reading.power_mw == {}
    assert reading.clocks_hz["gpu"] == 1_980_000_000


def test_nvml_that_can_not_be_used(nvml):
    with pytest.raises(OSError, match="libnothing"):
        NvmlSource(library="libnothing.so.1")
    with pytest.raises(OSError, match="HandleByIndex_v2 failed with status 2"):
        NvmlSource(index=3, library=nvml())
    assert ctypes.sizeof(ctypes.c_void_p) == 8


def test_sources_are_closed():
    class Counted:
        name = "counted"
        closed = 0

        def read(self):
            return Reading(time_s=0.0)

        def close(self):
            self.closed += 1

    inner = [Counted(), Counted()]
    CombinedSource(inner).close()
    assert [one.closed for one in inner] == [1, 1]
