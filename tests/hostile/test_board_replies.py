"""Boards that lie: each bad reply ends in its sentence and status; no traceback, hang or flood."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from board_replies import CASES, ESC
from deploy.sshd import SSHD, Board

from edgevit.runner.board.facts import board_facts
from edgevit.runner.engines import all_engines
from edgevit.verbs.deploy import deploy

HERE = Path(__file__).parent
STATUSES = {"EV782": 7, "EV815": 7, "EV816": 7, "EV843": 3, "EV818": 3, "EV703": 7, "EV783": 3}
MOST_BYTES = 2 << 30
OVER_SSH = (
    "probe: silence",
    "probe: a line of 3 GB",
    "probe: a loud failure",
    "facts: a model with escapes",
    "receive: whole with another hash",
    "start: alive for ever",
    "line: a megabyte of escapes",
    "send: an exabyte",
    "answers: a hundred times as many",
    "measured: a latency that is no number",
)


@pytest.fixture(scope="module")
def bundle(make_parts, tmp_path_factory):
    parts = make_parts()
    half = [0.5, 0.5, 0.5]
    parts.manifest["preprocessing"] = {
        "input_size": [3, 8, 8], "resize_size": 8, "interpolation": "bicubic", "crop_pct": 1.0,
        "mean": half, "std": half,
    }  # fmt: skip
    return parts.write(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("images") / "few.npz"
    pixels = random.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    np.savez(path, images=pixels, labels=np.arange(40) % 7)
    return path


@pytest.fixture(scope="module")
def hostile(bundle, images, tmp_path_factory):
    """A folder with the hostile python3 and what an honest board, this one, answered."""
    folder, there = tmp_path_factory.mktemp("hostile"), tmp_path_factory.mktemp("there")
    python = folder / "python3"
    shebang = f"#!{sys.executable} -IS\n"
    python.write_text(shebang + (HERE / "board_python.py").read_text())
    python.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEVIT_SSH", str(HERE / "board_ssh.sh"))
        patch.setenv("EDGEVIT_TEST_BOARD_PATH", os.environ["PATH"])
        options = {"device": "board", "python": sys.executable, "folder": str(there), "keep": True}
        kept = Path(deploy(bundle, images, threads=1, rounds=5, **options)["device"]["kept"])
    said = (kept / "run" / "output").read_text().splitlines()
    board = {"python": "3.10.12", "machine": "aarch64", "root": str(kept)}
    known = {
        "board": {**board, "free_bytes": 10**12, "present_bytes": 0},
        "facts": json.dumps(board_facts(modules=[one.module for one in all_engines().values()])),
        "lines": said,
        "measurements": (kept / "measurements.json").read_text(),
    }
    (folder / "good.json").write_text(json.dumps(known))
    return folder


def driven(hostile, bundle, images, names, **environment):
    command = [sys.executable, str(HERE / "board_driver.py"), str(hostile), str(bundle)]
    paths = [str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [*command, str(images), "|".join(names)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def without_network(hostile, bundle, images, tmp_path_factory):
    """Two boards at once, each with half of the cases: they mostly wait for processes."""

    def half(names):
        board = tmp_path_factory.mktemp("half") / "board"
        shutil.copytree(hostile, board)
        path = f"{board}:{os.environ['PATH']}"
        ssh = {"EDGEVIT_SSH": str(HERE / "board_ssh.sh"), "EDGEVIT_TEST_BOARD_PATH": path}
        return driven(board, bundle, images, names, **ssh)

    names = list(CASES)
    with ThreadPoolExecutor() as pool:
        one, other = pool.map(half, [names[::2], names[1::2]])
    peak_bytes = max(one["peak_bytes"], other["peak_bytes"])
    return {"cases": {**one["cases"], **other["cases"]}, "peak_bytes": peak_bytes}


@pytest.fixture(scope="module")
def over_ssh(hostile, bundle, images, tmp_path_factory):
    if SSHD is None:
        pytest.skip("NOT TESTED: there is no sshd here (apt install openssh-server)")
    board = Board(tmp_path_factory.mktemp("board"), f"{hostile}:/usr/bin:/bin")
    board.start()
    try:
        yield driven(hostile, bundle, images, OVER_SSH, EDGEVIT_SSH=board.client)
    finally:
        board.stop()


def check(found, code):
    assert found["traceback"] == "", found
    output = found["output"]
    assert "Traceback" not in output
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", output), ascii(output)
    assert len(output) < 20_000
    assert found["seconds"] < 30
    if code:
        assert re.search(rf"error {code}: ", output), output
        assert found["status"] == STATUSES.get(code, 7), output
    else:
        assert found["status"] == 0, output


@pytest.mark.parametrize("name", CASES)
def test_a_bad_reply(without_network, name):
    check(without_network["cases"][name], CASES[name].code)


@pytest.mark.parametrize("name", OVER_SSH)
def test_a_bad_reply_over_ssh(over_ssh, name):
    check(over_ssh["cases"][name], CASES[name].code)


def test_what_the_doctor_advises_is_no_command_of_the_board(without_network):
    cases = without_network["cases"]
    said = cases["doctor: a Python that is a command"]["output"]
    assert "$ 'python3; touch owned #' -m pip install onnxruntime" in said
    said = cases["doctor: a folder that is a command"]["output"]
    assert "du -xh '/home/$(touch owned)' | sort" in said


def test_none_takes_much_memory(without_network, over_ssh):
    for found in (without_network, over_ssh):
        assert found["peak_bytes"] < MOST_BYTES, found["peak_bytes"]


def test_what_an_honest_board_said_is_taken(hostile, bundle, images, without_network):
    """The cases differ from it in one thing each; without that thing none of them fails."""
    assert len(CASES) >= 78
    assert sum(not case.code for case in CASES.values()) >= 5
    assert ESC not in json.dumps(without_network["cases"], ensure_ascii=False)


def test_the_hostile_board_is_a_program_of_its_own(hostile):
    assert shutil.which("python3", path=str(hostile)) == str(hostile / "python3")
