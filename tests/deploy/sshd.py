"""A real OpenSSH server on this machine that plays the board, and a line to it that can be cut."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

SSHD = shutil.which("sshd") or next(
    (path for path in ("/usr/sbin/sshd", "/usr/local/sbin/sshd") if os.path.exists(path)), None
)


class Line:
    """Forwards TCP connections to a port; does things after so many bytes towards the board (`at`).

    Args:
        port: Where it forwards to.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.at: list[tuple[int, Callable[[], None]]] = []
        self.cuts = self.carried = 0
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listen(0)

    def _listen(self, port: int) -> None:
        self._server = socket.create_server(("127.0.0.1", port))
        self.port = self._server.getsockname()[1]
        self._spawn(self._accept, self._server)

    def _spawn(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        thread.start()
        self._threads.append(thread)

    def close(self) -> None:
        self._stop_listening()
        self._hang_up()
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()

    def cut(self) -> None:
        """Hang up now."""
        self.cuts += 1
        self._hang_up()

    def refuse(self) -> None:
        """Hang up, and let nobody in again."""
        self._stop_listening()
        self.cut()

    def reopen(self) -> None:
        """Let people in again, at the same port."""
        self._listen(self.port)

    def _stop_listening(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
        self._server.close()

    def _hang_up(self) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = server.accept()
                self._ends.append(near)
                far = socket.create_connection(("127.0.0.1", self.target))
                self._ends.append(far)
                self._spawn(self._carry, near, far, True)
                self._spawn(self._carry, far, near, False)

    def _carry(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 14):
                sink.sendall(data)
                self.carried += len(data) * counted
                if counted and self.at and self.carried >= self.at[0][0]:
                    self.at.pop(0)[1]()
            sink.shutdown(socket.SHUT_WR)


@dataclass
class Board:
    """A server with its own keys, home and Python, and a client configuration that knows it.

    Args:
        folder: Where all of it lies.
        path: What PATH is on the board.
    """

    folder: Path
    path: str
    home: Path = field(init=False)
    line: Line = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.home = self.folder / "home"
        self.home.mkdir(exist_ok=True)
        self.rc = self.home / ".bashrc"
        self.rc.write_text("echo Welcome to this board\n")  # read by a bash that sshd starts
        for name in ("host_key", "user_key"):
            self._keygen(name)
        public = self.folder / "user_key.pub"
        shutil.copy(public, self.folder / "authorized_keys")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.line = Line(self.port)
        self.know(self.folder / "host_key.pub")
        self._configure()

    def start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists on it
        assert SSHD is not None
        with open(self.folder / "sshd.log", "ab") as log:
            command = [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self.process = subprocess.Popen(command, stderr=log)
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert self.process.poll() is None, (self.folder / "sshd.log").read_text()
            time.sleep(0.05)
        raise AssertionError((self.folder / "sshd.log").read_text())

    def stop(self) -> None:
        self.line.close()
        self.process.terminate()
        self.process.wait()

    def know(self, host_key: Path) -> None:
        """Write the client's list of known hosts."""
        kind, key = host_key.read_text().split()[:2]
        known = f"[127.0.0.1]:{self.line.port} {kind} {key}\n"
        (self.folder / "known_hosts").write_text(known)

    def replace_host_key(self) -> None:
        """Give the client another key than the server has."""
        self._keygen("other_key")
        self.know(self.folder / "other_key.pub")

    def left(self) -> list[str]:
        """Return the files and folders in the board's home, without its greeting."""
        return sorted(str(p.relative_to(self.home)) for p in self.home.rglob("*") if p != self.rc)

    @property
    def client(self) -> str:
        """The client as EDGEVIT_SSH names it."""
        return f"ssh -F {self.folder / 'ssh_config'}"

    def _keygen(self, name: str) -> None:
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)]
        if not (self.folder / name).exists():
            subprocess.run(command, check=True)

    def _configure(self) -> None:
        here = self.folder
        server = {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": here / "host_key",
            "AuthorizedKeysFile": here / "authorized_keys",
            "PidFile": here / "sshd.pid",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "SetEnv": f'"HOME={self.home}" "PATH={self.path}" "XDG_CACHE_HOME="',
        }
        client = {
            "Host": "board",
            "HostName": "127.0.0.1",
            "Port": self.line.port,
            "User": getpass.getuser(),
            "IdentityFile": here / "user_key",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": here / "known_hosts",
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
        }
        for name, lines in (("sshd_config", server), ("ssh_config", client)):
            text = "".join(f"{key} {value}\n" for key, value in lines.items())
            (here / name).write_text(text)
