"""Opens the deployment's folder and what lies in it: no link is followed, no other's folder used.

Everything is reached from an open descriptor, name by name (openat(2)), so that nobody can put a
link in between. What is emptied or removed carries our mark, a file that only we could have put
into a folder of mode 0700 that is ours.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import contextmanager, suppress
from typing import IO, Any, Callable, Iterator

from edgevit.deploy.agent.replies import PARTIAL, Refused

OWNER, LOCK = ".owner", ".lock"
_NAME = re.compile(r"[0-9a-f]{8,64}\Z")
_STEP = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO in a file's place must not block
_MODES = {
    "rb": os.O_RDONLY,
    "r+b": os.O_RDWR,
    "wb": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
}
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
        made = create and _made(name, above)
        root = _opened_folder(name, above, path)
    except FileNotFoundError:
        return None
    finally:
        os.close(above)
    try:
        _check_ours(root, path)
        if made:
            write_text(root, OWNER, "")
        _check_mark(root, path)
    except BaseException:
        os.close(root)
        raise
    return root


def _made(name: str, at: int) -> bool:
    try:
        os.mkdir(name, 0o700, dir_fd=at)
    except FileExistsError:
        return False
    return True


def _opened_folder(name: str, at: int, path: str) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=at)
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
                _made(name, at)
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            _check_step(found, path, name, trusted)
            if not stat.S_ISLNK(found.st_mode):
                at = _stepped(at, name)
                continue
            links += 1
            target = os.readlink(name, dir_fd=at)
            if links > _MOST_LINKS:
                raise Refused("folder", f"{path} has too many links")
            left = _parts(target) + left
            if os.path.isabs(target):
                at = _stepped(at, "/")
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


def _stepped(at: int, name: str) -> int:
    following = os.open(name, _STEP, dir_fd=at)
    os.close(at)
    return following


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


@contextmanager
def opened(root: int, name: str, mode: str = "rb") -> Iterator[IO[bytes]]:
    """Open a file below a folder ("rb", "r+b", "wb"); for "wb" the folders on the way are made.

    Raises:
        Refused: Its name leads elsewhere ("request"), or it is no plain file ("folder").
        OSError: It can't be opened; ELOOP for a link.
    """
    at = _descended(root, name, create=mode == "wb")
    try:
        number = os.open(name.split("/")[-1], _MODES[mode] | _FILE, 0o600, dir_fd=at)
    finally:
        os.close(at)
    with os.fdopen(number, mode) as stream:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise Refused("folder", f"{name!r} is no plain file")
        yield stream


def _descended(root: int, name: str, create: bool = False) -> int:
    """Return a descriptor of the folder that a file lies in."""
    parts = name.split("/")
    if not all(parts) or {".", ".."} & set(parts):
        raise Refused("request", f"{name!r} lies outside the deployment")
    at = os.dup(root)
    try:
        for part in parts[:-1]:
            if create:
                _made(part, at)
            following = os.open(part, _FOLDER, dir_fd=at)
            os.close(at)
            at = following
    except BaseException:
        os.close(at)
        raise
    return at


def make_folder(root: int, name: str) -> None:
    """Make a folder below one, and those on the way."""
    os.close(_descended(root, name + "/.made", create=True))


def rename(root: int, old: str, new: str) -> None:
    """Give a file of a folder another name in the same folder below it."""
    at = _descended(root, new)
    try:
        os.replace(old.split("/")[-1], new.split("/")[-1], src_dir_fd=at, dst_dir_fd=at)
    finally:
        os.close(at)


def remove_file(root: int, name: str) -> None:
    """Remove a file below a folder."""
    at = _descended(root, name)
    try:
        os.unlink(name.split("/")[-1], dir_fd=at)
    finally:
        os.close(at)


def read_text(root: int, name: str) -> str | None:
    """Return what a small file says; None if it can't be read."""
    try:
        with opened(root, name) as stream:
            return stream.read(1 << 16).decode("utf-8", "replace")
    except (OSError, Refused):
        return None


def write_text(root: int, name: str, text: str) -> None:
    """Write a small file whole or not at all."""
    with opened(root, name + PARTIAL, "wb") as stream:
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
        start = os.dup(root) if name == "." else _descended(root, name + "/.gone")
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
