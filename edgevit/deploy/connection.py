"""One SSH connection to a board, through the user's own `ssh`, its configuration and its agent.

A master connection is kept open for as long as the `with` block lasts; every request to the agent
(see agent.py) is a channel of it. Host keys are checked as the user's configuration says, which is
never changed here. ``EDGEVIT_SSH`` names another client, such as ``ssh -F config``.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from edgevit.deploy.call import SSH_FAILED, Call, ConnectionLost
from edgevit.errors import DeviceError, EdgeViTError, EnvironmentError_, UsageError
from edgevit.scratch import PREFIX, clear

_CONNECT_SECONDS = 60
_POLL_SECONDS = 0.05
_BOOTSTRAP = (
    "import sys;i=sys.stdin.buffer;exec(compile(i.read(int(i.readline())),'edgevit','exec'))"
)
# A dead connection is noticed within 15 seconds; nothing of the user's is forwarded for us.
_OPTIONS = {
    "ControlPersist": "no",
    "ClearAllForwardings": "yes",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "ConnectTimeout": "15",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
}


class Connection:
    """A connection to a board, to be used as a context manager.

    Args:
        device: ``user@host``, an alias of the user's SSH configuration, or
            ``ssh://user@host:port``.
        python: The board's Python, as its login shell finds it; ``~/`` is the home there.

    Raises:
        UsageError: The address is none (EV811).
        EnvironmentError_: There is no SSH client here (EV810).
        DeviceError: The board can't be reached (EV814), its host key is unknown or changed (EV812),
            or it refuses the login (EV813).
    """

    def __init__(self, device: str, *, python: str = "python3") -> None:
        if not _is_address(device):
            raise UsageError(
                "EV811",
                f"{device!r} is no address of a board.",
                where="--device",
                try_next="user@host, an alias of ~/.ssh/config, or ssh://user@host:port.",
            )
        self.device, self.python = device, python
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._master: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Connection:
        # Sockets have short names: not every folder for temporary files would do.
        place = "/tmp" if os.path.isdir("/tmp") else None
        self._folder = tempfile.TemporaryDirectory(prefix=PREFIX, dir=place)
        try:
            self.connect()
        except BaseException:
            clear(self._folder)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._disconnect()
        finally:
            if self._folder is not None:
                clear(self._folder)

    def connect(self) -> None:
        """Connect, or connect again after the connection was lost."""
        self._disconnect()
        log = Path(self._control).with_name("log")
        with open(log, "wb") as errors:
            self._master = self._popen(["-N", "-o", "ControlMaster=yes"], [], stderr=errors)
        limit = time.monotonic() + _CONNECT_SECONDS
        while not self._is_open():
            if self._master.poll() is not None or time.monotonic() > limit:
                self._disconnect()
                raise _refused(self.device, log.read_text(errors="replace"))
            time.sleep(_POLL_SECONDS)

    def call(self, verb: str, **request: Any) -> Call:
        """Ask the agent on the board for something; the caller reads the replies."""
        if self._master is None or self._master.poll() is not None:
            raise ConnectionLost("the master connection ended")
        return Call(self._channel(["exec", self.python, "-c", _BOOTSTRAP]), verb, request)

    def run_script(self, source: str, *arguments: str) -> str:
        """Run a self-contained script on the board and return its standard output.

        Raises:
            DeviceError: It failed (EV816).
            ConnectionLost: The connection broke.
        """
        process = self._channel(["exec", self.python, "-", *arguments])
        output, errors = process.communicate(source.encode())
        said = errors.decode(errors="replace")
        if process.returncode == SSH_FAILED or process.returncode < 0:
            raise ConnectionLost(said.strip() or f"ssh ended with {process.returncode}")
        if process.returncode != 0:
            raise no_python(self.python, said)
        return output.decode(errors="replace")

    def _channel(self, words: list[str]) -> subprocess.Popen[bytes]:
        command = " ".join(word if word == "exec" else remote_word(word) for word in words)
        return self._popen(["-o", "ControlMaster=no"], [command], stderr=subprocess.PIPE)

    def _popen(
        self, options: list[str], command: list[str], stderr: Any
    ) -> subprocess.Popen[bytes]:
        words = [*ssh_command(), "-T", "-S", self._control]
        for name, value in _OPTIONS.items():
            words += ["-o", f"{name}={value}"]
        if not sys.stdin.isatty():
            words += ["-o", "BatchMode=yes"]  # nobody is there to answer a question
        stdin = subprocess.PIPE if command else subprocess.DEVNULL
        return subprocess.Popen(
            [*words, *options, "--", self.device, *command],
            stdin=stdin,
            stdout=subprocess.PIPE if command else subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, "LC_MESSAGES": "C"},
            preexec_fn=_ignore_interrupt,
        )

    @property
    def _control(self) -> str:
        assert self._folder is not None, "used outside of its with block"
        return os.path.join(self._folder.name, "s")

    def _is_open(self) -> bool:
        if not os.path.exists(self._control):
            return False
        check = [*ssh_command(), "-S", self._control, "-O", "check", "--", self.device]
        return subprocess.run(check, capture_output=True).returncode == 0

    def _disconnect(self) -> None:
        if self._master is not None and self._master.poll() is None:
            self._master.terminate()
            self._master.wait()
        self._master = None
        if os.path.exists(self._control):
            os.unlink(self._control)


def remote_word(word: str) -> str:
    """Return a word for the board's shell: as it is, but for a ~/ that stands for home there."""
    home = "~/" if word.startswith("~/") else ""
    return home + shlex.quote(word[len(home) :])


