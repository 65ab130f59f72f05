"""Temporary names beside what is written, locked while their process lives, and found once it died.

What is written comes into being under a hidden, random name beside its place and is moved there at
the end. A process that is killed leaves that name behind. It held a lock on it (`flock`), which the
system gave back when it died: so what a living process uses is never taken for a leftover.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgevit.bundle.manifest import BUNDLE_FILES

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing is locked there, and nothing cleared
    fcntl = None  # type: ignore[assignment]

PARTIAL, OLD, PART = "partial", "old", "part"
"""A bundle that is being written, one that steps aside, and a file that is being written."""
_NAME = re.compile(r"\.(?P<name>.+)\.edgevit-[0-9a-f]{16}\.(?P<kind>partial|old|part)\Z", re.DOTALL)
_NEW_SECONDS = 1.0
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)


def temporary_path(target: Path, kind: str) -> Path:
    """Return a new hidden name beside a target; nobody can guess it."""
    return target.with_name(f".{target.name}.edgevit-{secrets.token_hex(8)}.{kind}")


@contextmanager
def fresh_folder(target: Path) -> Iterator[Path]:
    """Make a hidden folder beside a target for the with block; it is removed if that fails."""
    folder = temporary_path(target, PARTIAL)
    try:
        folder.mkdir()
        with _lock(folder):
            yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def fresh_file(target: Path) -> Iterator[Path]:
    """Make an empty hidden file beside a target for the with block; it is gone afterwards."""
    path = temporary_path(target, PART)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NOFOLLOW, 0o666)
    try:
        _try_lock(descriptor)
        yield path
    finally:
        os.close(descriptor)
        if path.exists():  # not moved to its place: something went wrong
            path.unlink()


@contextmanager
def step_aside(target: Path) -> Iterator[Path]:
    """Give a target another name for the with block, and its own again if nothing takes its place.

    Where the block is cut off by a kill, `clear_leftovers` gives it its name back.
    """
    aside = temporary_path(target, OLD)
    with _lock(target):
        target.rename(aside)
        try:
            yield aside
        finally:
            if not os.path.lexists(target):
                aside.rename(target)


def find(folder: Path, name: str | None = None) -> list[Path]:
    """Return what killed processes left in a folder, sorted.

    Args:
        folder: Where to look; not below it.
        name: Only what was to become this name, as a bundle's or a file's.
    """
    try:
        entries = sorted(os.listdir(folder))
    except OSError:
        return []
    matches = [(entry, _NAME.match(entry)) for entry in entries]
    named = [entry for entry, match in matches if match and name in (None, match["name"])]
    return [folder / entry for entry in named if _is_dead(folder / entry)]


def clear_leftovers(leftovers: Iterable[Path]) -> list[Path]:
    """Remove leftovers; a bundle that stepped aside for one that never came gets its name back.

    Args:
        leftovers: As `find` returned them; what is in use again, or is none, is left alone.

    Returns:
        Those that are gone.
    """
    gone = []
    for path in leftovers:
        match = _NAME.match(path.name)
        if match is None or not _is_ours(path):
            continue
        try:
            with _lock(path) as is_locked:
                if is_locked:
                    _clear(path, path.with_name(match["name"]), match["kind"])
                    gone.append(path)
        except OSError:
            continue  # somebody else was faster, or may and we may not
    return gone


def _clear(path: Path, target: Path, kind: str) -> None:
    if kind == OLD and not os.path.lexists(target):
        path.rename(target)
    elif kind == PART:
        path.unlink()
    else:
        shutil.rmtree(path)


def _is_dead(path: Path) -> bool:
    if not _is_ours(path):
        return False
    try:
        with _lock(path) as is_locked:
            return is_locked
    except OSError:
        return False


def _is_ours(path: Path) -> bool:
    """Return whether it is of the kind its name says, belongs to us, and holds nothing foreign."""
    try:
        found = path.lstat()
        is_new = 0 <= time.time() - found.st_mtime < _NEW_SECONDS  # perhaps not locked yet
        if found.st_uid != os.geteuid() or is_new:
            return False
        if path.name.endswith(f".{PART}"):
            return stat.S_ISREG(found.st_mode)
        inside = os.listdir(path) if stat.S_ISDIR(found.st_mode) else [""]
        return set(inside) <= BUNDLE_FILES
    except (OSError, AttributeError):  # AttributeError: a system without owners
        return False


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Hold the lock of a file or folder for the with block; yield whether it could be had.

    Raises:
        OSError: It is not there, or a link.
    """
    if fcntl is None:
        yield False
        return
    descriptor = os.open(path, os.O_RDONLY | _NOFOLLOW)
    try:
        is_locked = _try_lock(descriptor)
        here, there = os.fstat(descriptor), os.lstat(path)
        yield is_locked and (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
            return False  # held by another, or a file system without locks
        raise
    return True
