"""Sends files to the board so that nothing is sent twice: by SHA-256, from where it broke off.

Of each file the board says how much it has and the SHA-256 of that much. If this is what the file
here begins with, only the rest is sent, else all of it; the board checks the whole at the end.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgevit.deploy.call import Call, ConnectionLost
from edgevit.deploy.channel import too_much
from edgevit.deploy.connection import Connection
from edgevit.deploy.messages import Complete, File, Has, Present, Received, message_misfit
from edgevit.errors import DeviceError

_CHUNK_BYTES = 1 << 16
_WHAT = "answer to 'receive'"


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """A file to send.

    Args:
        path: Where it lies here.
        name: Where it shall lie, relative to the deployment's folder on the board.
        size_bytes: Its size.
        sha256: Its hash.
    """

    path: Path
    name: str
    size_bytes: int
    sha256: str

    @staticmethod
    def of(path: Path, name: str) -> Shipped:
        """Return the entry of a file as it is now."""
        digest, size = hashlib.sha256(), 0
        with open(path, "rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
        return Shipped(path=path, name=name, size_bytes=size, sha256=digest.hexdigest())


def send_files(
    connection: Connection,
    root: str,
    nonce: str,
    files: Sequence[Shipped],
    on_bytes: Callable[[int], None],
) -> int:
    """Make the files lie in a folder of the board; whatever else lay there is removed.

    Args:
        connection: To the board.
        root: The folder on the board.
        nonce: Of the deployment, which owns the folder from now on.
        files: What shall be there.
        on_bytes: Called with how many of all bytes are there by now.

    Returns:
        How many bytes were there already.

    Raises:
        ConnectionLost: The connection broke; call again over a new one.
        EdgeViTError: The board's disk is full (EV817), a file arrived damaged (EV821), another
            deployment is under way (EV822), the folder can't be written (EV824), or a file here
            changed meanwhile (EV829).
    """
    listed = [{"name": f.name, "size": f.size_bytes, "sha256": f.sha256} for f in files]
    with connection.call("receive", root=root, nonce=nonce, files=listed) as call:
        present = call.reply(Present).files
        if len(present) != len(files):
            raise message_misfit(
                _WHAT, f"It says of {len(present)} files what it has, of {len(files)}."
            )
        offsets = [_offset(file, has) for file, has in zip(files, present, strict=True)]
        there = sum(
            file.size_bytes if offset is None else offset
            for file, offset in zip(files, offsets, strict=True)
        )
        on_bytes(there)
        _stream(call, files, offsets, lambda received: on_bytes(there + received))
    return there


def _offset(file: Shipped, has: Has) -> int | None:
    """Return from which byte on to send a file, or None if the board has all of it."""
    whole = (has.bytes, has.sha256) == (file.size_bytes, file.sha256)
    if (has.whole and not whole) or has.bytes > file.size_bytes:
        raise message_misfit(
            _WHAT, f"It can't have {has.bytes} bytes of {file.name} with that SHA-256."
        )
    if has.whole:
        return None
    digest, left = hashlib.sha256(), has.bytes
    try:
        with open(file.path, "rb") as stream:
            while left and (chunk := stream.read(min(left, 1 << 20))):
                digest.update(chunk)
                left -= len(chunk)
    except OSError as error:
        raise _changed(file, error.strerror or str(error)) from error
    return has.bytes if digest.hexdigest() == has.sha256 and not left else 0


def _stream(
    call: Call,
    files: Sequence[Shipped],
    offsets: Sequence[int | None],
    on_received: Callable[[int], None],
) -> None:
    """Write in a thread while the replies are read here; the board's word is what counts."""
    stop, unreadable = threading.Event(), list[DeviceError]()

    def write() -> None:
        call.write(json.dumps(offsets).encode() + b"\n")
        try:
            for file, offset in zip(files, offsets, strict=True):
                if offset is not None:
                    _write_file(call, file, offset, stop)
        except DeviceError as error:
            unreadable.append(error)
            call.abandon()  # the board would wait for bytes that don't come

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        _follow(call, files, offsets, on_received)
    except ConnectionLost:
        if unreadable:
            raise unreadable[0] from None
        raise
    finally:
        stop.set()
        call.abandon()
        writer.join()


def _follow(
    call: Call,
    files: Sequence[Shipped],
    offsets: Sequence[int | None],
    on_received: Callable[[int], None],
) -> None:
    """Read how much has arrived until all has; it grows, and not beyond what is sent."""
    before = 0
    expected = sum(
        file.size_bytes - offset
        for file, offset in zip(files, offsets, strict=True)
        if offset is not None
    )
    for reply in call.replies():
        if isinstance(reply, Received):
            if not before <= reply.bytes <= expected:
                raise message_misfit(_WHAT, f"{reply.bytes} of {expected} bytes, after {before}.")
            before = reply.bytes
            on_received(before)
        if isinstance(reply, Complete):
            if before != expected:
                raise message_misfit(
                    _WHAT, f"All is there, it says, with {before} of {expected} bytes."
                )
            return
    raise ConnectionLost("it ended before all files were there")


def _write_file(call: Call, file: Shipped, offset: int, stop: threading.Event) -> None:
    """Send a file from `offset` on, as long as somebody listens.

    Raises:
        DeviceError: It is no longer what was announced (EV829).
    """
    left = file.size_bytes - offset
    try:
        with open(file.path, "rb") as stream:
            stream.seek(offset)
            while left and (chunk := stream.read(min(left, _CHUNK_BYTES))):
                left -= len(chunk)
                if stop.is_set() or not call.write(chunk):
                    return
    except OSError as error:
        raise _changed(file, error.strerror or str(error)) from error
    if left:
        raise _changed(file, f"It is {left} bytes shorter than when it was hashed.")


def _changed(file: Shipped, why: str) -> DeviceError:
    return DeviceError(
        "EV829",
        "A file changed while it was being sent.",
        where=str(file.path),
        why=why,
        try_next="Deploy again, and leave the bundle alone meanwhile.",
    )


def fetch(connection: Connection, root: str, name: str, most_bytes: int) -> bytes:
    """Return a file of the board.

    Args:
        connection: To the board.
        root: The deployment's folder there.
        name: Of the file in it.
        most_bytes: Largest size that is taken.

    Raises:
        ConnectionLost: The connection broke.
        DeviceError: It arrived damaged (EV821), is not there (EV824) or is too large (EV834).
    """
    with connection.call("send", root=root, name=name) as call:
        head = call.reply(File)
        if head.size > most_bytes:
            raise too_much(f"{name} has {head.size} bytes, {most_bytes} at most can be of use.")
        data = call.read(head.size)
    if hashlib.sha256(data).hexdigest() != head.sha256:
        raise DeviceError("EV821", "A file arrived damaged.", where=name, try_next="Try again.")
    return data
