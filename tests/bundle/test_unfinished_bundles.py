"""What killed processes leave: found, cleared, and never taken from a process that lives."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_bundle_failures import writer

from edgevit.bundle import leftovers, open_bundle
from edgevit.bundle.leftovers import clear_leftovers, find, fresh_file
from edgevit.bundle.placing import exchange
from edgevit.console import replace_file
from edgevit.errors import EnvironmentError_

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
pytestmark = pytest.mark.skipif(leftovers.fcntl is None, reason="this system has no locks")


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """Leftovers of this very second count as well."""
    monkeypatch.setattr(leftovers, "_NEW_SECONDS", 0.0)


def started(code):
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def killed(process):
    process.kill()
    assert process.wait(timeout=20) == -signal.SIGKILL
    process.stdout.close()


def waited_for(process, folder, pattern):
    deadline = time.monotonic() + 20
    while not list(folder.glob(pattern)):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)


def test_what_a_killed_writer_left_is_found_and_gone_with_the_next_write(parts, tmp_path):
    process = started(writer(tmp_path / "out", count=64, size=1 << 20))
    waited_for(process, tmp_path, ".out.*.partial/weights.bin")
    process.send_signal(signal.SIGSTOP)
    assert find(tmp_path) == []  # its process lives
    parts.write(tmp_path / "out")
    (left,) = tmp_path.glob(".out.*.partial")
    killed(process)
    assert find(tmp_path) == [left]
    assert find(tmp_path, "another") == []
    parts.write(tmp_path / "another")
    assert find(tmp_path) == [left]
    parts.write(tmp_path / "out", overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["another", "out"]


def test_a_kill_at_any_time_leaves_a_whole_bundle_under_the_name(parts, tmp_path):
    path = parts.write(tmp_path / "out")
    for delay in range(8):
        code = writer(path, count=1, size=1 << 16, overwrite=True)
        process = started(code.replace("try:", "while True:", 1).split("except")[0])
        assert process.stdout.readline() == "writing\n"
        time.sleep(0.02 + 0.013 * delay)
        killed(process)
        assert open_bundle(path).engine_onnx()
    parts.write(path, overwrite=True)
    assert os.listdir(tmp_path) == ["out"]


KILLED_BETWEEN = """
import os, signal
from pathlib import Path
from edgevit.bundle import placing
placing.exchange = lambda one, other: False  # as where names can't be exchanged
rename = Path.rename
def killing(path, target):
    if path.name.endswith(".partial"):
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(path, target)
Path.rename = killing
from conftest import tiny_parts
tiny_parts(1).write(Path({path!r}), overwrite=True)
"""


@pytest.mark.parametrize("write", [False, True])
def test_a_kill_between_two_renames_does_not_lose_the_old_bundle(parts, tmp_path, write):
    path = parts.write(tmp_path / "out")
    before = (path / "manifest.json").read_bytes()
    killed_there = subprocess.run(
        [sys.executable, "-c", FOLDERS + KILLED_BETWEEN.format(path=str(path))]
    )
    assert killed_there.returncode == -signal.SIGKILL
    assert not path.exists()
    if write:
        parts.write(path, overwrite=True)
    else:
        assert len(clear_leftovers(find(tmp_path))) == 2
        assert (path / "manifest.json").read_bytes() == before
    assert os.listdir(tmp_path) == ["out"]
    assert open_bundle(path).engine_onnx()


def test_two_names_are_exchanged_in_one_step(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    (one / "file").touch()
    if not exchange(one, other):
        pytest.skip("this file system exchanges no names")
    assert (os.listdir(one), os.listdir(other)) == ([], ["file"])
    with pytest.raises(FileNotFoundError):
        exchange(one, tmp_path / "absent")


def test_what_is_not_ours_is_left_alone(tmp_path):
    name = ".out.edgevit-0123456789abcdef"
    foreign = tmp_path / f"{name}.partial"
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / f"{name}.old").symlink_to(elsewhere)
    (tmp_path / f"{name}.part").symlink_to(elsewhere / "file")
    (tmp_path / ".out.0123456789abcdef.part").touch()
    (tmp_path / ".editor.part").touch()
    before = sorted(tmp_path.rglob("*"))
    assert find(tmp_path) == []
    assert clear_leftovers(before) == []
    assert sorted(tmp_path.rglob("*")) == before


def test_a_planted_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".report.json.part").symlink_to(victim)  # the name that once was predictable
    replace_file(tmp_path / "report.json", lambda path: path.write_text("report"))
    assert victim.read_text() == "mine"
    assert (tmp_path / "report.json").read_text() == "report"


def test_a_name_that_is_taken_is_not_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(leftovers.secrets, "token_hex", lambda size: "0" * 2 * size)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / f".report.json.edgevit-{'0' * 16}.part").symlink_to(victim)
    with pytest.raises(EnvironmentError_, match="EV206"):
        replace_file(tmp_path / "report.json", lambda path: path.write_text("report"))
    assert victim.read_text() == "mine"


WRITES_A_FILE = """
import time
from pathlib import Path
from edgevit.console import replace_file
def slowly(path):
    path.write_text("half")
    print("half", flush=True)
    time.sleep(60)
replace_file(Path({path!r}), slowly)
"""


def test_a_file_that_a_killed_process_was_writing(tmp_path):
    path = tmp_path / "report.json"
    process = started(FOLDERS + WRITES_A_FILE.format(path=str(path)))
    assert process.stdout.readline() == "half\n"
    assert find(tmp_path) == []
    killed(process)
    assert [found.suffix for found in find(tmp_path)] == [".part"]
    replace_file(path, lambda temporary: temporary.write_text("whole"))
    assert os.listdir(tmp_path) == ["report.json"]


def test_a_file_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), fresh_file(tmp_path / "x"):
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_what_was_made_just_now_may_not_be_locked_yet(tmp_path, monkeypatch):
    monkeypatch.setattr(leftovers, "_NEW_SECONDS", 60.0)
    (tmp_path / ".out.edgevit-0123456789abcdef.partial").mkdir()
    assert find(tmp_path) == []
