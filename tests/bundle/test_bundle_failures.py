"""Writing that fails or is interrupted, for real: full disk, size limit, signals, no folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgevit.bundle import open_bundle
from edgevit.errors import BundleError, EnvironmentError_, UsageError

ROOT = Path(__file__).resolve().parents[2]
WRITER = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import numpy as np
from conftest import tiny_parts
from edgevit.errors import EdgeViTError
parts = tiny_parts()
for index in range({count}):
    noise = np.random.default_rng(index).integers(0, 256, {size}).astype(np.uint8)
    parts.tensors[f"noise-{{index}}"] = noise
print("writing", flush=True)
try:
    parts.write({path!r}, overwrite={overwrite})
except EdgeViTError as error:
    print(error)
    sys.exit(error.exit_status)
"""


def writer(path, *, count, size, overwrite=False):
    names = {"root": str(ROOT), "tests": str(ROOT / "tests"), "path": str(path)}
    return WRITER.format(count=count, size=size, overwrite=overwrite, **names)


def everything_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_full_disk(tmp_path):
    """A tmpfs of 1 MiB in a mount namespace of its own really runs out of space."""
    disk = tmp_path / "disk"
    disk.mkdir()
    code = writer(disk / "out", count=4, size=1 << 20)
    (tmp_path / "write.py").write_text(code + "\n")
    script = (
        f"mount -t tmpfs -o size=1m tmpfs {disk} || exit 77\n"
        f"{sys.executable} {tmp_path / 'write.py'}; status=$?\n"
        f"echo left: $(ls -A {disk}); exit $status"
    )
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this machine does not let a test mount a tmpfs")
    assert done.returncode == EnvironmentError_.exit_status, done.stdout + done.stderr
    assert "EV412" in done.stdout
    assert "No space left on device" in done.stdout
    assert done.stdout.splitlines()[-1] == "left:"


def test_a_file_size_limit_keeps_the_old_bundle(parts, tmp_path):
    path = parts.write(tmp_path / "out")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
    code = limit + writer(path, count=1, size=1 << 20, overwrite=True)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == EnvironmentError_.exit_status, done.stdout + done.stderr
    assert "File too large" in done.stdout
    assert os.listdir(tmp_path) == ["out"]
    assert open_bundle(path).engine_onnx()


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interrupt_leaves_what_was_there(parts, tmp_path, overwrite):
    """A real SIGINT while tensors are being written."""
    path = tmp_path / "made" / "out"
    if overwrite:
        parts.write(path)
    before = everything_below(tmp_path)
    code = writer(path, count=24, size=1 << 20, overwrite=overwrite)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell may ignore it
    )
    assert process.stdout.readline() == "writing\n"
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("made/.out.*.partial/weights.bin")):
        assert time.monotonic() < deadline
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    assert everything_below(tmp_path) == before


class Interrupting(dict):
    """Tensors whose reading is interrupted at the last one."""

    def items(self):
        yield from super().items()
        raise KeyboardInterrupt


def test_an_interrupt_at_the_last_tensor(parts, tmp_path):
    parts.tensors = Interrupting(parts.tensors)
    with pytest.raises(KeyboardInterrupt):
        parts.write(tmp_path / "a" / "out")
    assert everything_below(tmp_path) == []


def test_what_would_not_open_again_replaces_nothing(parts, tmp_path):
    path = parts.write(tmp_path / "out")
    before = everything_below(tmp_path)
    parts.manifest["model"]["num_classes"] += 1  # the golden logits have one fewer
    for target, overwrite in ((path, True), (tmp_path / "other", False)):
        with pytest.raises(BundleError):
            parts.write(target, overwrite=overwrite)
    assert everything_below(tmp_path) == before
    assert open_bundle(path).golden()


def test_a_parent_that_is_a_file(parts, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(EnvironmentError_, match="EV412"):
        parts.write(tmp_path / "file" / "out")
    assert everything_below(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(parts, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(EnvironmentError_, match="EV412"):
        parts.write(tmp_path / "out")


def test_a_read_only_place(parts):
    """The kernel's own file system refuses new folders, also to root."""
    with pytest.raises(EnvironmentError_, match="EV412"):
        parts.write(Path("/proc/edgevit-out"))


def test_many_writers_of_one_name_leave_one_whole_bundle(parts, tmp_path):
    code = writer(tmp_path / "out", count=1, size=1 << 20, overwrite=True)
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert 0 in [process.wait(timeout=30) for process in processes]
    bundle = open_bundle(tmp_path / "out")
    assert len(bundle.engine_onnx()) > 1 << 20
    assert os.listdir(tmp_path) == ["out"]
    assert bundle.golden()["images"].dtype == np.uint8


def test_what_appeared_while_it_was_written_is_not_replaced(parts, tmp_path):
    """Weights take a while to write; somebody else may have taken the name by then."""
    target = tmp_path / "out"

    class Slow(dict):
        def items(self):
            target.mkdir(exist_ok=True)
            (target / "mine.txt").write_text("mine")
            return super().items()

    for overwrite in (False, True):
        with pytest.raises(UsageError, match="EV411"):
            parts.write(target, tensors=Slow(parts.tensors), overwrite=overwrite)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        assert (target / "mine.txt").read_text() == "mine"
        (target / "mine.txt").unlink()
        target.rmdir()
