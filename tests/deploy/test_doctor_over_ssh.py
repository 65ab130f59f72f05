"""`edgevit doctor --device` over a real OpenSSH server on this machine."""

import json
import os
import shutil
import stat

import pytest
from broken_packages import BROKEN, package
from click.testing import CliRunner
from sshd import SSHD, Board

from edgevit.cli import main
from edgevit.errors import EnvironmentError_
from edgevit.verbs.deploy import deploy

pytestmark = pytest.mark.skipif(SSHD is None, reason="needs an OpenSSH server: apt install it")


@pytest.fixture
def board(tmp_path, monkeypatch):
    found = Board(tmp_path / "board", path=os.environ["PATH"])
    found.start()
    monkeypatch.setenv("EDGEVIT_SSH", found.client)
    yield found
    found.stop()


def doctor(*arguments):
    return CliRunner().invoke(main, ["doctor", "--device", "board", *map(str, arguments)])


@pytest.mark.parametrize("target", [(), ("--target", "cpu")])
def test_a_computer_without_a_gpu_runs_cpu_bundles(make_board, board_path, tmp_path, target):
    """This machine stands in for the board: its facts come over SSH, nothing is written there."""
    board = make_board(board_path)
    result = doctor("--json", tmp_path / "report.json", *target)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["device"] == "board"
    assert report["facts"]["memory_bytes"]["total"] == (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )
    if target or report["facts"]["gpu"]["name"] is None:
        statuses = {check["name"]: check["status"] for check in report["checks"]}
        assert statuses["onnxruntime"] == statuses["device"] == "ok"
        assert result.exit_code == 0, result.output
    assert board.left() == []


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_onnxruntime_on_a_board(make_board, board_path, bundle, few, tmp_path, broken):
    """The board's Python finds a broken package first, as a Jetson's with a wrong wheel does."""
    package(tmp_path / "packages", "onnxruntime", BROKEN[broken][0])
    python = tmp_path / "python3"
    line = f'PYTHONPATH={tmp_path / "packages"} exec {board_path.partition(":")[0]}/python3 "$@"'
    python.write_text(f"#!/bin/sh\n{line}\n")
    python.chmod(0o755)
    make_board("/usr/bin:/bin")
    result = doctor("--target", "cpu", "--python", python)
    assert result.exit_code == 3
    assert "Missing: onnxruntime." in result.output
    assert BROKEN[broken][1] in result.output
    assert "pip install --force-reinstall onnxruntime" in result.output
    with pytest.raises(EnvironmentError_, match="EV840") as caught:
        deploy(bundle, few, device="board", python=str(python))
    assert BROKEN[broken][1] in caught.value.why


def test_a_python_that_is_a_recorded_orin(board, tmp_path):
    """The board's python3 adds --root to what it is asked: its answer is that of an Orin Nano."""
    from recorded_trees import ORIN_NANO, write_tree

    tree = write_tree(tmp_path / "orin", ORIN_NANO)
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nexec {shutil.which("python3")} "$@" --root {tree}\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    report_path = tmp_path / "report.json"
    result = doctor("--python", python, "--json", report_path, "--target", "jetson-orin-nano")
    report = json.loads(report_path.read_text())
    assert report["facts"]["model"].startswith("NVIDIA Jetson Orin Nano")
    assert report["facts"]["power_mode"]["name"] == "MAXN_SUPER"
    statuses = {check["name"]: check["status"] for check in report["checks"]}
    statuses.pop("disk")  # this machine's own
    assert set(statuses.values()) == {"ok"}
    assert "ctypes, with the CUDA runtime 12.6" in result.output


def test_a_connection_that_breaks_is_said(board):
    board.line.at = [(9_000, board.line.refuse)]  # behind the login, within the script
    result = doctor()
    assert result.exit_code == 7
    assert "EV815" in result.output


def test_a_board_whose_host_key_is_not_known(board):
    board.replace_host_key()
    result = doctor()
    assert result.exit_code == 7
    assert "EV839" in result.output
