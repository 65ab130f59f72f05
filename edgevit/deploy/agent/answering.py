"""Answers one request: what is here, files in, a command, a file back, all of it away again."""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn

from edgevit.deploy.agent.receiving import receive
from edgevit.deploy.agent.replies import Refused, inside, read_line, say
from edgevit.deploy.agent.running import RUN, end_run, start, stop


def probe(request: dict[str, Any]) -> None:
    """Say which Python this is, what it can import, and where the deployment will lie."""
    root = _root(request)
    there = root
    while not there.exists():
        there = there.parent
    say(
        python=platform.python_version(),
        machine=platform.machine(),
        modules={name: _version(name) for name in request["modules"]},
        root=str(root),
        free_bytes=shutil.disk_usage(str(there)).free,
        present_bytes=_size(root) if root.is_dir() else 0,
    )


def _root(request: dict[str, Any]) -> Path:
    """Return the deployment's folder: below the one asked for, or in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    base: str = request["folder"] or os.path.join(cache, "edgevit")
    name: str = request["name"]
    return Path(os.path.abspath(os.path.expanduser(base))) / name


def _version(module: str) -> dict[str, str]:
    try:
        found = importlib.import_module(module)
    except BaseException as error:  # a broken extension module may raise anything
        return {"error": f"{type(error).__name__}: {error}"[:500]}
    return {"version": str(getattr(found, "__version__", "unknown"))}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def send(request: dict[str, Any]) -> None:
    """Send one file: its size and SHA-256, then its bytes."""
    path = inside(Path(request["root"]), request["name"])
    data = path.read_bytes()
    say(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def clean(request: dict[str, Any]) -> None:
    """Remove the deployment, and the folders above it that were made for it."""
    root = Path(request["root"])
    end_run(root / RUN)
    if root.exists():
        shutil.rmtree(str(root))
    if root.parent.name == "edgevit" and root.parent.is_dir() and not any(root.parent.iterdir()):
        root.parent.rmdir()
    say(cleaned=True)


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
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        _fail(
            "full" if full else "system", f"{error.strerror}: {error.filename or ''}".rstrip(": ")
        )
    sys.exit(0)


def _fail(kind: str, message: str) -> NoReturn:
    say(error=kind, message=message)
    sys.exit(1)
