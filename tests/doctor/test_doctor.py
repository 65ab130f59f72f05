"""The doctor's judgement of recorded boards with one fault at a time, and the verb itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from broken_packages import BROKEN, package
from click.testing import CliRunner
from recorded_trees import ORIN_NANO, THOR, write_tree

from edgevit.cli import main
from edgevit.deploy.facts import facts_from_output
from edgevit.doctor.board import board_findings, findings_of
from edgevit.doctor.finding import missing_finding, ok, report, warning_finding
from edgevit.doctor.importing import import_problems
from edgevit.doctor.workstation import workstation_findings
from edgevit.errors import DeviceError, EnvironmentError_, UsageError
from edgevit.runner.board.facts import board_facts
from edgevit.runner.engines import all_engines, engine_named
from edgevit.verbs.doctor import check_nothing_missing, examine

ROOT = Path(__file__).parents[2]


def facts_of(tmp_path, tree=ORIN_NANO, **changed):
    """Facts of a recorded tree; `changed` are whole branches, {} within one is merged."""
    facts = board_facts(write_tree(tmp_path / "tree", tree))
    facts["python"]["cuda"] = "12.9.2"
    facts["disk_bytes"] = {"path": "/home/user", "total": 200 << 30, "free": 100 << 30}
    for key, value in changed.items():
        facts[key] = {**facts[key], **value} if isinstance(value, dict) else value
    return facts


def found(facts, name, target=None):
    (one,) = [finding for finding in board_findings(facts, target) if finding.name == name]
    return one


def test_a_good_board_has_nothing_to_mend(tmp_path):
    findings = board_findings(facts_of(tmp_path))
    assert {finding.status for finding in findings} == {"ok"}, findings
    assert {finding.mend for finding in findings} == {""}
    assert found(facts_of(tmp_path / "2"), "device").found.endswith("target jetson-orin-nano")
    assert [finding.name for finding in findings] == [
        "device",
        "JetPack",
        "TensorRT",
        "TensorRT's Python module",
        "CUDA for Python",
        "Python",
        "numpy",
        "memory",
        "disk",
        "power mode",
        "clocks",
        "power sensors",
    ]


PLAIN_ARM = {
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
    "proc/meminfo": "MemTotal: 8245840 kB\nMemAvailable: 7245840 kB\nSwapFree: 0 kB\n",
}
NO_TENSORRT = {"tensorrt": {"version": None}, "python": {"tensorrt": None}}


@pytest.mark.parametrize(
    ("changed", "name", "status", "mend"),
    [
        ({"l4t": "35.4.1"}, "JetPack", "missing", "SDK Manager"),
        ({"l4t": "36.3.0"}, "JetPack", "missing", "r36.4"),
        ({"l4t": None}, "JetPack", "warning", "nv_tegra_release"),
        (NO_TENSORRT, "TensorRT", "missing", "apt install tensorrt"),
        (NO_TENSORRT, "TensorRT's Python module", "missing", "python3-libnvinfer"),
        ({"python": {"tensorrt": None}}, "TensorRT's Python module", "missing", "libnvinfer"),
        (
            {"python": {"problems": {"tensorrt": "ImportError: libnvinfer.so.10"}}},
            "TensorRT's Python module",
            "missing",
            "apt install --reinstall python3-libnvinfer",
        ),
        ({"tensorrt": {"version": "8.6.2.3"}}, "TensorRT", "missing", "apt install tensorrt"),
        (
            {"python": {"cuda": None}, "cuda": None},
            "CUDA for Python",
            "missing",
            "'cuda-python>=12.6,<13'",
        ),
        (
            {
                "python": {"cuda": None},
                "cuda": None,
                "gpu": {"driver": "580.65.06"},
            },
            "CUDA for Python",
            "missing",
            "'cuda-python>=13,<14'",
        ),
        ({"python": {"version": "3.6.9"}}, "Python", "missing", "apt install python3"),
        ({"python": {"numpy": None}}, "numpy", "missing", "apt install python3-numpy"),
        ({"memory_bytes": {"available": 1 << 30}}, "memory", "warning", "swapon"),
        (
            {"memory_bytes": {"available": 1 << 30}, "system": {"desktop": True}},
            "memory",
            "warning",
            "systemctl isolate multi-user.target",
        ),
        ({"disk_bytes": {"free": 1 << 20}}, "disk", "missing", "apt clean"),
        ({"disk_bytes": {"free": 2 << 30}}, "disk", "warning", "apt clean"),
        ({"power_mode": {"id": "0", "name": "15W"}}, "power mode", "warning", "nvpmodel -m 2"),
        ({"gpu": {"clocks_locked": False}}, "clocks", "warning", "sudo jetson_clocks"),
        ({"rails": []}, "power sensors", "warning", "hwmon"),
    ],
)
def test_one_fault_at_a_time(tmp_path, changed, name, status, mend):
    facts = facts_of(tmp_path, **changed)
    finding = found(facts, name)
    assert finding.status == status
    assert mend in finding.mend
    related = {name}
    if "tensorrt" in changed:
        related |= {"TensorRT", "TensorRT's Python module"}
    others = [one for one in board_findings(facts) if one.name not in related]
    assert {one.status for one in others} == {"ok"}


def test_the_cuda_runtime_alone_is_enough(tmp_path):
    """The runner calls libcudart by ctypes where there is no package: no pip on a board."""
    one = found(facts_of(tmp_path, python={"cuda": None}), "CUDA for Python")
    assert (one.status, one.mend) == ("ok", "")
    assert one.found.startswith("ctypes, with the CUDA runtime 12.6")


def test_torch_is_used_for_cuda_only_where_it_is_named(tmp_path):
    facts = facts_of(tmp_path, python={"cuda": None, "torch": "2.4.0"}, cuda=None)
    one = found(facts, "CUDA for Python")
    assert (one.status, one.mend) == ("warning", "export EDGEVIT_CUDA=torch")


def test_a_plain_board_needs_onnxruntime_only(tmp_path):
    facts = board_facts(write_tree(tmp_path, PLAIN_ARM))
    for target in (None, "cpu"):
        by_name = {one.name: one for one in board_findings(facts, target)}
        assert list(by_name) == ["device", "onnxruntime", "Python", "numpy", "memory", "disk"]
        assert "Raspberry Pi 5" in by_name["device"].found
        assert by_name["onnxruntime"].status == "missing"
        assert by_name["onnxruntime"].mend.endswith("-m pip install onnxruntime")
    facts["python"].update(onnxruntime="1.20.1", numpy="1.26.4")
    assert {one.status for one in board_findings(facts, "cpu")[:4]} == {"ok"}


def test_thor_as_recorded(tmp_path):
    facts = facts_of(tmp_path, THOR)
    by_name = {finding.name: finding for finding in board_findings(facts)}
    assert by_name["JetPack"].found == "JetPack 7.1, Jetson Linux 38.4.0"
    assert by_name["power mode"].mend == "sudo nvpmodel -m 0"  # MAXN is number 0 there
    assert by_name["clocks"].status == "warning"
    assert by_name["numpy"].status == "missing"
    assert by_name["power sensors"].found.endswith("VIN")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("jetson-orin-nano", "ok"),
        ("tensorrt", "ok"),
        ("tensorrt-ampere", "ok"),
        ("jetson-agx-orin", "missing"),
        ("jetson-thor", "missing"),
        ("tensorrt-ada", "missing"),  # 8.9: the Orin's 8.7 has no FP8
    ],
)
def test_the_target_has_to_fit_the_board(tmp_path, target, status):
    finding = found(facts_of(tmp_path), "device", target)
    assert finding.status == status
    if status == "missing":
        assert finding.mend == "quantize with --target jetson-orin-nano"


def test_a_board_that_is_none(tmp_path):
    facts = board_facts(tmp_path)
    assert found(facts, "device", "tensorrt").status == "missing"
    assert {finding.name for finding in board_findings(facts)}.isdisjoint({"JetPack", "clocks"})


def test_this_machine_can_quantize():
    facts = board_facts()
    findings = {finding.name: finding for finding in workstation_findings(facts)}
    for name in ("Python", "torch", "timm", "onnxruntime"):
        assert findings[name].status == "ok"
    assert "JetPack" not in findings


def test_running_engines_here_is_never_needed_to_quantize(tmp_path):
    """A target without its GPU is a warning: engines are built on the board."""
    facts = {**board_facts(tmp_path), "memory_bytes": {"available": 8 << 30, "total": 16 << 30}}
    findings = {f.name: f for f in workstation_findings(facts, "jetson-orin-nano")}
    assert findings["TensorRT"].status == findings["device"].status == "warning"
    assert "to run engines here" in findings["TensorRT"].found
    assert "--device" in findings["device"].mend
    assert "TensorRT" not in {f.name for f in workstation_findings(facts, "cpu")}


def with_packages(tmp_path, *command):
    """Run this Python with packages of a folder before its own."""
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_onnxruntime_here(tmp_path, broken):
    source, words = BROKEN[broken]
    package(tmp_path, "onnxruntime", source)
    done = with_packages(tmp_path, "-m", "edgevit.runner.board.facts")
    (finding,) = findings_of(engine_named("onnxruntime"), json.loads(done.stdout))
    assert finding.status == "missing"
    assert words in finding.found
    assert finding.mend.endswith("-m pip install --force-reinstall onnxruntime")


@pytest.mark.parametrize("broken", ["raises", "stub"])
def test_quantizing_with_a_broken_onnxruntime(tmp_path, broken):
    """Said in one sentence, before the work."""
    source, words = BROKEN[broken]
    package(tmp_path / "path", "onnxruntime", source)
    out = ["--method", "minmax", "-o", str(tmp_path / "out")]
    from edgevit.zoo import reference_images

    out += ["--calib", str(reference_images("calibration")), "--model", "vit_cifar10"]
    done = with_packages(tmp_path / "path", "-m", "edgevit.cli", "quantize", *out)
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("error EV838: "), done.stderr
    assert words.replace("has no __version__", "has no InferenceSession") in done.stderr


def test_the_verb_with_a_broken_onnxruntime(tmp_path):
    source, words = BROKEN["raises"]
    package(tmp_path, "onnxruntime", source)
    done = with_packages(tmp_path, "-m", "edgevit.cli", "doctor")
    assert done.returncode == 3, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("missing")]
    assert line.split()[1] == "onnxruntime"
    assert words in line
    assert "-m pip install --force-reinstall onnxruntime" in done.stderr


def test_other_packages_are_really_imported(tmp_path, monkeypatch):
    """One raises, one crashes; the others are tried all the same."""
    package(tmp_path, "timm", "raise RuntimeError('operator torchvision::nms does not exist')")
    package(tmp_path, "safetensors", "import os\nos.abort()")
    (tmp_path / "msgspec").mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    problems = import_problems(("onnx", "timm", "safetensors", "msgspec", "pillow"))
    assert "torchvision::nms does not exist" in problems["timm"]
    assert "ends Python with status -6" in problems["safetensors"]
    assert problems["onnx"] == problems["pillow"] == problems["msgspec"] == ""


def test_the_verb_here(tmp_path):
    result = CliRunner().invoke(main, ["doctor", "--json", str(tmp_path / "report.json")])
    assert result.exit_code == 0, result.output
    assert "this machine: " in result.output
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["counts"]["missing"] == 0
    assert written["facts"]["memory_bytes"]["total"] > 1 << 28
    assert {"name", "status", "found", "mend"} == set(written["checks"][0])


def test_wrong_targets_are_refused_before_anything_is_asked():
    unknown, nowhere = ["jetson-orin-nanoo"], ["simulation", "--device", "x@y"]
    for arguments, code in ((unknown, "EV340"), (nowhere, "EV837")):
        result = CliRunner().invoke(main, ["doctor", "--target", *arguments])
        assert result.exit_code == 2, result.output
        assert code in result.output
    assert examine(target="CPU")["target"] == "cpu"


def test_something_missing_is_exit_status_3_after_the_list(tmp_path, monkeypatch):
    facts = facts_of(tmp_path, **NO_TENSORRT)
    monkeypatch.setattr("edgevit.runner.board.facts.board_facts", lambda **_: facts)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 3
    assert "EV783" in result.output
    lines = result.output.splitlines()
    (index,) = [i for i, line in enumerate(lines) if line.startswith("missing  TensorRT  ")]
    # the command is on one line, whole, however narrow the terminal is
    assert lines[index + 1].strip() == "$ sudo apt update && sudo apt install tensorrt"


def test_a_command_that_mends_two_things_is_shown_once():
    from rich.console import Console

    from edgevit.report.doctor import doctor_list

    mend = "python3 -m pip install tensorrt"
    findings = [missing_finding("TensorRT", "no", mend), missing_finding("its module", "no", mend)]
    console = Console(width=200)
    with console.capture() as capture:
        console.print(
            doctor_list(report([*findings, missing_finding("numpy", "no", "x")], device=None))
        )
    said = capture.get()
    assert said.count(mend) == 1
    assert "as for TensorRT" in said
    assert "$ x" in said


def test_reports_and_their_gate():
    good = report([ok("a", "1"), warning_finding("b", "2", "x")], device=None)
    assert good["counts"] == {"ok": 1, "warning": 1, "missing": 0}
    check_nothing_missing(good)
    bad = report([ok("a", "1"), missing_finding("b", "2", "x")], device="me@board")
    with pytest.raises(EnvironmentError_, match="EV783") as raised:
        check_nothing_missing(bad)
    assert "me@board" in str(raised.value)
    assert "Missing: b." in str(raised.value)


def test_facts_among_a_login_scripts_greeting(tmp_path):
    modules = [engine.module for engine in all_engines().values()]  # as a board is asked
    line = json.dumps(board_facts(tmp_path, modules=modules))
    facts = facts_from_output(f"Welcome!\n{line}\n", "board")
    assert facts["kind"] == "computer"
    for output in ("", "Welcome!\n[1]\n{}\n"):
        with pytest.raises(DeviceError, match="EV782"):
            facts_from_output(output, "board")


def test_a_target_that_does_not_exist(tmp_path):
    with pytest.raises(UsageError, match="EV340"):
        board_findings(facts_of(tmp_path), "jetson-nano")


def test_the_doctor_is_quick_and_needs_no_torch():
    code = (
        "import sys\n"
        "from edgevit.verbs.doctor import examine\n"
        "examine()\n"
        "print(sorted({'torch', 'timm', 'onnx', 'onnxruntime'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
