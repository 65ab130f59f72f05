"""Files come in: by SHA-256, each from where an earlier connection broke off."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgevit.deploy.agent.replies import PARTIAL, Refused, inside, read_line, say, standard_input
from edgevit.deploy.agent.running import CACHE, OWNER, RUN, is_owned, own, refuse_if_followed

_CHUNK_BYTES = 1 << 16
_ACK_BYTES = 1 << 20
_IDLE_SECONDS = 40  # a sender that is silent for so long is gone
_LOCK_SECONDS = 60  # longer than it takes an abandoned receiver to give up
_POLL_SECONDS = 0.2


def receive(request: dict[str, Any]) -> None:
    """Take files; those that are here already, whole or in part, are not asked for again.

    The order is: this side says of each file how many bytes it has and their SHA-256; the other
    side answers with the offset from which it will send each; then the bytes follow back to back.
    """
    root = Path(request["root"])
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(root):
        if not is_owned(root, request["nonce"]):
            refuse_if_followed(root)
        own(root, request["nonce"])
        shutil.rmtree(str(root / RUN), ignore_errors=True)
        _forget_others(root, {item["name"] for item in request["files"]})
        _wait_for_sender()
        say(present=[_present(root, item) for item in request["files"]])
        offsets = json.loads(read_line())
        total = 0
        for item, offset in zip(request["files"], offsets):
            if offset is not None:
                total = _take(root, item, offset, total)
        signal.alarm(0)
        say(complete=True)


def _present(root: Path, item: dict[str, Any]) -> dict[str, Any]:
    path = inside(root, item["name"])
    partial = path.with_name(path.name + PARTIAL)
    for candidate in (path, partial):
        if candidate.is_file() and candidate.stat().st_size <= item["size"]:
            digest = _hashed(candidate).hexdigest()
            whole = candidate == path and digest == item["sha256"]
            if whole or candidate == partial:
                return {"bytes": candidate.stat().st_size, "sha256": digest, "whole": whole}
    return {"bytes": 0, "sha256": hashlib.sha256().hexdigest(), "whole": False}


def _take(root: Path, item: dict[str, Any], offset: int, total: int) -> int:
    """Receive one file from `offset` on; return how many bytes came in so far in all."""
    path = inside(root, item["name"])
    partial = path.with_name(path.name + PARTIAL)
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = _hashed(partial) if offset else hashlib.sha256()
    with open(str(partial), "r+b" if offset else "wb") as stream:
        stream.seek(offset)
        for chunk in _incoming(item["size"] - offset):
            stream.write(chunk)
            digest.update(chunk)
            before, total = total, total + len(chunk)
            if before // _ACK_BYTES != total // _ACK_BYTES:
                say(received=total)
        stream.flush()
        os.fsync(stream.fileno())
    if digest.hexdigest() != item["sha256"]:
        partial.unlink()
        raise Refused("damaged", f"{item['name']} arrived with another SHA-256 than it was sent")
    os.replace(str(partial), str(path))
    say(received=total)
    return total


def _incoming(left: int) -> Iterator[bytes]:
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


def _forget_others(root: Path, names: set[str]) -> None:
    """Remove what an earlier deployment left and this one does not bring."""
    wanted = names | {name + PARTIAL for name in names} | {".lock", OWNER}
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(root).parts[0] != CACHE and str(path.relative_to(root)) not in wanted:
            path.unlink()


def _hashed(path: Path) -> Any:
    digest = hashlib.sha256()
    with open(str(path), "rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return digest


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    with open(str(root / ".lock"), "w") as stream:
        for _ in range(int(_LOCK_SECONDS / _POLL_SECONDS)):
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                say(waiting=True)
                time.sleep(_POLL_SECONDS)
        else:
            raise Refused("busy", "another deployment of this bundle is sending files")
        yield
