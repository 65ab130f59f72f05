"""One command on the board through `ssh`: bytes in and out, bounded in size and in time."""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import IO

from edgevit.deploy.messages import LINE_BYTES, TOTAL_BYTES
from edgevit.deploy.words import plain
from edgevit.errors import DeviceError

_CHUNK_BYTES = 1 << 16
_KEPT_BYTES = 1 << 16  # of standard error: its end
_END_SECONDS, _CLOSED_SECONDS = 5.0, 20.0
_SLOWEST_BYTES_PER_SECOND = 4096


class Channel:
    """A running `ssh` with unbuffered pipes; a context manager that ends it.

    Args:
        process: The client.
        silent_s: Longest time that nothing is taken or said.
    """

    def __init__(self, process: subprocess.Popen[bytes], silent_s: float) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process, self.silent_s = process, silent_s
        self._in, self._out = process.stdin, process.stdout
        self._waiting, self._taken, self._errors = bytearray(), 0, b""
        for stream in (self._in, self._out):
            os.set_blocking(stream.fileno(), False)
        self._drain = threading.Thread(
            target=self._read_errors, args=(process.stderr,), daemon=True
        )
        self._drain.start()

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abandon()
        for stream in (self._in, self._out):
            with suppress(OSError):  # what was still buffered has nowhere to go
                stream.close()
        self._drain.join(_END_SECONDS)

    def write(self, data: bytes) -> bool:
        """Send bytes; return whether they could be: why not shows when the replies are read."""
        left = memoryview(data)
        try:
            while left:
                if not _ready(self._in, select.POLLOUT, self.silent_s):
                    self.abandon()  # nobody takes anything
                    return False
                left = left[os.write(self._in.fileno(), left[:_CHUNK_BYTES]) :]
        except (OSError, ValueError):  # ValueError: closed by now
            return False
        return True

    def close_input(self) -> None:
        """Say that nothing more comes."""
        with suppress(OSError):
            self._in.close()

    def line(self, until: float) -> bytes:
        """Return the next line with its end; what is left without one, or nothing, at the end.

        Args:
            until: Time by `time.monotonic` at which it has to be there.

        Raises:
            DeviceError: It is too long, or all of them are (EV834); it does not come (EV835).
        """
        searched = 0
        while (end := self._waiting.find(b"\n", searched)) < 0:
            searched = len(self._waiting)
            if searched > LINE_BYTES:
                raise too_much(f"One line of it has more than {LINE_BYTES >> 20} MiB.")
            if not self._more(until):
                end = searched - 1
                break
        self._taken += end + 1
        if self._taken > TOTAL_BYTES:
            raise too_much(f"It has said more than {TOTAL_BYTES >> 20} MiB.")
        return self._cut(end + 1)

    def block(self, size_bytes: int) -> bytes:
        """Return that many bytes, fewer at the end.

        Raises:
            DeviceError: They don't come (EV835).
        """
        until = time.monotonic() + self.silent_s + size_bytes / _SLOWEST_BYTES_PER_SECOND
        while len(self._waiting) < size_bytes and self._more(until):
            pass
        return self._cut(size_bytes)

    def status(self) -> int:
        """Return the client's exit status; negative for a signal.

        Raises:
            DeviceError: It goes on without another word (EV835).
        """
        try:
            status = self._process.wait(min(self.silent_s, _CLOSED_SECONDS))
        except subprocess.TimeoutExpired:
            raise silent("It has ended its answer and does not end.") from None
        self._drain.join(_END_SECONDS)
        return status

    @property
    def said(self) -> str:
        """The end of what came on standard error, fit to be shown."""
        return plain(self._errors)

    def abandon(self) -> None:
        """End the command now, so that a thread that still writes to it stops."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _more(self, until: float) -> bool:
        """Wait for bytes; return whether some came before the end."""
        if not _ready(self._out, select.POLLIN, until - time.monotonic()):
            raise silent(f"Nothing has come for {self.silent_s:.0f} seconds.")
        data = os.read(self._out.fileno(), _CHUNK_BYTES)
        self._waiting += data
        return bool(data)

    def _cut(self, size: int) -> bytes:
        data = bytes(self._waiting[:size])
        del self._waiting[:size]
        return data

    def _read_errors(self, stream: IO[bytes]) -> None:
        with stream, suppress(OSError):
            while data := os.read(stream.fileno(), _CHUNK_BYTES):
                self._errors = (self._errors + data)[-_KEPT_BYTES:]


def _ready(stream: IO[bytes], event: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(stream.fileno(), event)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def silent(why: str) -> DeviceError:
    """Return the error for a board that is connected and does not answer (EV835)."""
    return DeviceError(
        "EV835",
        "The board does not answer.",
        why=why,
        try_next="See what it is doing (top); deploy again when it is idle.",
    )


def too_much(why: str) -> DeviceError:
    """Return the error for a board that says more than any answer needs (EV834)."""
    return DeviceError(
        "EV834",
        "The board says more than an answer can hold.",
        why=why,
        try_next="See what its Python and its login scripts print there.",
    )