def ssh_command() -> list[str]:
    """Return the SSH client and what it is always given.

    Raises:
        EnvironmentError_: There is none (EV810).
    """
    from shutil import which

    words = shlex.split(os.environ.get("EDGEVIT_SSH", "ssh"))
    if not words or which(words[0]) is None:
        raise EnvironmentError_(
            "EV810",
            "There is no SSH client here.",
            where=words[0] if words else "EDGEVIT_SSH",
            try_next="Install OpenSSH: apt install openssh-client",
        )
    return words


def _ignore_interrupt() -> None:
    """Let Ctrl-C reach EdgeViT alone, which then cleans up over the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def no_python(python: str, errors: str) -> DeviceError:
    """Return the error for a board whose Python does not start, or is too old."""
    return DeviceError(
        "EV816",
        "The board's Python can't run EdgeViT.",
        where=f"--python {python}",
        why=errors.strip()[-500:] or "It said nothing.",
        try_next="Python 3.8 or newer with numpy is needed there; --python names another one.",
    )


def _is_address(device: str) -> bool:
    """Say whether a text can be an address: a host is named, and a port of ssh:// is one."""
    if not re.fullmatch(r"(ssh://)?[\w.@:%\[\]-]+", device) or device[0] in "-@":
        return False
    port = re.fullmatch(r"ssh://.*[^:]:(\d+)", device)
    return device[-1] != "@" and (port is None or 0 < int(port[1]) < 65536)


def _refused(device: str, log: str) -> EdgeViTError:
    """Return the error that fits what `ssh` said."""
    why = log.strip()[-1500:] or f"No connection within {_CONNECT_SECONDS} seconds."
    host = re.sub(r"^(ssh://)?(.*@)?", "", device)
    if re.search("Host key verification failed|HOST IDENTIFICATION HAS CHANGED", log):
        changed = "HAS CHANGED" in log
        return DeviceError(
            "EV812",
            "The board's host key has changed." if changed else "The board's host key is unknown.",
            where=device,
            why=why,
            try_next=f"If you know why it changed: ssh-keygen -R {host}, then ssh {device} once "
            "and compare the fingerprint."
            if changed
            else f"ssh {device} once and compare the fingerprint it shows with the board's.",
        )
    if re.search("Permission denied|Too many authentication failures", log):
        return DeviceError(
            "EV813",
            "The board refuses the login.",
            where=device,
            why=why,
            try_next=f"ssh-copy-id {device}, or start your SSH agent (ssh-add).",
        )
    return DeviceError(
        "EV814",
        "The board can't be reached.",
        where=device,
        why=why,
        try_next=f"ssh {device} true",
    )
