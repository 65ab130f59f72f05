"""One request to the agent on the board: what is sent, the replies, and what each end means."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from types import TracebackType
from typing import Any

from edgevit.deploy.agent.replies import MARK
from edgevit.errors import DeviceError, EdgeViTError, EnvironmentError_

SSH_FAILED = 255
"""Status with which ssh itself fails; a command there has another."""
_AGENT_MODULES = ("replies", "running", "receiving", "answering")  # each before its users


class ConnectionLost(Exception):
    """The connection broke; the same request can be made again over a new one."""


class Call:
    """A running request.

    Args:
        process: `ssh` with pipes, whose remote end runs the bootstrap of connection.py.
        verb: One of `edgevit.deploy.agent.answering.VERBS`.
        request: Its arguments.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], verb: str, request: dict[str, Any]
    ) -> None:
        self._process = process
        self._errors = b""
        self._drain = threading.Thread(target=self._read_errors, daemon=True)
        self._drain.start()
        source = _agent_source()
        asked = json.dumps({"verb": verb, **request}).encode()
        self._opening = b"%d\n%s%s\n" % (len(source), source, asked)

    def __enter__(self) -> Call:
        self.write(self._opening)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abandon()
        for stream in (self._process.stdin, self._process.stdout):
            try:
                if stream is not None:
                    stream.close()
            except OSError:  # what was still buffered has nowhere to go
                pass
        self._drain.join()

    def write(self, data: bytes) -> bool:
        """Send bytes; return whether they could be: why not shows when the replies are read."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):  # ValueError: closed by now
            return False
        return True

    def abandon(self) -> None:
        """End the request now, so that a thread that still writes to it stops."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()

    def replies(self) -> Iterator[dict[str, Any]]:
        """Yield the replies until the other side is done.

        Raises:
            ConnectionLost: It broke.
            EdgeViTError: What the agent reports (see `_reported`), or its Python's failure (EV816).
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.startswith(MARK.encode()) or not line.endswith(b"\n"):
                continue  # a login script's greeting, or a reply that was cut off
            reply = json.loads(line[len(MARK) :])
            if "error" in reply:
                raise _reported(reply["error"], reply["message"])
            yield reply
        self._check_end()

    def reply(self) -> dict[str, Any]:
        """Return the next reply; errors as `replies`."""
        for reply in self.replies():
            return reply
        raise ConnectionLost("it ended without an answer")

    def read(self, size_bytes: int) -> bytes:
        """Return that many raw bytes that follow a reply.

        Raises:
            ConnectionLost: Fewer came.
        """
        assert self._process.stdout is not None
        data = self._process.stdout.read(size_bytes)
        if len(data) != size_bytes:
            raise ConnectionLost(f"{len(data)} of {size_bytes} bytes came")
        return data

    def _check_end(self) -> None:
        status = self._process.wait()
        self._drain.join()
        if status == 0:
            return
        said = self._errors.decode(errors="replace").strip()
        # 255 is ssh's own; a signal is ssh ended by one; 1 without a word is an agent that lost us.
        if status == SSH_FAILED or status < 0 or (status == 1 and not said):
            raise ConnectionLost(said or f"ssh ended with {status}")
        raise DeviceError(
            "EV816",
            "The board's Python can't run EdgeViT.",
            why=said[-1000:],
            try_next="Python 3.8 or newer is needed there; --python names another one.",
        )

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            self._errors = stream.read()


@lru_cache
def _agent_source() -> bytes:
    """Return one script that defines the agent's modules under their own names and runs them."""
    folder = resources.files("edgevit.deploy") / "agent"
    modules = [
        (f"edgevit.deploy.agent.{name}", (folder / f"{name}.py").read_text("utf-8"))
        for name in _AGENT_MODULES
    ]
    lines = (
        "import sys, types",
        f"for name, text in {modules!r}:",
        "    module = sys.modules[name] = types.ModuleType(name)",
        "    exec(compile(text, name, 'exec'), module.__dict__)",
        f"sys.modules[{modules[-1][0]!r}].main()",
    )
    return "\n".join(lines).encode()


def _reported(kind: str, message: str) -> EdgeViTError:
    """Return the error for what the agent refused or could not do."""
    if kind == "full":
        return EnvironmentError_(
            "EV817",
            "The board's disk is full.",
            why=message,
            try_next="Free some space there, or --folder on another disk of the board.",
        )
    if kind == "busy":
        return DeviceError(
            "EV822",
            "This bundle is being deployed to this board already.",
            why=message,
            try_next="Wait for it to end.",
        )
    if kind == "damaged":
        return DeviceError("EV821", "A file arrived damaged.", why=message, try_next="Try again.")
    return DeviceError(
        "EV824",
        "The board could not do what it was asked.",
        why=message,
        try_next="Check that the folder may be written to; --folder names another one.",
    )
