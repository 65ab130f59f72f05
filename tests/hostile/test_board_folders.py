"""Others on the board: what they plant where a deployment will lie is not followed nor emptied."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from deploy.sshd import SSHD, Board
from deploy.thin_python import bare_python

from edgevit.bundle import open_bundle
from edgevit.cli import main
from edgevit.deploy.agent import running
from edgevit.deploy.agent.files import make_folder
from edgevit.deploy.agent.folders import open_root
from edgevit.deploy.call import Call
from edgevit.deploy.connection import _BOOTSTRAP
from edgevit.deploy.messages import BoardMessage as Answer
from edgevit.deploy.messages import Done, Message
from edgevit.deploy.transfer import Shipped, fetch, send_files
from edgevit.errors import DeviceError

NAME, OTHER = "0123456789abcdef", "fedcba9876543210"
STRANGER = 54321
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can give away")


class Here:
    """A connection to this machine: the agent without SSH around it."""

    def call(self, verb, **request):
        return Call(subprocess.Popen([sys.executable, "-c", _BOOTSTRAP], **PIPES), verb, request)


def ask(verb, kind: type[Message], **request):
    with Here().call(verb, **request) as call:
        return call.reply(kind)


@pytest.fixture
def victim(tmp_path):
    """A folder of the user's own that has nothing to do with EdgeViT."""
    folder = tmp_path / "victim"
    (folder / "photos").mkdir(parents=True)
    (folder / "photos" / "one.jpg").write_bytes(b"one")
    (folder / "thesis.txt").write_text("all of it")
    return folder


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def shared(tmp_path):
    """A folder in which everybody may write, like /tmp."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@pytest.fixture
def shipped(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(range(256)) * 1024)
    return Shipped.of(path, "bundle/weights.bin")


def send(root, *files):
    return send_files(Here(), str(root), "nonce", list(files), lambda there: None)


def refused(root, *files, code="EV832"):
    with pytest.raises(DeviceError) as caught:
        send(root, *files)
    assert caught.value.code == code, caught.value
    return caught.value.why


def planted_link(root, victim):
    root.symlink_to(victim)
    return "is a link"


def planted_folder(root, victim):
    victim.rename(root)
    return "was not made by EdgeViT"


def open_to_all(root, victim):
    victim.rename(root)
    (root / ".owner").write_text("nonce")
    root.chmod(0o777)
    return "others may write"


def of_another(root, victim):
    victim.rename(root)
    (root / ".owner").write_text("nonce")
    os.chown(root, STRANGER, STRANGER)
    return "belongs to another user"


def a_file(root, victim):
    root.write_text("not a folder")
    return "is no folder"


def a_marked_link(root, victim):
    (victim / ".owner").write_text("nonce")
    return planted_link(root, victim)


PLANTED = [planted_link, planted_folder, open_to_all, a_file, a_marked_link]


@pytest.mark.parametrize("plant", [*PLANTED, pytest.param(of_another, marks=root_only)])
def test_what_was_planted_is_refused_and_left_as_it_is(shared, victim, shipped, plant):
    before = contents(victim)
    words = plant(shared / NAME, victim)
    place = victim if victim.exists() else shared / NAME
    after_planting = contents(place) if place.is_dir() else {}
    assert words in refused(shared / NAME, shipped)
    with pytest.raises(DeviceError, match="EV832"):
        ask("probe", Answer, folder=str(shared), name=NAME)
    with pytest.raises(DeviceError, match="EV832"):
        ask("clean", Done, root=str(shared / NAME), nonce="nonce", in_cache=False)
    if place.is_dir():
        assert contents(place) == after_planting
        assert before.items() <= contents(place).items()


@root_only
def test_a_link_of_another_on_the_way_is_not_followed_one_of_ours_is(shared, tmp_path, shipped):
    (tmp_path / "disk").mkdir()
    (shared / "ours").symlink_to(tmp_path / "disk")
    assert send(shared / "ours" / NAME, shipped) == 0
    assert (tmp_path / "disk" / NAME / shipped.name).read_bytes() == shipped.path.read_bytes()
    os.lchown(shared / "ours", STRANGER, STRANGER)
    assert "of another user" in refused(shared / "ours" / NAME, shipped)


def test_a_place_where_others_may_exchange_names_is_refused(shared, shipped):
    shared.chmod(0o777)
    assert "all may rename" in refused(shared / NAME, shipped)
    assert "all may rename" in refused(shared / "deeper" / NAME, shipped)
    assert list(shared.iterdir()) == []


@root_only
def test_a_place_of_another_user_is_refused(shared, shipped):
    os.chown(shared, STRANGER, STRANGER)
    assert "of another user" in refused(shared / NAME, shipped)


@pytest.mark.parametrize("name", ["bundle", "bundle/weights.bin", "bundle/weights.bin.part", "run"])
def test_links_within_are_not_followed(shared, victim, shipped, name):
    """Even if somebody could put one there, such as a program of the user's own."""
    send(shared / NAME, shipped)
    before = contents(victim)
    link = shared / NAME / name
    if link.is_dir():
        (link / "weights.bin").unlink()
        link.rmdir()
    link.unlink(missing_ok=True)
    aim = victim if name in ("bundle", "run") else victim / "thesis.txt"
    link.symlink_to(aim)
    with suppress(DeviceError):  # refused, or the link alone is removed
        send(shared / NAME, shipped)
    assert contents(victim) == before


