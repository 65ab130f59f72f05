"""A command runs apart from the connection that started it, so that it outlives a broken one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgevit.deploy.agent.replies import PARTIAL, Refused, say

RUN = "run"
OWNER = ".owner"
CACHE = "cache"  # what engines keep between runs; elsewhere they would litter the user's own
TEMPORARY = "tmp"  # what a run leaves in it, killed or not, goes with the run
_POLL_SECONDS = 0.2
_HEARTBEAT_SECONDS = 2.0
_FOLLOWED_SECONDS = 20.0
_TAIL_BYTES = 4000


def start(request: dict[str, Any]) -> None:
    """Run a command apart from this connection and follow it; asked again, only follow it.

    Its standard output is relayed line by line from byte `offset` on. The connection may go and
    come back: the command goes on, and a later request with the same nonce follows it again.
    """
    root = Path(request["root"])
    run = root / RUN
    if _nonce(run) != request["nonce"]:
        refuse_if_followed(root)
        end_run(run)
        shutil.rmtree(str(run), ignore_errors=True)
        (run / TEMPORARY).mkdir(parents=True)
        (run / "nonce").write_text(request["nonce"])
        _launch(run, request)
    _follow(run, request["offset"])


def _launch(run: Path, request: dict[str, Any]) -> None:
    """Fork a supervisor with a session of its own; it outlives the connection."""
    child = os.fork()
    if child:
        _write(run / "pid", str(child))
        return
    os.setsid()
    signal.alarm(0)
    status: int | None = None
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        status = _supervise(run, request)
    finally:
        _write(run / "exit", json.dumps(status))
        os._exit(0)


def _supervise(run: Path, request: dict[str, Any]) -> int:
    # Inside the deployment's folder, which is removed whole, even after a run that was killed.
    places = {"XDG_CACHE_HOME": str(run.with_name(CACHE)), "TMPDIR": str(run / TEMPORARY)}
    environment = {**os.environ, **places, **request["environment"]}
    command = [sys.executable, *request["arguments"]]
    with open(str(run / "output"), "wb") as output, open(str(run / "errors"), "wb") as errors:
        try:
            return subprocess.call(
                command, stdout=output, stderr=errors, cwd=request["root"], env=environment
            )
        except OSError as error:
            errors.write(str(error).encode())
            return 127


def _follow(run: Path, offset: int) -> None:
    heard = 0.0
    while True:
        (run / "followed").touch()
        ended = _ended(run)  # asked first, so that no last line is missed
        offset = _relay(run / "output", offset)
        if ended:
            say(exit=_status(run), errors=_tail(run / "errors"))
            return
        if time.monotonic() - heard > _HEARTBEAT_SECONDS:
            heard = time.monotonic()
            say(alive=True)  # fails, and ends this process, when nobody listens any more
        time.sleep(_POLL_SECONDS)


def _relay(output: Path, offset: int) -> int:
    if not output.exists():
        return offset
    with open(str(output), "rb") as stream:
        stream.seek(offset)
        for line in stream:
            if not line.endswith(b"\n"):
                break
            offset += len(line)
            say(line=line.decode("utf-8", "replace").rstrip("\n"), offset=offset)
    return offset


def _status(run: Path) -> int | None:
    try:
        status: int | None = json.loads((run / "exit").read_text())
        return status
    except (OSError, ValueError):
        return None  # the supervisor itself was killed


def _ended(run: Path) -> bool:
    return (run / "exit").exists() or not _alive(run)


def _alive(run: Path) -> bool:
    pid = _pid(run)
    if pid is None:
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in "ZX"  # a zombie has ended; nobody has asked for its status


def end_run(run: Path) -> None:
    """End a run and everything it started."""
    pid = _pid(run)
    if pid is None or (run / "exit").exists():
        return
    for ending in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(pid, ending)
        except OSError:
            return
        for _ in range(15):
            if not _alive(run):
                break
            time.sleep(_POLL_SECONDS)


def own(root: Path, nonce: str) -> None:
    """Note whose deployment lies in a folder."""
    _write(root / OWNER, nonce)


def is_owned(root: Path, nonce: str) -> bool:
    """Return whether the deployment in a folder is the one with this nonce."""
    try:
        return (root / OWNER).read_text() == nonce
    except OSError:
        return False


def _nonce(run: Path) -> str | None:
    try:
        return (run / "nonce").read_text()
    except OSError:
        return None


def _pid(run: Path) -> int | None:
    try:
        return int((run / "pid").read_text())
    except (OSError, ValueError):
        return None


def _tail(path: Path) -> str:
    try:
        with open(str(path), "rb") as stream:
            stream.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + PARTIAL)
    temporary.write_text(text)
    os.replace(str(temporary), str(path))


def refuse_if_followed(root: Path) -> None:
    """End a run that nobody follows any more.

    Raises:
        Refused: Somebody does.
    """
    try:
        age = time.time() - (root / RUN / "followed").stat().st_mtime
    except OSError:
        return
    if age < _FOLLOWED_SECONDS and _alive(root / RUN) and not (root / RUN / "exit").exists():
        raise Refused("busy", "another deployment of this bundle is being measured")
    end_run(root / RUN)
