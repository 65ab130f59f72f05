"""Every message of a board: its schema, and the limits of what is taken from it.

Anything else ends in one error. JSON has no NaN and no infinity, and integers and texts are
bounded, so that what passes can be computed with and shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from edgevit import errors
from edgevit.deploy.words import plain
from edgevit.errors import (
    AccuracyGateError,
    DeviceError,
    EdgeViTError,
    LatencyGateError,
    UndecidedError,
)

LINE_BYTES = 4 << 20
"""Most bytes of one line."""
TOTAL_BYTES = 256 << 20
"""Most bytes of all lines that answer one request."""
NAME_CHARACTERS, TEXT_CHARACTERS = 500, 20_000

Count = Annotated[int, Meta(ge=0, le=10**9)]
Bytes = Annotated[int, Meta(ge=0, le=1 << 60)]
Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Name = Annotated[str, Meta(max_length=NAME_CHARACTERS)]
Text = Annotated[str, Meta(max_length=TEXT_CHARACTERS)]
Path_ = Annotated[str, Meta(pattern=r"^/[^\0-\x1f\x7f-\x9f]{0,4000}\Z")]
Stage = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_ ,.-]{1,80}\Z")]
Code = Annotated[str, Meta(pattern=r"^EV[0-9]{3}\Z")]
Words = Annotated[str, Meta(max_length=LINE_BYTES)]
T = TypeVar("T")


class Message(Struct, frozen=True, tag_field="reply", forbid_unknown_fields=True):
    """A reply of the agent."""


class Failed(Message, frozen=True, tag="failed"):
    """It refuses, or can't."""

    kind: Literal["full", "busy", "damaged", "folder", "request", "system"]
    message: Words


class Alive(Message, frozen=True, tag="alive"):
    """It goes on working."""


class BoardMessage(Message, frozen=True, tag="board"):
    """The board's Python, machine, folder and room."""

    python: Annotated[str, Meta(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}[0-9A-Za-z.+]{0,40}\Z")]
    machine: Name
    root: Path_
    free_bytes: Bytes
    present_bytes: Bytes


class Has(Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes of one file that the board has, and their SHA-256."""

    bytes: Bytes
    sha256: Hash
    whole: bool


class Present(Message, frozen=True, tag="present"):
    """Bytes of all files that the board has."""

    files: Annotated[list[Has], Meta(max_length=100_000)]


class Received(Message, frozen=True, tag="received"):
    """Bytes that came in by now."""

    bytes: Bytes


class Complete(Message, frozen=True, tag="complete"):
    """All files are there."""


class Line(Message, frozen=True, tag="line"):
    """A line of the command's output, and where the next one begins."""

    text: Words
    offset: Bytes


class Exit(Message, frozen=True, tag="exit"):
    """The command's status, and the end of what it said on standard error."""

    status: Annotated[int, Meta(ge=-128, le=255)] | None
    errors: Words


class File(Message, frozen=True, tag="file"):
    """The head of a file, whose bytes follow."""

    size: Bytes
    sha256: Hash


class Done(Message, frozen=True, tag="done"):
    """It is done."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The messages that may answer a verb, and the longest time they may take.

    Args:
        replies: The messages.
        silent_s: Longest time without any message.
        stalled_s: Longest time with messages that only say that it is alive.
    """

    replies: Any
    silent_s: float = 120.0
    stalled_s: float = 300.0


PROTOCOLS = {
    "probe": Protocol(replies=Failed | Alive | BoardMessage),
    "receive": Protocol(replies=Failed | Alive | Present | Received | Complete),
    # TensorRT says nothing while it builds, which takes tens of minutes on a small board.
    "start": Protocol(replies=Failed | Alive | Line | Exit, stalled_s=7200.0),
    "send": Protocol(replies=Failed | Alive | File),
    "stop": Protocol(replies=Failed | Alive | Done, silent_s=30.0),
    "clean": Protocol(replies=Failed | Alive | Done, silent_s=30.0),
}
"""By verb of `edgevit.deploy.agent.answering.VERBS`."""


_GATES = (AccuracyGateError, LatencyGateError, UndecidedError)
RAISED = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, EdgeViTError) and kind not in _GATES
}
"""Classes of errors that a board may report, by name; gates are judged on this side."""


class Progressed(Struct, frozen=True):
    """A line of the measurement: how far it is."""

    stage: Stage
    done: Count
    total: Count


class Reported(Struct, frozen=True, rename={"try_next": "try", "kind": "class"}):
    """An error of `edgevit.errors` that was raised on the board; its class is one of `RAISED`."""

    kind: Name
    code: Code
    what: Words
    where: Words = ""
    why: Words = ""
    try_next: Words = ""


class Raised(Struct, frozen=True):
    """A line of the measurement: it ends with an error."""

    error: Reported


def decode_message(data: bytes, kind: type[T], what: str) -> T:
    """Return a message of the board.

    Args:
        data: JSON.
        kind: Its schema; a union of messages is one, too.
        what: What it answers, for the error.

    Raises:
        DeviceError: It is something else (EV833).
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise message_misfit(what, str(error)) from None


def message_misfit(what: str, why: str) -> DeviceError:
    """Return the error for an answer that can't be what EdgeViT on a board says (EV833)."""
    return DeviceError(
        "EV833",
        "The board's answer is none that EdgeViT gives.",
        where=what,
        why=plain(why, 500),
        try_next="See what answers there, such as another program in the place of its Python: "
        "--python names one.",
    )
