"""Runs the measurement on the board: progress as it comes, errors as if they had been raised here.

The run goes on when the connection breaks; over a new one it is followed from the last line on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

from edgevit.bundle.limits import limit_variables
from edgevit.deploy.channel import silent
from edgevit.deploy.connection import Connection
from edgevit.deploy.messages import (
    RAISED,
    Exit,
    Line,
    Progressed,
    Raised,
    Reported,
    decode_message,
    message_misfit,
)
from edgevit.deploy.words import plain
from edgevit.errors import DeviceError, EdgeViTError
from edgevit.progress import Progress

_KILLED = -9
_MOST_SECONDS = 24 * 3600.0
_WHAT = "line of the measurement"


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
        self._until = time.monotonic() + _MOST_SECONDS
        self._error: EdgeViTError | None = None

    def follow(self, connection: Connection, on_reply: Callable[[], None]) -> None:
        """Start the run, or go on following it, until it has ended well.

        Args:
            connection: To the board.
            on_reply: Called whenever something is heard of the board.

        Raises:
            ConnectionLost: The connection broke; call again over a new one.
            EdgeViTError: What the run raised; DeviceError when it was killed (EV819) or failed
                otherwise (EV820), or when what comes is no measurement's progress (EV833, EV835).
        """
        request = {
            "root": self.root,
            "nonce": self._nonce,
            "offset": self._offset,
            "arguments": ["-m", "edgevit.runner.board", *self.arguments],
            "environment": {
                "PYTHONPATH": self.root,
                "PYTHONDONTWRITEBYTECODE": "1",
                **limit_variables(),
            },
        }
        with connection.call("start", **request) as call:
            for reply in call.replies():
                on_reply()
                if time.monotonic() > self._until:
                    raise silent(f"It has measured for {_MOST_SECONDS / 3600:g} hours.")
                if isinstance(reply, Line):
                    self._heard(reply)
                if isinstance(reply, Exit):
                    self._check(reply.status, plain(reply.errors))
                    return
        raise message_misfit("answer to 'start'", "It ended without the run's exit status.")

    def _heard(self, line: Line) -> None:
        if line.offset <= self._offset:
            raise message_misfit(_WHAT, f"It goes back from {self._offset} to {line.offset}.")
        self._offset = line.offset
        try:
            keys = set(json.loads(line.text))
        except (ValueError, TypeError, RecursionError):
            return  # what a library prints
        if "error" in keys:
            self._error = _error_there(decode_message(line.text.encode(), Raised, _WHAT).error)
        elif "stage" in keys:
            said = decode_message(line.text.encode(), Progressed, _WHAT)
            if said.done > said.total:
                raise message_misfit(_WHAT, f"{said.done} of {said.total} are done.")
            self.progress(said.stage, said.done, said.total)

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
            why=said[-1500:] or f"It ended with status {status}.",
            try_next="Deploy with --keep, then run the command it shows on the board itself.",
        )


def _error_there(said: Reported) -> EdgeViTError:
    """Return the board's error as one of the same class, so that it has the same exit status."""
    if said.kind not in RAISED:
        raise message_misfit(_WHAT, f"{said.kind} is no class of an error that it could raise.")
    return RAISED[said.kind](
        said.code,
        plain(said.what) or "The measurement on the board failed.",
        where=f"on the board {plain(said.where)}".strip(),
        why=plain(said.why),
        try_next=plain(said.try_next),
    )
