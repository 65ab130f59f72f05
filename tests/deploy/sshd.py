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
from dataclasses import dataclass, field
from pathlib import Path

SSHD = shutil.which("sshd") or next(
    (path for path in ("/usr/sbin/sshd", "/usr/local/sbin/sshd") if os.path.exists(path)), None
)


class Line:
    """Forwards TCP connections to a port; can be cut after so many bytes towards the board.

    Args:
        port: Where it forwards to.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.cut_after: list[int] = []
        self.on_cut = lambda: None
        self.cuts = self.carried = 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()
        self._hang_up()

    def cut(self) -> None:
        """Hang up now."""
        self.cuts += 1
        self.on_cut()
        self._hang_up()

    def _hang_up(self) -> None:
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return
            self._pairs.append((near, far))
            for source, sink, counted in ((near, far, True), (far, near, False)):
                threading.Thread(
                    target=self._carry, args=(source, sink, counted), daemon=True
                ).start()

    def _carry(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 14):
                sink.sendall(data)
                self.carried += len(data) * counted
                if counted and self.cut_after and self.carried >= self.cut_after[0]:
                    self.cut_after.pop(0)
                    self.cut()
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
        """Return the files in the board's home."""
        return sorted(str(p.relative_to(self.home)) for p in self.home.rglob("*") if p.is_file())

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
