"""A command runs apart from the connection that started it, so that it outlives a broken one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import IO, Any

from edgevit.deploy.agent.files import empty, make_folder, open_below, read_text, write_text
from edgevit.deploy.agent.folders import OWNER, open_root
from edgevit.deploy.agent.replies import Refused, say

RUN = "run"
CACHE = "cache"  # what engines keep between runs; elsewhere they would litter the user's own
TEMPORARY = RUN + "/tmp"  # what a run leaves in it, killed or not, goes with the run
_POLL_SECONDS = 0.2
_HEARTBEAT_SECONDS = 2.0
_FOLLOWED_SECONDS = 20.0
_FORSAKEN_SECONDS = 900.0  # longer than anybody tries to connect again
_TAIL_BYTES = 4000
_LINE_BYTES = 1 << 16


def start(request: dict[str, Any]) -> None:
    """Run a command apart from this connection and follow it; asked again, only follow it.

    Its standard output is relayed line by line from byte `offset` on. The connection may go and
    come back: the command goes on, and a later request with the same nonce follows it again.

    Raises:
        Refused: The folder is gone or not this deployment's ("folder").
    """
    root = open_root(request["root"])
    if root is None or not is_owned(root, request["nonce"]):
        raise Refused("folder", request["root"] + " is gone, or another deployment has it")
    if read_text(root, RUN + "/nonce") != request["nonce"]:
        refuse_if_followed(root)
        end_run(root)
        empty(root, RUN)
        make_folder(root, TEMPORARY)
        write_text(root, RUN + "/nonce", request["nonce"])
        _touch(root)
        _launch(root, request)
    _follow(root, request["offset"])


def _launch(root: int, request: dict[str, Any]) -> None:
    """Fork a supervisor with a session of its own; it outlives the connection."""
    child = os.fork()
    if child:
        write_text(root, RUN + "/pid", str(child))
        return
    os.setsid()
    signal.alarm(0)
    status: int | None = None
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        status = _supervise(root, request)
    finally:
        write_text(root, RUN + "/exit", json.dumps(status))
        os._exit(0)


def _supervise(root: int, request: dict[str, Any]) -> int:
    # Inside the deployment's folder, which is removed whole, even after a run that was killed.
    places = {
        "XDG_CACHE_HOME": os.path.join(request["root"], CACHE),
        "TMPDIR": os.path.join(request["root"], TEMPORARY),
    }
    environment = {**os.environ, **places, **request["environment"]}
    command = [sys.executable, *request["arguments"]]
    os.fchdir(root)
    with open_below(root, RUN + "/output", "wb") as output, open_below(
        root, RUN + "/errors", "wb"
    ) as said:
        try:
            process = subprocess.Popen(command, stdout=output, stderr=said, env=environment)
        except OSError as error:
            said.write(str(error).encode())
            return 127
        return _wait_for(process, root)


def _wait_for(process: subprocess.Popen[bytes], root: int) -> int:
    """Return the command's status; it is ended when nobody has followed it for long."""
    followed, since = -1.0, time.monotonic()
    while process.poll() is None:
        time.sleep(_POLL_SECONDS)
        now = _last_followed(root)  # its change counts, as a board may set its clock meanwhile
        if now != followed:
            followed, since = now, time.monotonic()
        elif time.monotonic() - since > _FORSAKEN_SECONDS:
            process.kill()
            process.wait()
            empty(root, TEMPORARY)
    return process.returncode


def _follow(root: int, offset: int) -> None:
    heard = 0.0
    while True:
        _touch(root)
        ended = _has_ended(root)  # asked first, so that no last line is missed
        offset = _relay(root, offset)
        if ended:
            say("exit", status=_status(root), errors=_tail(root, RUN + "/errors"))
            return
        if time.monotonic() - heard > _HEARTBEAT_SECONDS:
            heard = time.monotonic()
            say("alive")  # fails, and ends this process, when nobody listens any more
        time.sleep(_POLL_SECONDS)


def _relay(root: int, offset: int) -> int:
    try:
        with open_below(root, RUN + "/output") as stream:
            stream.seek(offset)
            for line in iter(lambda: _line(stream), b""):
                offset += len(line)
                text = line.decode("utf-8", "replace").rstrip("\n")
                say("line", text=text if len(line) <= _LINE_BYTES else "", offset=offset)
    except FileNotFoundError:
        pass  # it has just been started
    return offset


def _line(stream: IO[bytes]) -> bytes:
    """Return the next whole line, nothing where it still is being written."""
    line = stream.readline()
    return line if line.endswith(b"\n") else b""


def _status(root: int) -> int | None:
    try:
        status: int | None = json.loads(read_text(root, RUN + "/exit") or "")
        return status
    except ValueError:
        return None  # the supervisor itself was killed


def _has_ended(root: int) -> bool:
    return read_text(root, RUN + "/exit") is not None or not is_running(root)


def is_running(root: int) -> bool:
    """Return whether a deployment's supervisor lives."""
    pid = _pid(root)
    if pid is None:
        return False
    try:
        with open(f"/proc/{pid}/stat") as stream:
            state = stream.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in "ZX"  # a zombie has ended; nobody has asked for its status


def end_run(root: int) -> None:
    """End a run and everything it started."""
    pid = _pid(root)
    if pid is None or read_text(root, RUN + "/exit") is not None:
        return
    for ending in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(pid, ending)
        except OSError:
            return
        for _ in range(15):
            if not is_running(root):
                break
            time.sleep(_POLL_SECONDS)


def claim(root: int, nonce: str) -> None:
    """Note whose deployment lies in a folder."""
    write_text(root, OWNER, nonce)


def is_owned(root: int, nonce: str) -> bool:
    """Return whether the deployment in a folder is the one with this nonce."""
    return read_text(root, OWNER) == nonce


def refuse_if_followed(root: int) -> None:
    """End a run that nobody follows any more.

    Raises:
        Refused: Somebody does.
    """
    live = is_running(root) and read_text(root, RUN + "/exit") is None
    if live and time.time() - _last_followed(root) < _FOLLOWED_SECONDS:
        raise Refused("busy", "another deployment of this bundle is being measured")
    end_run(root)


def _touch(root: int) -> None:
    with open_below(root, RUN + "/followed", "wb") as stream:
        os.utime(stream.fileno())


def _last_followed(root: int) -> float:
    """Return when somebody followed the run last, in seconds of the board's clock."""
    try:
        with open_below(root, RUN + "/followed") as stream:
            return os.fstat(stream.fileno()).st_mtime
    except OSError:
        return 0.0


def _pid(root: int) -> int | None:
    try:
        return int(read_text(root, RUN + "/pid") or "")
    except ValueError:
        return None


def _tail(root: int, name: str) -> str:
    try:
        with open_below(root, name) as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL_BYTES))
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
