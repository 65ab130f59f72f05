"""What goes wrong on the way to a board and on it: lost lines, full disks, killed processes."""

import os
import signal
import threading
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from edgevit.errors import DeviceError, EnvironmentError_
from edgevit.verbs import deploy as deploying
from edgevit.verbs.deploy import deploy

QUICK = {"threads": 1, "rounds": 5}
ENDLESS = {"threads": 1, "rounds": 100_000, "batch": 1024}  # minutes, unless somebody ends it


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(deploying, "_RETRY_SECONDS", (0.05, 0.1, 0.2))


def processes(board, word):
    """Return the processes on the board whose command line holds a word."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode()
            there = os.readlink(folder / "cwd").startswith(str(board.home))
        except OSError:
            continue
        if there and word in command:
            found.append(int(folder.name))
    return found


def wait_until(holds, seconds=30):
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.05)


def sent(steps):
    return [done for stage, done, _ in steps if stage == "send"]


def test_cut_while_sending_it_goes_on_where_it_was(board, heavy, few):
    steps = []
    board.line.at = [(5_000_000, board.line.cut), (10_000_000, board.line.cut)]
    report = deploy(heavy, few, device="board", progress=lambda *s: steps.append(s), **QUICK)
    assert board.line.cuts == 2
    assert report["num_images"] == 40
    done = sent(steps)
    backward = [(before, after) for before, after in pairwise(done) if after < before]
    assert all(after > 1_000_000 for _, after in backward), backward
    assert done[-1] > 12_000_000
    assert board.line.carried < 1.6 * done[-1]  # from the start each time it would be 2.2 times
    assert board.left() == []


def test_cut_while_looking_it_looks_again(board, bundle, few):
    board.line.at = [(9_000, board.line.cut)]  # behind the login, within the first request
    assert deploy(bundle, few, device="board", **QUICK)["num_images"] == 40
    assert board.line.cuts == 1
    assert board.left() == []


def test_lost_for_good_the_next_deployment_continues(board, heavy, few):
    board.line.at = [(6_000_000, board.line.refuse)]
    with pytest.raises(DeviceError) as caught:
        deploy(heavy, few, device="board", **QUICK)
    assert caught.value.code == "EV815"
    assert any(name.endswith(".part") for name in board.left())
    board.line.reopen()
    steps = []
    deploy(heavy, few, device="board", progress=lambda *s: steps.append(s), **QUICK)
    assert sent(steps)[0] > 1_000_000  # what had arrived
    assert board.left() == []


def test_a_damaged_beginning_is_sent_again(board, heavy, few):
    board.line.at = [(6_000_000, board.line.refuse)]
    with pytest.raises(DeviceError):
        deploy(heavy, few, device="board", **QUICK)
    (partial,) = board.home.rglob("*.part")
    partial.write_bytes(b"\0" + partial.read_bytes()[1:])
    board.line.reopen()
    assert deploy(heavy, few, device="board", **QUICK)["num_images"] == 40


def test_cut_while_measuring_the_run_goes_on(board, bundle, few):
    seen, pids = [], []

    def progress(stage, done, total):
        seen.append((stage, done))
        if stage == "latency" and done == 0:
            pids.extend(processes(board, "runner.board"))
            board.line.cut()

    report = deploy(bundle, few, device="board", progress=progress, threads=1, rounds=5000)
    assert board.line.cuts == 1
    assert len(pids) == 1
    assert report["latency_ms"]["engine"]["p50"] > 0
    assert seen.count(("latency", 1)) == 1  # no line twice, none lost
    assert seen.count(("accuracy", 40)) == 1
    assert board.left() == []


def test_the_disk_is_full_before(board, bundle, few, tiny_disk):
    (tiny_disk / "filler").write_bytes(b"\0" * (20 << 20))
    with pytest.raises(EnvironmentError_) as caught:
        deploy(bundle, few, device="board", folder=str(tiny_disk), **QUICK)
    assert caught.value.code == "EV843"
    assert "MB are free" in caught.value.why
    assert os.listdir(tiny_disk) == ["filler"]


def test_the_disk_fills_up_while_sending(board, heavy, few, tiny_disk):
    def fill():
        with open(tiny_disk / "filler", "wb", buffering=0) as stream, suppress(OSError):
            while True:
                stream.write(b"\0" * (1 << 20))

    board.line.at = [(3_000_000, fill)]
    with pytest.raises(EnvironmentError_) as caught:
        deploy(heavy, few, device="board", folder=str(tiny_disk), **QUICK)
    assert caught.value.code == "EV817"
    assert "No space left" in caught.value.why
    assert os.listdir(tiny_disk) == ["filler"]


@pytest.mark.parametrize("victims", ["the run", "the run and its supervisor"])
def test_killed_on_the_board(board, bundle, few, victims):
    def progress(stage, done, total):
        if stage == "latency":
            (pid,) = processes(board, "runner.board")
            environment = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
            (temporary,) = (word[7:] for word in environment if word[:7] == "TMPDIR=")
            assert Path(temporary).is_dir()  # goes with the deployment, whoever is killed
            assert board.home in Path(temporary).parents
            if victims != "the run":
                supervisor = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
                os.kill(int(supervisor), signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(DeviceError) as caught:
        deploy(bundle, few, device="board", progress=progress, **ENDLESS)
    assert caught.value.code == "EV819"
    assert "run out of memory" in caught.value.try_next
    assert board.left() == []


def test_interrupted_nothing_is_left_nor_running(board, bundle, few):
    def progress(stage, done, total):
        if stage == "latency":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deploy(bundle, few, device="board", progress=progress, **ENDLESS)
    assert processes(board, "runner.board") == []
    assert board.left() == []


def test_one_deployment_at_a_time(board, bundle, few):
    measuring, ended = threading.Event(), []

    def first():
        def progress(stage, done, total):
            if stage == "latency":
                measuring.set()

        try:
            deploy(bundle, few, device="board", progress=progress, **ENDLESS)
        except DeviceError as error:
            ended.append(error.code)

    thread = threading.Thread(target=first)
    thread.start()
    assert measuring.wait(60)
    wait_until(lambda: any(board.home.rglob("followed")))
    with pytest.raises(DeviceError) as caught:
        deploy(bundle, few, device="board", **QUICK)
    assert caught.value.code == "EV822"
    (pid,) = processes(board, "runner.board")  # the first one goes on
    os.kill(pid, signal.SIGKILL)
    thread.join(60)
    assert ended == ["EV819"]
