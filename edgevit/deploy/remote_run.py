"""Runs the measurement on the board: progress as it comes, errors as if they had been raised here.

The run goes on when the connection breaks; over a new one it is followed from the last line on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from edgevit import errors
from edgevit.bundle.limits import given_limits
from edgevit.calibration.progress import Progress
from edgevit.deploy.connection import Connection
from edgevit.errors import DeviceError, EdgeViTError

_KILLED = -9


class RemoteRun:
    """One run of ``python3 -m edgevit.runner.board`` on the board.

    Args:
        root: The deployment's folder there.
        nonce: Of the deployment.
        arguments: Of that command.
        progress: Called with (stage, done, total).
    """

    def __init__(self, root: str, nonce: str, arguments: Sequence[str], progress: Progress) -> None:
        self.root, self.arguments, self.progress = root, list(arguments), progress
        self._nonce, self._offset = nonce, 0
        self._error: EdgeViTError | None = None

    def follow(self, connection: Connection, on_reply: Callable[[], None]) -> None:
        """Start the run, or go on following it, until it has ended well.

        Args:
            connection: To the board.
            on_reply: Called whenever something is heard of the board.

        Raises:
            ConnectionLost: The connection broke; call again over a new one.
            EdgeViTError: What the run raised; DeviceError when it was killed (EV819) or failed
                otherwise (EV820).
        """
        request = {
            "root": self.root,
            "nonce": self._nonce,
            "offset": self._offset,
            "arguments": ["-m", "edgevit.runner.board", *self.arguments],
            "environment": {
                "PYTHONPATH": self.root,
                "PYTHONDONTWRITEBYTECODE": "1",
                **given_limits(),
            },
        }
        with connection.call("start", **request) as call:
            for reply in call.replies():
                on_reply()
                if "line" in reply:
                    self._offset = reply["offset"]
                    self._heard(reply["line"])
                if "exit" in reply:
                    self._check(reply["exit"], reply["errors"])

    def _heard(self, line: str) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            return  # what a library prints
        if not isinstance(said, dict):
            return
        if "error" in said:
            self._error = _raised_there(said["error"])
        elif {"stage", "done", "total"} <= set(said):
            self.progress(said["stage"], said["done"], said["total"])

    def _check(self, status: int | None, said: str) -> None:
        if status == 0:
            return
        if self._error is not None:
            raise self._error
        if status is None or status < 0:
            memory = "It may have run out of memory: try --threads 1, swap, or a smaller model."
            raise DeviceError(
                "EV819",
                "The measurement on the board was killed.",
                why=f"It was ended by signal {-status}." if status else "Nothing is left of it.",
                try_next=memory if status in (_KILLED, None) else "Deploy again.",
            )
        raise DeviceError(
            "EV820",
            "The measurement on the board failed.",
            why=said.strip()[-1500:] or f"It ended with status {status}.",
            try_next="Deploy with --keep, then run the command it shows on the board itself.",
        )


def _raised_there(parts: dict[str, Any]) -> EdgeViTError:
    """Return the board's error as one of the same class, so that it has the same exit status."""
    kind = getattr(errors, str(parts.get("class")), EdgeViTError)
    if not (isinstance(kind, type) and issubclass(kind, EdgeViTError)):
        kind = EdgeViTError
    return kind(
        str(parts.get("code", "EV820")),
        str(parts.get("what", "The measurement on the board failed.")),
        where=" ".join(("on the board", str(parts.get("where", "")))).strip(),
        why=str(parts.get("why", "")),
        try_next=str(parts.get("try", "")),
    )
