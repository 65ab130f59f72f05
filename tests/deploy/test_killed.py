"""SIGKILL of the real command: no `ssh` outlives it, and the next run finds and clears the rest."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgevit.deploy import connection
from edgevit.scratch import PREFIX

KILLED = -signal.SIGKILL
SCRATCH = "import os\nfrom edgevit.scratch import scratch_folder\n"


def command(bundle, few, *more):
    words = [sys.executable, "-m", "edgevit.cli", "deploy", str(bundle), "--device", "board"]
    return [*words, "--data", str(few), "--threads", "1", *more]


def clients(board):
    """Return the processes of this machine that were started with the board's configuration."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode()
        except OSError:
            continue
        if str(board.folder / "ssh_config") in words and words.startswith("ssh"):
            found.append(int(folder.name))
    return found


def wait_until(holds, seconds=30):
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def killed_when(holds, words):
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: holds() or process.poll() is not None)
        assert process.poll() is None, process.stderr.read()
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == KILLED


def clears_after_the_dead(temporary):
    """Say whether a scratch folder clears those of dead processes."""
    dead = "with scratch_folder():\n    os.kill(os.getpid(), 9)\n"
    for code in (dead, "with scratch_folder():\n    pass\n"):
        subprocess.run([sys.executable, "-c", SCRATCH + code], check=False)
    return list(temporary.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: only Linux ends children so")
def test_killed_while_measuring(board, bundle, few, temporary):
    """The run on the board goes on, but nobody here stays logged in, and the next one ends it."""
    running = board.home / ".cache" / "edgevit"
    killed_when(
        lambda: any(running.glob("*/run/followed")),
        command(bundle, few, "--rounds", "100000", "--batch", "1024"),
    )
    wait_until(lambda: clients(board) == [])
    assert all(path.name.startswith(PREFIX) for path in temporary.iterdir())
    done = subprocess.run(command(bundle, few, "--rounds", "5"), capture_output=True, text=True)
    if "EV822" in done.stderr:  # it was followed less than 20 seconds ago
        stale = time.time() - 60
        for path in running.glob("*/run/followed"):
            os.utime(path, (stale, stale))
        done = subprocess.run(command(bundle, few, "--rounds", "5"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert board.left() == []
    assert clients(board) == []


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: only Linux ends children so")
def test_killed_while_sending(board, heavy, few, temporary, monkeypatch):
    """The user's pixels are there to others never, and to nobody after the next run."""
    seen = []

    def sending():
        found = [*temporary.glob("edgevit-images-*/pixels-*.bin")]
        seen.extend(path.parent.stat().st_mode & 0o777 for path in found)
        return found and board.line.carried > 1_000_000

    killed_when(sending, command(heavy, few))
    wait_until(lambda: clients(board) == [])
    assert set(seen) == {0o700}
    left = [path.name for path in temporary.iterdir()]
    assert left
    assert all(name.startswith(PREFIX) for name in left), left
    done = subprocess.run(command(heavy, few, "--rounds", "5"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert board.left() == []
    (temporary / "probe").mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary / "probe"))
    if not clears_after_the_dead(temporary / "probe"):
        pytest.skip("NOT TESTED: scratch folders of dead processes are not cleared yet")
    assert [path.name for path in temporary.iterdir()] == ["probe"]


def test_a_long_name_of_the_folder_for_temporary_files(board, bundle, few, tmp_path, monkeypatch):
    """A socket's name has 107 bytes at most; none of it lies elsewhere for that."""
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr("tempfile.tempdir", None)
    with connection.Connection("board") as connected:
        assert len(connected._control) < 80
        assert [path.name for path in long.glob("*/s")] == ["s"]
        assert connected.run_script("print(1)") == "Welcome to this board\n1\n"
    assert list(long.iterdir()) == []


def test_ssh_dies_with_its_parent_however_it_ends(board, tmp_path):
    code = (
        "import os, signal\n"
        "from edgevit.deploy.connection import Connection\n"
        "with Connection('board') as connected:\n"
        "    print(connected._master.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == KILLED
    wait_until(lambda: not Path(f"/proc/{int(done.stdout)}").exists())
