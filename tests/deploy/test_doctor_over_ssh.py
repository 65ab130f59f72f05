"""`edgevit doctor --device` over a real OpenSSH server on this machine."""

import json
import os
import shutil
import stat

import pytest
from click.testing import CliRunner
from sshd import SSHD, Board

from edgevit.cli import main

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


def test_a_computer_without_a_gpu_is_no_board(board, tmp_path):
    """This machine stands in for the board: its facts come over SSH, nothing is written there."""
    result = doctor("--json", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["device"] == "board"
    assert report["facts"]["memory_bytes"]["total"] == (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )
    if report["facts"]["gpu"]["compute_capability"] is None:
        assert result.exit_code == 3
        assert "EV783" in result.output
        assert {"name": "device", "status": "missing"}.items() <= report["checks"][0].items()
    assert board.left() == []


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
    assert "EV812" in result.output
