"""One SSH connection to a board, through the user's own `ssh`, its configuration and its agent.

A master connection is kept open for as long as the `with` block lasts; every request to the agent
(see agent.py) is a channel of it.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from edgevit.deploy.call import SSH_FAILED, Call, ConnectionLost
from edgevit.deploy.channel import Channel
from edgevit.deploy.client import (
    CONNECT_SECONDS,
    error_from_log,
    is_address,
    ssh_command,
    start_ssh,
)
from edgevit.deploy.words import plain
from edgevit.errors import DeviceError, UsageError
from edgevit.scratch import scratch_folder

_POLL_SECONDS = 0.05
_SCRIPT_SECONDS = 240.0  # it imports three modules, each for a minute at most
_LOG_BYTES = 1 << 16
_LONGEST_SOCKET = 80  # a socket's name holds 104 bytes or more, and ssh appends some to it
_BOOTSTRAP = (
    "import sys;i=sys.stdin.buffer;exec(compile(i.read(int(i.readline())),'edgevit','exec'))"
)


class Connection:
    """A connection to a board, to be used as a context manager.

    Args:
        device: ``user@host``, an alias of the user's SSH configuration, or
            ``ssh://user@host:port``.
        python: The board's Python, as its login shell finds it; ``~/`` is the home there.

    Raises:
        UsageError: The address is none (EV811).
        EnvironmentError_: There is no SSH client here (EV810).
        DeviceError: The board can't be reached (EV814), its host key is unknown (EV812) or
            changed (EV839), or it refuses the login (EV813).
    """

    def __init__(self, device: str, *, python: str = "python3") -> None:
        if not is_address(device):
            raise UsageError(
                "EV811",
                f"{device!r} is no address of a board.",
                where="--device",
                try_next="user@host, an alias of ~/.ssh/config, or ssh://user@host:port.",
            )
        self.device, self.python = device, python
        self._open = ExitStack()
        self._folder: Path | None = None
        self._control = ""
        self._master: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Connection:
        with ExitStack() as opening:
            self._folder = opening.enter_context(scratch_folder())
            self._control = _socket_name(self._folder, opening)
            opening.callback(self._disconnect)
            self.connect()
            self._open = opening.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def connect(self) -> None:
        """Connect, or connect again after the connection was lost."""
        assert self._folder is not None, "used outside of its with block"
        self._disconnect()
        log = self._folder / "log"
        with open(log, "wb") as errors:
            options = ["-N", "-o", "ControlMaster=yes"]
            self._master = start_ssh(self.device, self._control, options, [], errors)
        limit = time.monotonic() + CONNECT_SECONDS
        while not self._is_open():
            if self._master.poll() is not None or time.monotonic() > limit:
                self._disconnect()
                raise error_from_log(self.device, _end_of(log))
            time.sleep(_POLL_SECONDS)

    def call(self, verb: str, **request: Any) -> Call:
        """Ask the agent on the board for something; the caller reads the replies."""
        if self._master is None or self._master.poll() is not None:
            raise ConnectionLost("the master connection ended")
        return Call(self._channel(["exec", self.python, "-c", _BOOTSTRAP]), verb, request)

    def run_script(self, source: str, *arguments: str) -> str:
        """Run a self-contained script on the board and return its standard output.

        Raises:
            DeviceError: It failed (EV816), says too much (EV834) or does not answer (EV835).
            ConnectionLost: The connection broke.
        """
        process = self._channel(["exec", self.python, "-", *arguments])
        with Channel(process, _SCRIPT_SECONDS) as channel:
            channel.write(source.encode())
            channel.close_input()
            until = time.monotonic() + _SCRIPT_SECONDS
            output = b"".join(iter(lambda: channel.line(until), b""))
            status, said = channel.status(), channel.said
        if status == SSH_FAILED or status < 0:
            raise ConnectionLost(said or f"ssh ended with {status}")
        if status != 0:
            raise no_python(self.python, said)
        return output.decode(errors="replace")

    def _channel(self, words: list[str]) -> subprocess.Popen[bytes]:
        command = " ".join(word if word == "exec" else remote_word(word) for word in words)
        options = ["-o", "ControlMaster=no"]
        return start_ssh(self.device, self._control, options, [command], subprocess.PIPE)

    def _is_open(self) -> bool:
        if not os.path.exists(self._control):
            return False
        check = [*ssh_command(), "-S", self._control, "-O", "check", "--", self.device]
        with suppress(subprocess.TimeoutExpired):
            return subprocess.run(check, capture_output=True, timeout=15).returncode == 0
        return False

    def _disconnect(self) -> None:
        if self._master is not None and self._master.poll() is None:
            self._master.terminate()
            self._master.wait()
        self._master = None
        with suppress(FileNotFoundError):
            os.unlink(self._control)


def _end_of(log: Path) -> str:
    with open(log, "rb") as stream:
        stream.seek(max(0, log.stat().st_size - _LOG_BYTES))
        return stream.read().decode(errors="replace")


def _socket_name(folder: Path, opening: ExitStack) -> str:
    """Return a name for a socket in a folder, short whatever the folder's own is."""
    name = folder / "s"
    if len(os.fsencode(name)) <= _LONGEST_SOCKET or not os.path.isdir("/proc/self/fd"):
        return str(name)
    descriptor = os.open(folder, os.O_RDONLY)
    opening.callback(os.close, descriptor)
    return f"/proc/{os.getpid()}/fd/{descriptor}/s"


def remote_word(word: str) -> str:
    """Return a word for the board's shell: as it is, but for a ~/ that stands for home there."""
    home = "~/" if word.startswith("~/") else ""
    return home + shlex.quote(word[len(home) :])


def no_python(python: str, errors: str) -> DeviceError:
    """Return the error for a board whose Python does not start, or is too old."""
    return DeviceError(
        "EV816",
        "The board's Python can't run EdgeViT.",
        where=f"--python {python}",
        why=plain(errors, 500) or "It said nothing.",
        try_next="Python 3.8 or newer with numpy is needed there; --python names another one.",
    )
