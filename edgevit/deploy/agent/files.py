"""Files of a deployment, reached from its folder's descriptor name by name: no link is followed.

Nobody can put a link in between (openat(2)); what is no plain file is not opened.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from typing import IO, Any, Callable, Iterator

from edgevit.deploy.agent.replies import PARTIAL, Refused

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO in a file's place must not block
_MODES = {
    "rb": os.O_RDONLY,
    "r+b": os.O_RDWR,
    "wb": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
}


def make_new_folder(name: str, at: int) -> bool:
    """Make a folder for us alone; return whether it is new."""
    try:
        os.mkdir(name, 0o700, dir_fd=at)
    except FileExistsError:
        return False
    return True


@contextmanager
def open_below(root: int, name: str, mode: str = "rb") -> Iterator[IO[bytes]]:
    """Open a file below a folder ("rb", "r+b", "wb"); for "wb" the folders on the way are made.

    Raises:
        Refused: Its name leads elsewhere ("request"), or it is no plain file ("folder").
        OSError: It can't be opened; ELOOP for a link.
    """
    at = _descend(root, name, create=mode == "wb")
    try:
        number = os.open(name.split("/")[-1], _MODES[mode] | _FILE, 0o600, dir_fd=at)
    finally:
        os.close(at)
    with os.fdopen(number, mode) as stream:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise Refused("folder", f"{name!r} is no plain file")
        yield stream


def _descend(root: int, name: str, create: bool = False) -> int:
    """Return a descriptor of the folder that a file lies in."""
    parts = name.split("/")
    if not all(parts) or {".", ".."} & set(parts):
        raise Refused("request", f"{name!r} lies outside the deployment")
    at = os.dup(root)
    try:
        for part in parts[:-1]:
            if create:
                make_new_folder(part, at)
            following = os.open(part, FOLDER_FLAGS, dir_fd=at)
            os.close(at)
            at = following
    except BaseException:
        os.close(at)
        raise
    return at


def make_folder(root: int, name: str) -> None:
    """Make a folder below one, and those on the way."""
    os.close(_descend(root, name + "/.made", create=True))


def rename(root: int, old: str, new: str) -> None:
    """Give a file of a folder another name in the same folder below it."""
    at = _descend(root, new)
    try:
        os.replace(old.split("/")[-1], new.split("/")[-1], src_dir_fd=at, dst_dir_fd=at)
    finally:
        os.close(at)


def remove_file(root: int, name: str) -> None:
    """Remove a file below a folder."""
    at = _descend(root, name)
    try:
        os.unlink(name.split("/")[-1], dir_fd=at)
    finally:
        os.close(at)


def read_text(root: int, name: str) -> str | None:
    """Return what a small file says; None if it can't be read."""
    try:
        with open_below(root, name) as stream:
            return stream.read(1 << 16).decode("utf-8", "replace")
    except (OSError, Refused):
        return None


def write_text(root: int, name: str, text: str) -> None:
    """Write a small file whole or not at all."""
    with open_below(root, name + PARTIAL, "wb") as stream:
        stream.write(text.encode())
    rename(root, name + PARTIAL, name)


def files(root: int) -> Iterator[Any]:
    """Yield (name, size in bytes) of all that is no folder; links count as themselves."""
    for above, folders, names, at in os.fwalk(".", dir_fd=root):
        for name in names + folders:
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                yield os.path.normpath(os.path.join(above, name)), found.st_size


def empty(root: int, name: str = ".", keep: Callable[[str], bool] | None = None) -> None:
    """Remove what lies in a folder of a deployment, but for names below it that are to be kept."""
    try:
        start = os.dup(root) if name == "." else _descend(root, name + "/.gone")
    except FileNotFoundError:
        return
    try:
        for above, folders, names, at in os.fwalk(".", topdown=False, dir_fd=start):
            for one in names + folders:
                if keep is None or not keep(os.path.normpath(os.path.join(above, one))):
                    _remove(one, at)
    finally:
        os.close(start)


def _remove(name: str, at: int) -> None:
    """Remove a file, a link or an empty folder; a folder with something to keep stays."""
    if stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
        with suppress(OSError):
            os.rmdir(name, dir_fd=at)
    else:
        os.unlink(name, dir_fd=at)
