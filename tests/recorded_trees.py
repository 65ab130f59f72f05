"""Boards as files: what an Orin Nano (JetPack 6.2) and an AGX Thor (JetPack 7) have in /sys etc.

No board stood here. Each tree is put together from what owners of such boards published; a value
is as published where one was, and otherwise plausible and marked "filled in".

Orin Nano Developer Kit Super, Jetson Linux 36.4.3 (JetPack 6.2):
- paths, labels and channels of hwmon1 (ina3221: VDD_IN, VDD_CPU_GPU_CV, VDD_SOC, in7 "sum of shunt
  voltages"), of hwmon3 (soctherm_oc: oc1-oc3, all enabled), zones that answer EAGAIN (cv0-cv2),
  clocks after jetson_clocks (GPU 1020 MHz, CPU 1728 MHz, two policies), versions of TensorRT, CUDA,
  numpy, Python, kernel, MemTotal: an acceptance report of such a kit on 36.5 in a public
  repository (found by its text "soctherm_oc ... hwmon3"), July 2026;
- 5.016 V, 4984 mA as critical current of VDD_IN: a public field report of the same kit;
- power modes 0 15W, 1 25W, 2 MAXN_SUPER, 3 7W and "pmode:0002 fmode:fan_mode_quiet": the
  installer's and monitors' tests of several public repositories that quote /etc/nvpmodel.conf;
- the counters' names and meaning: NVIDIA's driver tegra234-oc-event.c (in6 is filled in).

AGX Thor Developer Kit, Jetson Linux 38.4 (JetPack 7.1):
- nv_tegra_release's form, model, compatible: rbonghi/jetson_stats issue 711 (38.2, the numbers of
  38.4 from issue 820, which also has the mode "120W" as number 1 and TensorRT 10.13.3.9);
- gpu-gpc-0, gpu-nvd-0 and bwmgr below class/devfreq: issue 885 and pull request 825 there;
- VIN by an INA238, power in microwatts: pull request 900 there;
- rails and their voltages, zones, gpu-thermal that answers EAGAIN when idle, cooling devices and
  their steps: swsususu/ThorFAN, README and tests, measured on 38.4;
- 2601 MHz, oc2 and oc3 enabled and oc3 counted once at boot: NVIDIA forum, topic 361188.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

_MONITOR, _EVENTS, _ZONES = "sys/class/hwmon/hwmon1", "sys/class/hwmon/hwmon3", "sys/class/thermal"
_CPU = "sys/devices/system/cpu/cpufreq"
_PACKAGE = "Package: {}\nStatus: install ok installed\nVersion: {}\n"


def _packages(**versions: str) -> str:
    return "\n".join(
        _PACKAGE.format(name.replace("_", "-"), version) for name, version in versions.items()
    )


def _listed(folder: str, name: str, values: dict[str, str], second: str) -> dict[str, str]:
    """Return numbered folders with a type and a value, as class/thermal has them."""
    files = {}
    for number, (kind, value) in enumerate(values.items()):
        files[f"{folder}/{name}{number}/type"] = kind
        files[f"{folder}/{name}{number}/{second}"] = value
    return files


ORIN_NANO = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, "
    "EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot",
    "etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nNAME="Ubuntu"\n',
    "etc/nvpmodel.conf": "< PARAM TYPE=FILE NAME=CPU_ONLINE >\n< POWER_MODEL ID=0 NAME=15W >\n"
    "CPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=25W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"
    "< POWER_MODEL ID=3 NAME=7W >\n< PM_CONFIG DEFAULT=1 >\n",
    "var/lib/nvpmodel/status": "pmode:0002 fmode:fan_mode_quiet",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0"
    "nvidia,p3767-0005\0nvidia,tegra234\0",
    "proc/sys/kernel/osrelease": "5.15.148-tegra",
    "proc/meminfo": "MemTotal:        7789952 kB\nMemFree:         1000000 kB\n"
    "MemAvailable:    6214400 kB\nSwapFree:        3894968 kB\n",
    "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}}',
    "var/lib/dpkg/status": "Package: libnvinfer8\nStatus: deinstall ok config-files\n"
    "Version: 8.6.2.3-1+cuda12.2\n\n"
    + _packages(
        nvidia_jetpack="6.2+b77",
        nvidia_l4t_core="36.4.3-20250107174145",
        libnvinfer10="10.3.0.30-1+cuda12.5",
        libnvinfer_bin="10.3.0.30-1+cuda12.5",
    ),
    "usr/lib/python3/dist-packages/numpy-1.21.5.egg-info": "Metadata-Version: 1.2\nName: numpy\n"
    "Version: 1.21.5\n",
    "usr/lib/python3.10/dist-packages/tensorrt-10.3.0.dist-info/METADATA": "Metadata-Version: 2.1\n"
    "Name: tensorrt\nVersion: 10.3.0\n",
    "sys/class/hwmon/hwmon0/name": "pwmfan",
    f"{_MONITOR}/name": "ina3221",
    f"{_MONITOR}/in1_label": "VDD_IN",
    f"{_MONITOR}/in1_input": "5016",
    f"{_MONITOR}/curr1_input": "1520",
    f"{_MONITOR}/curr1_crit": "4984",
    f"{_MONITOR}/curr1_crit_alarm": "0",
    f"{_MONITOR}/in2_label": "VDD_CPU_GPU_CV",
    f"{_MONITOR}/in2_input": "5016",
    f"{_MONITOR}/curr2_input": "160",
    f"{_MONITOR}/curr2_crit_alarm": "0",
    f"{_MONITOR}/in3_label": "VDD_SOC",
    f"{_MONITOR}/in3_input": "5016",
    f"{_MONITOR}/curr3_input": "320",
    f"{_MONITOR}/curr3_crit_alarm": "0",
    f"{_MONITOR}/in6_input": "640",
    f"{_MONITOR}/in7_label": "sum of shunt voltages",
    f"{_MONITOR}/in7_input": "3200",
    f"{_MONITOR}/curr4_crit_alarm": "0",
    f"{_EVENTS}/name": "soctherm_oc",
    **{f"{_EVENTS}/oc{number}_event_cnt": "0" for number in (1, 2, 3)},
    **{f"{_EVENTS}/oc{number}_throt_en": "1" for number in (1, 2, 3)},
    "sys/class/devfreq/17000000.gpu/cur_freq": "1020000000",
    "sys/class/devfreq/17000000.gpu/min_freq": "1020000000",
    "sys/class/devfreq/17000000.gpu/max_freq": "1020000000",
    f"{_CPU}/policy0/scaling_cur_freq": "1728000",
    f"{_CPU}/policy4/scaling_cur_freq": "1728000",
    **_listed(
        _ZONES,
        "thermal_zone",
        {
            "cpu-thermal": "46531",
            "gpu-thermal": "48218",
            "cv0-thermal": "EAGAIN",
            "cv1-thermal": "-256000",
            "soc0-thermal": "46593",
            "tj-thermal": "48843",
        },
        "temp",
    ),
    **_listed(
        _ZONES,
        "cooling_device",
        {
            "pwm-fan": "2",
            "cpu-throttle-alert": "0",
            "gpu-throttle-alert": "0",
            "hot-surface-alert": "0",
            "cpufreq-cpu0": "0",
            "devfreq-17000000.gpu": "0",
        },
        "cur_state",
    ),
}

THOR = {
    "etc/nv_tegra_release": "# R38 (release), REVISION: 4.0, GCID: 43443517, BOARD: generic, "
    "EABI: aarch64, DATE: Wed Dec 31 00:55:42 UTC 2025",
    "etc/os-release": 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\n',
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >\n",
    "commands/nvpmodel -q": "NV Power Mode: 120W\n1\n",
    "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p4071-0000+p3834-0008\0nvidia,p3834-0008\0"
    "nvidia,tegra264\0",
    "proc/sys/kernel/osrelease": "6.8.12-tegra",
    "proc/meminfo": "MemTotal:       128767488 kB\nMemAvailable:   120000000 kB\n"
    "SwapFree:              0 kB\n",
    "commands/nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total "
    "--format=csv,noheader,nounits": "NVIDIA Thor, 11.0, 580.00, [N/A]\n",
    "var/lib/dpkg/status": _packages(
        cuda_cudart_13_0="13.0.48-1", libnvinfer10="10.13.3.9-1+cuda13.0"
    ),
    "sys/class/hwmon/hwmon4/name": "ina3221",
    "sys/class/hwmon/hwmon4/in1_label": "VDD_GPU",
    "sys/class/hwmon/hwmon4/in1_input": "12040",
    "sys/class/hwmon/hwmon4/curr1_input": "640",
    "sys/class/hwmon/hwmon4/in2_label": "VDD_CPU_SOC_MSS",
    "sys/class/hwmon/hwmon4/in2_input": "12040",
    "sys/class/hwmon/hwmon4/curr2_input": "960",
    "sys/class/hwmon/hwmon4/in3_label": "VIN_SYS_5V0",
    "sys/class/hwmon/hwmon4/in3_input": "5088",
    "sys/class/hwmon/hwmon4/curr3_input": "1740",
    "sys/class/hwmon/hwmon4/in4_input": "1240",
    "sys/class/hwmon/hwmon4/curr4_input": "1600",
    "sys/class/hwmon/hwmon4/in7_label": "sum of shunt voltages",
    "sys/class/hwmon/hwmon4/in7_input": "3200",
    "sys/class/hwmon/hwmon5/name": "ina238",
    "sys/class/hwmon/hwmon5/label": "VIN",
    "sys/class/hwmon/hwmon5/power1_input": "28906000",
    "sys/class/hwmon/hwmon2/oc2_event_cnt": "0",
    "sys/class/hwmon/hwmon2/oc2_throt_en": "1",
    "sys/class/hwmon/hwmon2/oc1_event_cnt": "7",
    "sys/class/hwmon/hwmon2/oc1_throt_en": "0",
    "sys/class/hwmon/hwmon2/oc3_event_cnt": "1",
    "sys/class/hwmon/hwmon2/oc3_throt_en": "1",
    "sys/class/devfreq/gpu-gpc-0/cur_freq": "1574000000",
    "sys/class/devfreq/gpu-gpc-0/min_freq": "315000000",
    "sys/class/devfreq/gpu-gpc-0/max_freq": "1575000000",
    "sys/class/devfreq/gpu-nvd-0/cur_freq": "1691000000",
    "sys/class/devfreq/bwmgr/cur_freq": "4266000000",
    f"{_CPU}/policy0/scaling_cur_freq": "2601000",
    **_listed(
        _ZONES,
        "thermal_zone",
        {
            "tj-thermal": "55100",
            "soc012-thermal": "55100",
            "cpu-thermal": "53700",
            "gpu-thermal": "EAGAIN",
        },
        "temp",
    ),
    **_listed(
        _ZONES,
        "cooling_device",
        {
            "cpufreq-cpu0": "0",
            "pwm-fan": "0",
            "gpu-throttle-alert": "0",
            "devfreq-gpu-gpc-0": "18",
        },
        "cur_state",
    ),
}


def write_tree(root: Path, files: dict[str, str]) -> Path:
    """Write a tree below `root`; a value "EAGAIN" becomes a file that can't be read.

    A folder in place of the file fails to be read for everybody, root too, as EAGAIN does.
    """
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text == "EAGAIN":
            path.mkdir()
        else:
            path.write_text(text, encoding="utf-8")
    return root


def python_of_a_board() -> str:
    """Return Python 3.8 where there is one (or EDGEVIT_PYTHON38), else the one that runs this."""
    for candidate in (os.environ.get("EDGEVIT_PYTHON38", ""), "python3.8", sys.executable):
        path = shutil.which(candidate) if candidate else None
        if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            return path
    raise AssertionError("no Python that works")
