"""Opens the deployment's folder: no link of others is followed, no other's folder used.

What is emptied or removed carries our mark, a file that only we could have put into a folder of
mode 0700 that is ours.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from typing import Any, Iterator

from edgevit.deploy.agent.files import FOLDER_FLAGS, empty, make_new_folder, write_text
from edgevit.deploy.agent.replies import PARTIAL, Refused

OWNER, LOCK = ".owner", ".lock"
_NAME = re.compile(r"[0-9a-f]{8,64}\Z")
_STEP = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LINKS = 40


def open_root(path: str, create: bool = False) -> int | None:
    """Return a descriptor of the deployment's folder; None if it is not there.

    Raises:
        Refused: It is there and not ours, or lies where others could exchange it ("folder").
        OSError: It can't be made.
    """
    base, name = os.path.split(path)
    if not _NAME.match(name):
        raise Refused("request", f"{name!r} is no name of a deployment")
    try:
        above = _open_base(base, create)
    except FileNotFoundError:
        return None
    try:
        new = create and make_new_folder(name, above)
        root = _open_folder(name, above, path)
    except FileNotFoundError:
        return None
    finally:
        os.close(above)
    try:
        _check_ours(root, path)
        if new:
            write_text(root, OWNER, "")
        _check_mark(root, path)
    except BaseException:
        os.close(root)
        raise
    return root


def _open_folder(name: str, at: int, path: str) -> int:
    try:
        return os.open(name, FOLDER_FLAGS, dir_fd=at)
    except FileNotFoundError:
        raise
    except OSError as error:
        found = os.stat(name, dir_fd=at, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            raise Refused("folder", f"{path} can't be opened: {error.strerror}") from error
        kind = "a link" if stat.S_ISLNK(found.st_mode) else "no folder"
        raise Refused("folder", f"{path} is {kind}") from error


def _check_ours(root: int, path: str) -> None:
    found = os.fstat(root)
    if found.st_uid != os.geteuid():
        raise Refused("folder", f"{path} belongs to another user ({found.st_uid})")
    if found.st_mode & 0o022:
        raise Refused("folder", f"others may write to {path}")


def _check_mark(root: int, path: str) -> None:
    """Refuse a folder that we did not make; one that is as good as empty may be taken."""
    with suppress(OSError):
        if stat.S_ISREG(os.stat(OWNER, dir_fd=root, follow_symlinks=False).st_mode):
            return
    if set(os.listdir(root)) - {LOCK, OWNER + PARTIAL}:
        raise Refused("folder", f"{path} is there and was not made by EdgeViT")


def _open_base(path: str, create: bool) -> int:
    """Return a descriptor of the folder around ours; links on the way have to be ours or root's."""
    at, left, links = os.open("/", _STEP), _parts(path), 0
    trusted = {0, os.geteuid(), os.fstat(at).st_uid}  # "/" is another's in a user namespace
    try:
        while left:
            name = left.pop(0)
            if create:
                make_new_folder(name, at)
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            _check_step(found, path, name, trusted)
            if not stat.S_ISLNK(found.st_mode):
                at = _step(at, name)
                continue
            links += 1
            target = os.readlink(name, dir_fd=at)
            if links > _MOST_LINKS:
                raise Refused("folder", f"{path} has too many links")
            left = _parts(target) + left
            if os.path.isabs(target):
                at = _step(at, "/")
    except BaseException:
        os.close(at)
        raise
    return at


def _check_step(found: os.stat_result, path: str, name: str, trusted: Any) -> None:
    """Refuse what another user could exchange: of theirs, or open to all without the sticky bit."""
    if found.st_uid not in trusted:
        raise Refused("folder", f"{path} leads through {name!r}, of another user ({found.st_uid})")
    open_to_all = found.st_mode & 0o002 and not found.st_mode & stat.S_ISVTX
    if open_to_all and not stat.S_ISLNK(found.st_mode):
        raise Refused("folder", f"{path} leads through {name!r}, in which all may rename")


def _step(at: int, name: str) -> int:
    following = os.open(name, _STEP, dir_fd=at)
    os.close(at)
    return following


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def remove_root(path: str, root: int) -> None:
    """Remove a deployment that `open_root` opened."""
    empty(root)
    os.rmdir(path)


def others(path: str) -> Iterator[int]:
    """Yield descriptors of the other deployments beside one, as long as they are ours."""
    base, own = os.path.split(path)
    with suppress(OSError):
        for name in os.listdir(base):
            if name != own and _NAME.match(name):
                with suppress(OSError, Refused):
                    root = open_root(os.path.join(base, name))
                    if root is not None:
                        try:
                            yield root
                        finally:
                            os.close(root)
