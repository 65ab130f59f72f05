"""The user's own `ssh`: its command line, a child that ends with this process, its errors.

Host keys are checked as the user's configuration says, which is never changed here.
``EDGEVIT_SSH`` names another client, such as ``ssh -F config``.
"""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from edgevit.deploy.words import plain
from edgevit.errors import DeviceError, EdgeViTError, EnvironmentError_

CONNECT_SECONDS = 60
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
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


def start_ssh(
    device: str, control: str, options: Sequence[str], command: Sequence[str], stderr: Any
) -> subprocess.Popen[bytes]:
    """Start the client as a child that ends with this process, even if that is killed (Linux).

    Args:
        device: The board.
        control: Path of the master connection's socket.
        options: Of the client, for this connection.
        command: What the board's shell is given; pipes are made if there is one.
        stderr: As for `subprocess.Popen`.
    """
    words = [*ssh_command(), "-T", "-S", control]
    for name, value in _OPTIONS.items():
        words += ["-o", f"{name}={value}"]
    if not sys.stdin.isatty():
        words += ["-o", "BatchMode=yes"]  # nobody is there to answer a question
    pipe = subprocess.PIPE if command else subprocess.DEVNULL
    return subprocess.Popen(
        [*words, *options, "--", device, *command],
        stdin=pipe,
        stdout=pipe,
        stderr=stderr,
        bufsize=0,
        env={**os.environ, "LC_MESSAGES": "C"},
        preexec_fn=_prepare_child(),
    )


def _prepare_child() -> Callable[[], None]:
    """Return what the child does before it becomes `ssh`; all it needs is loaded by now.

    It ends with the thread that starts it, too, which is the one that holds the connection. Ctrl-C
    reaches EdgeViT alone, which cleans up over the connection.
    """
    parent = os.getpid()
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if prctl is not None:
            prctl(_SET_DEATH_SIGNAL, int(signal.SIGTERM), 0, 0, 0)
            if os.getppid() != parent:  # it was killed before that
                os._exit(1)

    return prepare


def is_address(device: str) -> bool:
    """Say whether a text can be an address: a host is named, and a port of ssh:// is one."""
    if not re.fullmatch(r"(ssh://)?[\w.@:%\[\]-]+", device) or device[0] in "-@":
        return False
    port = re.fullmatch(r"ssh://.*[^:]:(\d+)", device)
    return device[-1] != "@" and (port is None or 0 < int(port[1]) < 65536)


def error_from_log(device: str, log: str) -> EdgeViTError:
    """Return the error that fits what `ssh` said."""
    why = plain(log, 1500) or f"No connection within {CONNECT_SECONDS} seconds."
    host = re.sub(r"^(ssh://)?(.*@)?", "", device)
    if re.search("Host key verification failed|HOST IDENTIFICATION HAS CHANGED", log):
        if "HAS CHANGED" in log:
            return DeviceError(
                "EV839",
                "The board's host key has changed.",
                where=device,
                why=why,
                try_next=f"If you know why it changed: ssh-keygen -R {host}, then ssh {device} "
                "once and compare the fingerprint.",
            )
        return DeviceError(
            "EV812",
            "The board's host key is unknown.",
            where=device,
            why=why,
            try_next=f"ssh {device} once and compare the fingerprint it shows with the board's.",
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
