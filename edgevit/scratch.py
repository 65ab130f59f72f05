"""Temporary folders that are gone afterwards, also when the process was killed.

`tempfile.TemporaryDirectory` forgets its folder before it removes it: a Ctrl-C or SIGTERM that
comes just then leaves the folder behind. Here it is removed again, and the interruption goes on.
After SIGKILL nobody is left to remove anything: each folder holds a file that its process keeps
locked, a dead process locks nothing, and whoever makes the next folder clears the unlocked ones.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not POSIX: nobody can tell there whether the owner lives
    fcntl = None  # type: ignore[assignment]

PREFIX = "edgevit-"
_MARK, _CONTENT = ".edgevit-owner", b"A temporary folder of EdgeViT; unlocked: its run has ended.\n"


@contextmanager
def scratch_folder(prefix: str = PREFIX, parent: Path | None = None) -> Iterator[Path]:
    """Make a temporary folder for the with block; clear those that killed runs left beside it.

    Args:
        prefix: What its name begins with.
        parent: Where it is made; the system's folder for temporary files if left out.
    """
    clear_left_over(prefix, parent)
    folder = tempfile.TemporaryDirectory(prefix=prefix, dir=None if parent is None else str(parent))
    try:
        with _mark(Path(folder.name)):
            yield Path(folder.name)
    finally:
        clear_scratch(folder)


def clear_scratch(folder: tempfile.TemporaryDirectory[str]) -> None:
    """Remove a temporary folder, also when this is interrupted once."""
    try:
        folder.cleanup()
    except BaseException:
        shutil.rmtree(folder.name, ignore_errors=True)
        raise


def clear_left_over(prefix: str = PREFIX, parent: Path | None = None) -> list[str]:
    """Remove the folders that ended runs of this user left; return their names.

    Only folders themselves, no links to any, with our mark in them, which nobody holds a lock on.
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    try:
        names = sorted(name for name in os.listdir(str(place)) if name.startswith(prefix))
    except OSError:
        return []
    return [name for name in names if _clear(place / name)]


def _clear(folder: Path) -> bool:
    if fcntl is None or not _is_own_folder(folder):
        return False
    try:
        mark = os.open(str(folder / _MARK), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if os.read(mark, 2 * len(_CONTENT)) != _CONTENT:
            return False
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(str(folder), ignore_errors=True)  # follows no links
        return not os.path.lexists(str(folder))
    except OSError:  # its run is alive
        return False
    finally:
        os.close(mark)


def _is_own_folder(path: Path) -> bool:
    try:
        found = os.lstat(str(path))
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


@contextmanager
def _mark(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder's mark; the mark gets its name when it is locked already."""
    if fcntl is None:
        yield
        return
    unlocked, path = folder / f"{_MARK}.new", folder / _MARK
    mark = os.open(str(unlocked), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with suppress(OSError):  # a file system without locks: then it is never cleared
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(mark, _CONTENT)
            unlocked.rename(path)
        yield
    finally:
        os.close(mark)
