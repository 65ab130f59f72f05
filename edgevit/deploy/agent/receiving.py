"""Files come in: by SHA-256, each from where an earlier connection broke off."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import time
from contextlib import contextmanager
from typing import IO, Any, Iterator

from edgevit.deploy.agent.files import empty, open_below, remove_file, rename
from edgevit.deploy.agent.folders import LOCK, OWNER, open_root, others
from edgevit.deploy.agent.replies import PARTIAL, Refused, read_line, say, standard_input
from edgevit.deploy.agent.running import (
    CACHE,
    RUN,
    TEMPORARY,
    claim,
    is_owned,
    is_running,
    refuse_if_followed,
)

_CHUNK_BYTES = 1 << 16
_ACK_BYTES = 1 << 18
_IDLE_SECONDS = 40  # a sender that is silent for so long is gone
_LOCK_SECONDS = 60  # longer than it takes an abandoned receiver to give up
_POLL_SECONDS = 0.2
_NOTHING = hashlib.sha256().hexdigest()


def receive(request: dict[str, Any]) -> None:
    """Take files; those that are here already, whole or in part, are not asked for again.

    The order is: this side says of each file how many bytes it has and their SHA-256; the other
    side answers with the offset from which it will send each; then the bytes follow back to back.
    """
    root = open_root(request["root"], create=True)
    assert root is not None
    with _lock(root):
        if not is_owned(root, request["nonce"]):
            refuse_if_followed(root)
        claim(root, request["nonce"])
        empty(root, RUN)
        _clear_after_the_dead(request["root"])
        _forget_others(root, {item["name"] for item in request["files"]})
        say("present", files=[_present(root, item) for item in request["files"]])
        _wait_for_sender()
        offsets = json.loads(read_line())
        total = 0
        for item, offset in zip(request["files"], offsets):
            if offset is not None:
                total = _take(root, item, offset, total)
        signal.alarm(0)
        say("complete")


def _present(root: int, item: dict[str, Any]) -> dict[str, Any]:
    for name in (item["name"], item["name"] + PARTIAL):
        try:
            with open_below(root, name) as stream:
                size = os.fstat(stream.fileno()).st_size
                if size > item["size"]:
                    continue
                digest = _hash(stream).hexdigest()
        except FileNotFoundError:
            continue
        say("alive")  # hashing may take a while
        whole = name == item["name"] and digest == item["sha256"]
        if whole or name != item["name"]:
            return {"bytes": size, "sha256": digest, "whole": whole}
    return {"bytes": 0, "sha256": _NOTHING, "whole": False}


def _take(root: int, item: dict[str, Any], offset: int, total: int) -> int:
    """Receive one file from `offset` on; return how many bytes came in so far in all."""
    name, partial = item["name"], item["name"] + PARTIAL
    with open_below(root, partial, "r+b" if offset else "wb") as stream:
        digest = _hash(stream) if offset else hashlib.sha256()
        stream.seek(offset)
        for chunk in _receive(item["size"] - offset):
            stream.write(chunk)
            digest.update(chunk)
            before, total = total, total + len(chunk)
            if before // _ACK_BYTES != total // _ACK_BYTES:
                say("received", bytes=total)
        stream.flush()
        os.fsync(stream.fileno())
    if digest.hexdigest() != item["sha256"]:
        remove_file(root, partial)
        raise Refused("damaged", f"{name} arrived with another SHA-256 than it was sent")
    rename(root, partial, name)
    say("received", bytes=total)
    return total


def _receive(left: int) -> Iterator[bytes]:
    while left:
        chunk = standard_input().read1(min(left, _CHUNK_BYTES))
        if not chunk:
            raise EOFError  # what has come stays for the next attempt
        _wait_for_sender()
        left -= len(chunk)
        yield chunk


def _wait_for_sender() -> None:
    """End this process when nothing comes for a while: the connection is gone unnoticed."""
    signal.alarm(_IDLE_SECONDS)


def _forget_others(root: int, names: set[str]) -> None:
    """Remove what an earlier deployment left and this one does not bring."""
    wanted = names | {name + PARTIAL for name in names} | {LOCK, OWNER}
    empty(root, keep=lambda name: name in wanted or name.startswith(CACHE + "/"))


def _clear_after_the_dead(path: str) -> None:
    """Remove what runs of other bundles left here in their folders for temporary files."""
    for root in others(path):
        if not is_running(root):
            empty(root, TEMPORARY)


def _hash(stream: IO[bytes]) -> Any:
    digest = hashlib.sha256()
    for chunk in iter(lambda: stream.read(1 << 20), b""):
        digest.update(chunk)
    return digest


@contextmanager
def _lock(root: int) -> Iterator[None]:
    with open_below(root, LOCK, "wb") as stream:
        for _ in range(int(_LOCK_SECONDS / _POLL_SECONDS)):
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                say("alive")
                time.sleep(_POLL_SECONDS)
        else:
            raise Refused("busy", "another deployment of this bundle is sending files")
        yield
