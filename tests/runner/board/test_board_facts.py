"""What the board script says of recorded boards and of this machine, also on Python 3.8."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from recorded_trees import ORIN_NANO, THOR, python_of_a_board, write_tree

from edgevit.doctor.board import board_findings
from edgevit.runner.board import facts as module
from edgevit.runner.board.facts import board_facts
from edgevit.targets.tensorrt.profiles import PROFILES, version_key

SCRIPT = Path(module.__file__)


@pytest.fixture
def orin(tmp_path):
    return write_tree(tmp_path / "orin", ORIN_NANO)


@pytest.fixture
def thor(tmp_path):
    return write_tree(tmp_path / "thor", THOR)


def test_orin_nano(orin):
    facts = board_facts(orin)
    assert facts["kind"] == "jetson"
    assert facts["model"] == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (facts["module"], facts["soc"]) == ("p3767-0005", "tegra234")
    assert facts["target"] == "jetson-orin-nano"
    assert (facts["l4t"], facts["jetpack"]) == ("36.4.3", "6.2")
    assert facts["system"]["name"] == "Ubuntu 22.04.5 LTS"
    assert facts["system"]["kernel"] == "5.15.148-tegra"
    assert facts["tensorrt"] == {"version": "10.3.0.30"}  # not the removed 8.6.2
    assert facts["cuda"] == "12.6.11"
    assert (facts["python"]["numpy"], facts["python"]["tensorrt"]) == ("1.21.5", "10.3.0")
    assert facts["python"]["torch"] is None
    assert facts["gpu"]["compute_capability"] == "8.7"
    assert facts["gpu"]["clock_hz"] == dict.fromkeys(("min", "max", "cur"), 1_020_000_000)
    assert facts["gpu"]["clocks_locked"] is True
    assert facts["memory_bytes"]["total"] == 7_976_910_848
    assert facts["power_mode"] == {
        "id": "2",
        "name": "MAXN_SUPER",
        "modes": {"0": "15W", "1": "25W", "2": "MAXN_SUPER", "3": "7W"},
    }
    assert facts["rails"] == ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]


def test_thor(thor):
    facts = board_facts(thor)
    assert (facts["soc"], facts["target"], facts["l4t"]) == ("tegra264", "jetson-thor", "38.4.0")
    assert facts["jetpack"] == "7.1"  # no package nvidia-jetpack: by the Jetson Linux release
    assert facts["tensorrt"] == {"version": "10.13.3.9"}
    assert facts["cuda"] == "13.0"
    assert facts["gpu"]["name"] == "NVIDIA Thor"
    assert facts["gpu"]["compute_capability"] == "11.0"
    assert facts["gpu"]["memory_bytes"] is None  # shared with the processor
    assert facts["gpu"]["clocks_locked"] is False
    assert (facts["power_mode"]["id"], facts["power_mode"]["name"]) == ("1", "120W")
    assert facts["rails"] == ["VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0", "VIN"]


@pytest.mark.parametrize(
    ("module_number", "target"),
    [
        ("p3767-0000", "jetson-orin-nx"),
        ("p3767-0004", "jetson-orin-nano"),
        ("p3701-0005", "jetson-agx-orin"),
        ("p3668-0001", None),  # Xavier NX
    ],
)
def test_targets_of_modules(orin, module_number, target):
    compatible = f"nvidia,p9999-0000+{module_number}\0nvidia,{module_number}\0nvidia,tegra234\0"
    (orin / "proc/device-tree/compatible").write_text(compatible)
    assert board_facts(orin)["target"] == target


@pytest.mark.parametrize(
    ("release", "jetpack"),
    [("36.4.7", "6.2.1"), ("36.4.0", "6.1"), ("36.3.0", "6.0"), ("35.4.1", "5.1"), ("99.1", None)],
)
def test_jetpack_by_release(thor, release, jetpack):
    major, revision = release.split(".", 1)
    line = f"# R{major} (release), REVISION: {revision}, GCID: 1, BOARD: generic"
    (thor / "etc/nv_tegra_release").write_text(line)
    facts = board_facts(thor)
    assert (facts["l4t"], facts["jetpack"]) == (release, jetpack)


def test_a_computer_with_a_gpu(tmp_path):
    query = "nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total"
    smi = {f"commands/{query} --format=csv,noheader,nounits": "NVIDIA L4, 8.9, 580.82, 23034\n"}
    facts = board_facts(write_tree(tmp_path, smi))
    assert (facts["kind"], facts["target"]) == ("computer", "tensorrt-ada")
    assert facts["gpu"]["memory_bytes"] == 23034 << 20
    assert facts["power_mode"] is None


def test_what_can_not_be_read_is_null(orin):
    for path in orin.glob("sys/class/devfreq/*/cur_freq"):
        path.write_text("\n")
    assert board_facts(orin)["gpu"]["clock_hz"]["cur"] is None


def test_a_capability_the_driver_does_not_know(tmp_path):
    query = "nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total"
    line = "GRID T4, [N/A], 550.54, [N/A]\n"
    facts = board_facts(
        write_tree(tmp_path, {f"commands/{query} --format=csv,noheader,nounits": line})
    )
    assert facts["gpu"]["name"] == "GRID T4"
    assert facts["gpu"]["compute_capability"] is None
    assert board_findings(facts)[0].status == "missing"


def test_an_empty_tree_is_null_not_an_error(tmp_path):
    facts = board_facts(tmp_path)
    assert facts["kind"] == "computer"
    unknown = ("model", "module", "soc", "target", "l4t", "jetpack", "cuda", "power_mode")
    assert [facts[key] for key in unknown] == [None] * len(unknown)
    assert facts["tensorrt"] == {"version": None}
    assert facts["memory_bytes"] == {"total": None, "available": None, "swap_free": None}


def test_a_desktop_is_seen(orin):
    assert board_facts(orin)["system"]["desktop"] is False
    units = orin / "etc/systemd/system"
    units.mkdir(parents=True)
    (units / "display-manager.service").symlink_to("/lib/systemd/system/gdm3.service")
    assert board_facts(orin)["system"]["desktop"] is True
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    assert board_facts(orin)["system"]["desktop"] is False


def test_disk_of_a_folder_that_does_not_exist_yet(tmp_path):
    facts = board_facts("/", disk=str(tmp_path / "a" / "b"))
    usage = shutil.disk_usage(tmp_path)
    assert facts["disk_bytes"]["total"] == usage.total
    assert abs(facts["disk_bytes"]["free"] - usage.free) < 1 << 30


def test_the_script_runs_alone_from_standard_input(orin):
    """As over SSH: isolated, without EdgeViT on its path; this machine and a recorded one."""
    command = [python_of_a_board(), "-I", "-"]
    for arguments in (["--root", str(orin)], []):
        done = subprocess.run(
            [*command, *arguments], input=SCRIPT.read_bytes(), capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr.decode()
        (line,) = done.stdout.decode().splitlines()
        facts = json.loads(line)
        assert facts["schema_version"] == 1
        assert set(facts) == set(board_facts(orin))
    assert facts["memory_bytes"]["total"] > 1 << 28
    assert facts["system"]["machine"] == os.uname().machine


def test_every_device_that_is_recognised_is_a_target_and_every_jetson_is():
    """The script runs alone on the board and can't read the targets' table: it has own names."""
    found = {name for _, name in module._TARGETS} | set(module._DESKTOP_TARGETS.values())
    assert found <= set(PROFILES)
    assert found >= {name for name, profile in PROFILES.items() if profile.is_jetson}
    for capability, name in module._DESKTOP_TARGETS.items():
        assert version_key(capability) >= version_key(PROFILES[name].compute_capability)
    for profile in PROFILES.values():
        if profile.is_jetson:
            assert module._COMPUTE_CAPABILITY[profile.soc] == profile.compute_capability
