"""One request to the agent on the board: what is sent, the replies, and what each end means."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from typing import Any, TypeVar

from edgevit.deploy.agent.replies import MARK
from edgevit.deploy.channel import Channel, silent
from edgevit.deploy.messages import (
    PROTOCOLS,
    Alive,
    Failed,
    Message,
    decode_message,
    message_misfit,
)
from edgevit.deploy.words import plain
from edgevit.errors import DeviceError, EdgeViTError, EnvironmentError_

SSH_FAILED = 255
"""Status with which ssh itself fails; a command there has another."""
_AGENT_MODULES = (
    "replies",
    "files",
    "folders",
    "running",
    "receiving",
    "answering",
)  # each before its users
_Reply = TypeVar("_Reply", bound=Message)


class ConnectionLost(Exception):
    """The connection broke; the same request can be made again over a new one."""


class Call(Channel):
    """A running request.

    Args:
        process: `ssh` with pipes, whose remote end runs the bootstrap of connection.py.
        verb: One of `edgevit.deploy.messages.PROTOCOLS`.
        request: Its arguments.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], verb: str, request: dict[str, Any]
    ) -> None:
        self.verb, self._protocol = verb, PROTOCOLS[verb]
        super().__init__(process, self._protocol.silent_s)
        source = _agent_source()
        asked = json.dumps({"verb": verb, **request}).encode()
        self._opening = b"%d\n%s%s\n" % (len(source), source, asked)

    def __enter__(self) -> Call:
        self.write(self._opening)
        return self

    def replies(self) -> Iterator[Message]:
        """Yield the replies until the other side is done; `Alive` is one of them.

        Raises:
            ConnectionLost: It broke.
            EdgeViTError: The agent reports it (`_error_from_failure`), its Python fails (EV816), or
                that its answer is none (EV833), too long (EV834) or does not come (EV835).
        """
        progressed = time.monotonic()
        while line := self._marked_line(progressed + self._protocol.stalled_s):
            reply: Message = decode_message(
                line, self._protocol.replies, f"answer to {self.verb!r}"
            )
            if isinstance(reply, Failed):
                raise _error_from_failure(reply)
            if not isinstance(reply, Alive):
                progressed = time.monotonic()
            yield reply
        self._check_end()

    def reply(self, kind: type[_Reply]) -> _Reply:
        """Return the reply, which has to be of a kind; errors as `replies`."""
        for reply in self.replies():
            if isinstance(reply, kind):
                return reply
            if not isinstance(reply, Alive):
                raise message_misfit(
                    f"answer to {self.verb!r}", f"{type(reply).__name__} came instead."
                )
        raise ConnectionLost("it ended without an answer")

    def read(self, size_bytes: int) -> bytes:
        """Return that many raw bytes that follow a reply.

        Raises:
            ConnectionLost: Fewer came.
            DeviceError: They don't come (EV835).
        """
        data = self.block(size_bytes)
        if len(data) != size_bytes:
            raise ConnectionLost(f"{len(data)} of {size_bytes} bytes came")
        return data

    def _marked_line(self, stalled: float) -> bytes:
        """Return the next reply's JSON, empty at the end.

        What has no mark is a login script's greeting; what has no end was cut off.
        """
        until = time.monotonic() + self.silent_s
        if stalled < time.monotonic():
            raise silent(
                f"It says that it is alive, and no more for {self._protocol.stalled_s:g} s."
            )
        while line := self.line(until):
            if line.startswith(MARK.encode()) and line.endswith(b"\n"):
                return line[len(MARK) :]
        return b""

    def _check_end(self) -> None:
        status = self.status()
        if status == 0:
            return
        # 255 is ssh's own; a signal is ssh ended by one; 1 without a word is an agent that lost us.
        if status == SSH_FAILED or status < 0 or (status == 1 and not self.said):
            raise ConnectionLost(self.said or f"ssh ended with {status}")
        raise DeviceError(
            "EV816",
            "The board's Python can't run EdgeViT.",
            why=self.said[-1000:],
            try_next="Python 3.8 or newer is needed there; --python names another one.",
        )


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


def _error_from_failure(failed: Failed) -> EdgeViTError:
    """Return the error for what the agent refused or could not do."""
    why = plain(failed.message)
    if failed.kind == "full":
        return EnvironmentError_(
            "EV817",
            "The board's disk is full.",
            why=why,
            try_next="Free some space there, or --folder on another disk of the board.",
        )
    if failed.kind == "busy":
        return DeviceError(
            "EV822",
            "This bundle is being deployed to this board already.",
            why=why,
            try_next="Wait for it to end.",
        )
    if failed.kind == "damaged":
        return DeviceError("EV821", "A file arrived damaged.", why=why, try_next="Try again.")
    if failed.kind == "folder":
        return DeviceError(
            "EV832",
            "The board's folder is not one that EdgeViT may use.",
            why=why,
            try_next="Look at it there: only you may own it and write to it, and no link leads to "
            "it. --folder names another place.",
        )
    return DeviceError(
        "EV824",
        "The board could not carry out a request.",
        why=why,
        try_next="Check that the folder may be written to; --folder names another one.",
    )
