"""A board on this machine: an OpenSSH server with a Python that has numpy and the engine only."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from sshd import SSHD, Board
from thin_python import bare_python

SIDE, CLASSES = 8, 7
PREPROCESSING = {
    "input_size": [3, SIDE, SIDE],
    "resize_size": SIDE,
    "interpolation": "bicubic",
    "crop_pct": 1.0,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}


@pytest.fixture(scope="session")
def board_path(tmp_path_factory) -> str:
    return bare_python(tmp_path_factory.mktemp("python") / "v", "numpy", "onnxruntime")


@pytest.fixture
def make_board(tmp_path, monkeypatch):
    """Return a function PATH -> started board; the user's SSH is pointed at it."""
    if SSHD is None:
        pytest.skip("NOT TESTED: there is no sshd here (apt install openssh-server)")
    boards = []

    def make(path: str) -> Board:
        board = Board(tmp_path / "board", path)
        board.start()
        boards.append(board)
        monkeypatch.setenv("EDGEVIT_SSH", board.client)
        return board

    yield make
    for board in boards:
        board.stop()


@pytest.fixture
def preprocessing() -> dict[str, object]:
    """Return the tiny bundle's preprocessing, complete."""
    return dict(PREPROCESSING)


@pytest.fixture
def board(make_board, board_path) -> Board:
    return make_board(board_path)


@pytest.fixture(scope="session")
def make_bundle(make_parts, tmp_path_factory):
    """Return a function that writes the tiny bundle, for any target."""

    def make(target: str = "cpu", ballast: int = 0) -> Path:
        parts = make_parts()
        parts.manifest.update(preprocessing=PREPROCESSING, target=target)
        if ballast:
            random = np.random.default_rng(0)
            parts.tensors["ballast"] = random.integers(-128, 128, ballast).astype(np.int8)
        return parts.write(tmp_path_factory.mktemp("deployed") / "tiny")

    return make


@pytest.fixture(scope="session")
def bundle(make_bundle) -> Path:
    return make_bundle()


@pytest.fixture(scope="session")
def heavy(make_bundle) -> Path:
    """The tiny bundle with 12 MB that no node uses, so that a transfer has a middle.

    What is in flight when a connection breaks is lost, and that may be 2 MB (OpenSSH's window).
    """
    return make_bundle(ballast=12_000_000)


@pytest.fixture(scope="session")
def few(tmp_path_factory) -> Path:
    """Forty labelled images."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (40, SIDE, SIDE, 3)).astype(np.uint8)
    path = tmp_path_factory.mktemp("few") / "few.npz"
    np.savez(path, images=pixels, labels=np.arange(40) % CLASSES)
    return path


@pytest.fixture
def tiny_disk(tmp_path):
    """A disk of 48 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)]
    if mount is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("NOT TESTED: no small disk can be mounted here (needs root)")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)
