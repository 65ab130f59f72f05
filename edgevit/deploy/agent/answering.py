"""Answers one request: what is here, files in, a command, a file back, all of it away again."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from edgevit.deploy.agent.receiving import receive
from edgevit.deploy.agent.replies import Refused, inside, read_line, say
from edgevit.deploy.agent.running import RUN, end_run, is_owned, start


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
    """Import a module in a process of its own: it may crash, or write into the user's cache."""
    code = f"import {module} as m; print(getattr(m, '__version__', 'unknown'))"
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            env={**os.environ, "XDG_CACHE_HOME": cache},
        )
    said = (done.stderr if done.returncode else done.stdout).decode("utf-8", "replace")
    last = (said.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
    return {"error" if done.returncode else "version": last[:500]}


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
    """Remove the deployment, if it is this one's, and the cache's folders where they are empty."""
    root = Path(request["root"])
    if is_owned(root, request["nonce"]):
        end_run(root / RUN)
        shutil.rmtree(str(root))
    for above in (root.parent, root.parent.parent) if request["in_cache"] else ():
        if above.is_dir() and not any(above.iterdir()):
            above.rmdir()
    say(cleaned=True)


def stop(request: dict[str, Any]) -> None:
    """End the run, if it is this deployment's."""
    root = Path(request["root"])
    if is_owned(root, request["nonce"]):
        end_run(root / RUN)
    say(stopped=True)


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
