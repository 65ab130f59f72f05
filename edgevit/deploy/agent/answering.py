"""Answers one request: what is here, files in, a command, a file back, all of it away again."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
import sys
from contextlib import suppress
from typing import Any, NoReturn

from edgevit.deploy.agent.files import files, open_below
from edgevit.deploy.agent.folders import open_root, remove_root
from edgevit.deploy.agent.receiving import receive
from edgevit.deploy.agent.replies import Refused, read_line, say
from edgevit.deploy.agent.running import end_run, is_owned, start

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_IN_THE_WAY = (errno.ELOOP, errno.ENOTDIR, errno.ENXIO)  # a link, a file, a FIFO


def probe(request: dict[str, Any]) -> None:
    """Say which Python this is, where the deployment will lie, and how much room there is."""
    path = _path(request)
    root, there = open_root(path), path
    while not os.path.exists(there):
        there = os.path.dirname(there)
    say(
        "board",
        python=platform.python_version(),
        machine=platform.machine(),
        root=path,
        free_bytes=shutil.disk_usage(there).free,
        present_bytes=0 if root is None else sum(size for _, size in files(root)),
    )


def _path(request: dict[str, Any]) -> str:
    """Return the deployment's folder: below the one asked for, or in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    base: str = request["folder"] or os.path.join(cache, "edgevit")
    return os.path.join(os.path.abspath(os.path.expanduser(base)), request["name"])


def send(request: dict[str, Any]) -> None:
    """Send one file: its size and SHA-256, then its bytes."""
    root = open_root(request["root"])
    if root is None:
        raise Refused("folder", request["root"] + " is gone")
    with open_below(root, request["name"]) as stream:
        data = stream.read()
    say("file", size=len(data), sha256=hashlib.sha256(data).hexdigest())
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def clean(request: dict[str, Any]) -> None:
    """Remove the deployment, if it is this one's, and the cache's folders where they are empty."""
    path = request["root"]
    root = open_root(path)
    if root is not None and is_owned(root, request["nonce"]):
        end_run(root)
        remove_root(path, root)
    base = os.path.dirname(path)
    for above in (base, os.path.dirname(base)) if request["in_cache"] else ():
        with suppress(OSError):  # it is not empty, or not there
            os.rmdir(above)
    say("done")


def stop(request: dict[str, Any]) -> None:
    """End the run, if it is this deployment's."""
    root = open_root(request["root"])
    if root is not None and is_owned(root, request["nonce"]):
        end_run(root)
    say("done")


VERBS = {
    "probe": probe,
    "receive": receive,
    "start": start,
    "stop": stop,
    "send": send,
    "clean": clean,
}


def main() -> NoReturn:
    """Answer the request on standard input."""
    try:
        request = json.loads(read_line())
        VERBS[request["verb"]](request)
    except Refused as error:
        _fail(error.kind, error.message)
    except (BrokenPipeError, EOFError):
        os._exit(1)  # nobody is there any more
    except OSError as error:
        kinds = {**dict.fromkeys(_FULL, "full"), **dict.fromkeys(_IN_THE_WAY, "folder")}
        said = f"{error.strerror}: {error.filename or ''}"
        _fail(kinds.get(error.errno or 0, "system"), said.rstrip(": "))
    sys.exit(0)


def _fail(kind: str, message: str) -> NoReturn:
    say("failed", kind=kind, message=message)
    sys.exit(1)
