"""Requests to the real agent, run on this machine in place of the far end of an SSH connection."""

import subprocess
import sys
from dataclasses import replace

import pytest

from edgevit.deploy.call import Call, ConnectionLost
from edgevit.deploy.connection import _BOOTSTRAP
from edgevit.deploy.messages import File
from edgevit.deploy.transfer import Shipped, fetch, send_files
from edgevit.errors import DeviceError

NAME = "0123456789abcdef"
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


class Here:
    """A connection to this machine: the agent without SSH around it."""

    def call(self, verb, **request):
        return Call(subprocess.Popen([sys.executable, "-c", _BOOTSTRAP], **PIPES), verb, request)


@pytest.fixture
def shipped(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(range(256)) * 1024)
    return Shipped.of(path, "bundle/weights.bin")


def send(tmp_path, file):
    return send_files(Here(), str(tmp_path / NAME), "nonce", [file], lambda there: None)


def test_a_file_arrives_and_comes_back(tmp_path, shipped):
    assert send(tmp_path, shipped) == 0
    assert send(tmp_path, shipped) == shipped.size_bytes  # nothing is sent twice
    back = fetch(Here(), str(tmp_path / NAME), shipped.name, shipped.size_bytes)
    assert back == shipped.path.read_bytes()


@pytest.mark.parametrize("change", ["shorter", "gone"])
def test_a_file_that_changes_while_it_is_sent(tmp_path, shipped, change):
    announced = replace(shipped, size_bytes=shipped.size_bytes + 1)
    if change == "gone":
        shipped.path.unlink()
    with pytest.raises(DeviceError, match="EV829") as caught:
        send(tmp_path, announced)
    assert str(shipped.path) in caught.value.where


@pytest.mark.parametrize("cut", ["@edgevit {", '@edgevit {"size": 3}'])
def test_a_reply_that_is_cut_off_is_a_lost_connection(cut):
    script = ["sh", "-c", f"printf '%s' '{cut}'; exit 255"]
    call = Call(subprocess.Popen(script, **PIPES), "send", {})
    with call, pytest.raises(ConnectionLost):
        call.reply(File)
