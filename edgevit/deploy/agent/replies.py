"""The agent's replies and requests: marked lines of JSON out, lines and bytes in."""

from __future__ import annotations

import json
import sys
from io import BufferedReader
from typing import Any

MARK = "@edgevit "
PARTIAL = ".part"


class Refused(Exception):
    """A refusal, told to the other side instead of a result: a kind and a message."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message


def say(reply: str, **content: Any) -> None:
    """Send one reply; edgevit/deploy/messages.py has the schema of each."""
    line = MARK + json.dumps({"reply": reply, **content}) + "\n"
    sys.stdout.buffer.write(line.encode())
    sys.stdout.buffer.flush()


def read_line() -> bytes:
    """Return the next line of standard input.

    Raises:
        EOFError: Nobody is there any more.
    """
    line = standard_input().readline()
    if not line:
        raise EOFError
    return line


def standard_input() -> BufferedReader:
    """Return standard input as bytes."""
    assert isinstance(sys.stdin.buffer, BufferedReader)
    return sys.stdin.buffer
