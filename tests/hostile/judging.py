"""Gives bundles to a victim and judges what came of each: harm, traceback, memory, time.

The victim (victim.py) is a process of its own that is watched from outside: whether it answered in
time, what ended it, and whether any file appeared or changed in the folders that it knows.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
MEMORY_BYTES = 2 * 10**9
TIME_LIMIT_S = 60.0


@dataclass(frozen=True)
class Verdict:
    """What came of one bundle.

    Args:
        code: Code of the error it was refused with; None if it was not refused.
        status: Exit status of that error, 0 if there was none, 1 for a traceback.
        text: The error.
        harm: What it wrote, started or crashed; empty if nothing.
        traceback: The end of one, or None.
        peak_bytes: Memory at the highest point.
        seconds: Time it took.
    """

    code: str | None
    status: int
    text: str
    harm: str
    traceback: str | None
    peak_bytes: int
    seconds: float

    @property
    def is_safe(self) -> bool:
        """Whether nothing came of it that must not."""
        within = self.peak_bytes < MEMORY_BYTES and self.seconds < TIME_LIMIT_S
        return not self.harm and self.traceback is None and within


class Judge:
    """Keeps a victim running, with a sandbox as its home, and starts another when one dies.

    Args:
        sandbox: An empty folder.
    """

    def __init__(self, sandbox: Path) -> None:
        self._sandbox = sandbox
        self._victim: subprocess.Popen[str] | None = None

    def __enter__(self) -> Judge:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def judge(self, folder: Path) -> Verdict:
        """Return what comes of a bundle."""
        victim = self._running()
        before = _seen(self._sandbox, folder)
        # Its highest point of memory starts anew; it may write no byte itself, not even there.
        Path(f"/proc/{victim.pid}/clear_refs").write_text("5")
        assert victim.stdin is not None
        assert victim.stdout is not None
        started = time.monotonic()
        victim.stdin.write(f"{folder}\n")
        victim.stdin.flush()
        ready, _, _ = select.select([victim.stdout], [], [], TIME_LIMIT_S)
        line = victim.stdout.readline() if ready else ""
        seconds = time.monotonic() - started
        said = json.loads(line) if line else {}
        harm = list(said.get("attempts", []))
        if not line:
            self._end()
            harm.append(f"ended with {victim.returncode}" if ready else "")
        if _seen(self._sandbox, folder) != before:
            harm.append("files appeared or changed")
        return Verdict(
            code=said.get("code"),
            status=said.get("status", 1),
            text=said.get("text", ""),
            harm="; ".join(filter(None, harm)),
            traceback=said.get("traceback"),
            peak_bytes=said.get("peak_bytes", 0),
            seconds=seconds if ready else float("inf"),
        )

    def _running(self) -> subprocess.Popen[str]:
        if self._victim is None:
            home = str(self._sandbox)
            places = {"HOME": home, "TMPDIR": home, "XDG_CACHE_HOME": home, "PYTHONPATH": str(ROOT)}
            self._victim = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("victim.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd=home,
                env={**os.environ, **places, "OMP_NUM_THREADS": "1"},
            )
            assert self._victim.stdout is not None
            assert self._victim.stdout.readline() == "ready\n"  # its libraries are loaded
        return self._victim

    def _end(self) -> None:
        if self._victim is not None:
            self._victim.kill()
            self._victim.communicate()
            self._victim = None


def _seen(*folders: Path) -> list[tuple[str, int, int, int]]:
    """Return name, size, time and inode of everything in folders."""
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            state = path.lstat()
            found.append((str(path), state.st_size, state.st_mtime_ns, state.st_ino))
    return found
