"""After a real SIGKILL the next run, and the doctor, clear what the dead process left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgevit import scratch
from edgevit.cli import main
from edgevit.scratch import clear_left_over, scratch_folder
from edgevit.zoo import reference_images

QUICK = ["--model", "vit_cifar10", "--method", "minmax", "--num-calib", "4"]
# Stops in a scratch folder, where the parent then kills it.
STOPPING = """
import sys, time
from edgevit import scratch
rename = scratch.Path.rename
def stop(path, target):
    rename(path, target)
    (target.parent / "pixels").write_bytes(b"x" * 1000)
    print("stopped", file=sys.stderr, flush=True)
    time.sleep(60)
scratch.Path.rename = stop
"""
COMMAND = STOPPING + "from edgevit.cli import main\nmain(sys.argv[1:])\n"
ALONE = STOPPING + "with scratch.scratch_folder('edgevit-images-'): pass\n"


def killed(code, *words, folder):
    """Run the code until it says that it stopped, and kill it."""
    env = {**os.environ, "TMPDIR": str(folder)}
    command = [sys.executable, "-c", code, *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        said = ""
        for line in process.stderr:
            said += line
            if line == "stopped\n":
                break
        assert process.poll() is None, said
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder for temporary files of its own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def names(folder):
    return sorted(os.listdir(folder))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "bundle"
    result = CliRunner().invoke(main, ["quantize", *QUICK, "-o", str(path)])
    assert result.exit_code == 0, result.output
    return path


def test_a_killed_quantize_is_cleared_by_the_next(place, tmp_path):
    killed(COMMAND, "quantize", *QUICK, "-o", tmp_path / "out", folder=place)
    assert len([name for name in names(place) if name.startswith("edgevit-")]) == 1
    result = CliRunner().invoke(main, ["quantize", *QUICK, "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert [name for name in names(place) if name.startswith("edgevit-")] == []


def test_a_validate_killed_at_any_time_leaves_nothing(place, bundle):
    """It needs no folder of its own on the CPU; whatever it had is gone after the doctor."""
    words = ["validate", bundle, "--data", reference_images("test"), "--num", "200"]
    command = [sys.executable, "-m", "edgevit", *map(str, words)]
    env = {**os.environ, "TMPDIR": str(place)}
    for wait_s in (0.0, 0.4):
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
            process.stderr.readline()  # the first stage is done
            time.sleep(wait_s)
            process.kill()
    assert [name for name in names(place) if name.startswith("edgevit")] == []


def test_the_doctor_clears_and_says_so(place, tmp_path, monkeypatch):
    killed(ALONE, folder=place)
    (left,) = names(place)
    here = tmp_path / "here"
    unfinished = here / ".mine.edgevit-0123456789abcdef.partial"
    foreign = here / ".mine.edgevit-0123456789abcdef.txt"
    unfinished.mkdir(parents=True)
    foreign.mkdir()
    os.utime(unfinished, (0, 0))
    monkeypatch.chdir(here)
    assert left.startswith("edgevit-images-")
    result = CliRunner().invoke(main, ["doctor", "--json", "-"])
    text = result.stdout
    findings = json.loads(text[text.index("{") :])["checks"]
    (found,) = (one for one in findings if one["name"] == "temporary files")
    assert left in found["found"]
    assert unfinished.name in found["found"]
    assert names(place) == []
    assert names(here) == [foreign.name]


def test_a_folder_in_use_stays(place):
    with scratch_folder() as mine:
        (mine / "file").touch()
        assert clear_left_over() == []
        with scratch_folder() as other:
            assert sorted(names(place)) == sorted([mine.name, other.name])
    assert names(place) == []


def dead(place, name="edgevit-dead"):
    """A folder as a dead process leaves it."""
    folder = place / name
    folder.mkdir()
    (folder / scratch._MARK).write_bytes(scratch._CONTENT)
    (folder / "pixels").touch()
    return folder


def test_nothing_is_followed_and_nothing_foreign_is_cleared(place, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "keep").touch()
    inside = dead(place)
    (inside / "link").symlink_to(mine)
    kept = ["edgevit-link", "edgevit-linked-mark", "edgevit-no-mark", "edgevit-pipe", "other-dead"]
    (place / "edgevit-link").symlink_to(dead(tmp_path))
    for name in kept[1:4]:
        (place / name).mkdir()
        (place / name / "keep").touch()
    (place / "edgevit-linked-mark" / scratch._MARK).symlink_to(inside / scratch._MARK)
    os.mkfifo(place / "edgevit-pipe" / scratch._MARK)
    dead(place, "other-dead")
    assert clear_left_over() == ["edgevit-dead"]
    assert names(place) == kept
    assert (mine / "keep").exists()
    assert (tmp_path / "edgevit-dead" / "pixels").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_stays(place):
    os.chown(dead(place), 65534, 65534)
    assert clear_left_over() == []
    assert names(place) == ["edgevit-dead"]


def test_a_killed_training_leaves_whole_parts_only(tmp_path):
    """Part by part killed while it is written: what is unfinished goes with the next."""
    code = """
import sys, time
from pathlib import Path
from edgevit.calibration.training import checkpoint
def stop(tensors, path, metadata):
    Path(path).write_bytes(b"half")
    print("stopped", file=sys.stderr, flush=True)
    time.sleep(60)
checkpoint.save_file = stop
import torch
class Graph:
    def constant(self, name): return torch.zeros(2)
class Quantized:
    graph, layers = Graph(), {}
kept = checkpoint.TrainingCheckpoint(folder=Path(sys.argv[1]), digest="0" * 64)
kept.save("blocks.0", Quantized(), (), ("a",))
"""
    killed(code, tmp_path / "kept", folder=tmp_path)
    (left,) = names(tmp_path / "kept")
    assert left.startswith(".part-")
    from edgevit.calibration.training.checkpoint import TrainingCheckpoint

    TrainingCheckpoint(folder=Path(tmp_path / "kept"), digest="0" * 64).prepare()
    assert names(tmp_path / "kept") == []