@pytest.mark.parametrize("name", [".lock", ".owner", "bundle/weights.bin.part"])
def test_what_is_no_plain_file_is_not_opened(shared, shipped, name):
    send(shared / NAME, shipped)
    (shared / NAME / "bundle" / "weights.bin").unlink()
    (shared / NAME / name).unlink(missing_ok=True)
    os.mkfifo(shared / NAME / name)
    refused(shared / NAME, shipped)


@pytest.mark.parametrize("name", ["../escaped", "/etc/escaped", "a/../../escaped", "a//b", "."])
def test_names_that_lead_elsewhere(shared, shipped, name):
    digest = hashlib.sha256(shipped.path.read_bytes()).hexdigest()
    file = Shipped(path=shipped.path, name=name, size_bytes=shipped.size_bytes, sha256=digest)
    refused(shared / NAME, file, code="EV824")
    assert sorted(p.name for p in shared.iterdir()) == [NAME]
    with pytest.raises(DeviceError, match="EV824"):
        fetch(Here(), str(shared / NAME), name, 10**9)
    with pytest.raises(DeviceError, match="EV824"):
        fetch(Here(), str(shared / ".."), "x", 10**9)


def test_only_the_deployment_of_this_nonce_is_removed(shared, shipped):
    send(shared / NAME, shipped)
    ask("clean", Done, root=str(shared / NAME), nonce="another", in_cache=False)
    assert (shared / NAME / shipped.name).exists()
    (shared / NAME / "bundle" / "gone").symlink_to(shared / "nowhere")
    ask("clean", Done, root=str(shared / NAME), nonce="nonce", in_cache=False)
    assert list(shared.iterdir()) == []


def test_what_dead_runs_of_other_bundles_left_is_cleared(shared, shipped):
    for name, pid in ((OTHER, 2**22 + 1), ("a" * 16, os.getpid())):
        send(shared / name, shipped)
        root = open_root(str(shared / name))
        make_folder(root, running.TEMPORARY)
        (shared / name / "run" / "tmp" / "left.bin").write_bytes(b"x" * 1000)
        (shared / name / "run" / "pid").write_text(str(pid))
        os.close(root)
    not_ours = shared / ("b" * 16) / "run" / "tmp"
    not_ours.mkdir(parents=True)
    (not_ours / "mine").write_text("mine")
    send(shared / NAME, shipped)
    assert list((shared / OTHER / "run" / "tmp").iterdir()) == []
    assert (shared / OTHER / shipped.name).exists()  # is continued, not sent again
    assert (shared / ("a" * 16) / "run" / "tmp" / "left.bin").exists()  # its run lives
    assert (not_ours / "mine").exists()


def test_a_run_that_nobody_follows_any_more_is_ended(shared, shipped, monkeypatch):
    monkeypatch.setattr(running, "_FORSAKEN_SECONDS", 0.5)
    send(shared / NAME, shipped)
    root = open_root(str(shared / NAME))
    make_folder(root, running.TEMPORARY)
    (shared / NAME / "run" / "tmp" / "left.bin").write_bytes(b"x")
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert running._wait_for(process, root) == -9
    assert list((shared / NAME / "run" / "tmp").iterdir()) == []
    os.close(root)


@pytest.fixture
def board(tmp_path, monkeypatch):
    if SSHD is None:
        pytest.skip("NOT TESTED: there is no sshd here (apt install openssh-server)")
    python = bare_python(tmp_path / "python", "numpy", "onnxruntime")
    made = Board(tmp_path / "board", python)
    made.start()
    monkeypatch.setenv("EDGEVIT_SSH", made.client)
    yield made
    made.stop()


def test_a_planted_link_over_ssh(board, bundle_path, victim, shared, tmp_path):
    """The name of a deployment's folder is known to all: it is that of the bundle."""
    import numpy as np

    name = str(open_bundle(bundle_path).manifest["manifest_sha256"])[:16]
    (shared / name).symlink_to(victim)
    images = tmp_path / "few.npz"
    np.savez(images, images=np.zeros((7, 8, 8, 3), np.uint8), labels=np.arange(7))
    before = contents(victim)
    arguments = ["--device", "board", "--data", str(images), "--folder", str(shared)]
    result = CliRunner().invoke(main, ["deploy", str(bundle_path), *arguments])
    assert result.exit_code == 7, result.output
    assert "error EV832: " in result.output
    assert "is a link" in result.output
    assert contents(victim) == before
    assert Path(shared / name).is_symlink()
