"""Puts a finished bundle in its place: a name that stands for a bundle stands for one at any time.

Linux and macOS exchange two names in one step. Elsewhere the old bundle steps aside first, and
whoever comes next after a kill in between gives it its name back (`edgevit.bundle.leftovers`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path

from edgevit.bundle.leftovers import step_aside

_AT_FDCWD, _EXCHANGE, _SWAP = -100, 2, 2
_NOT_THERE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM)


def put_in_place(folder: Path, target: Path) -> None:
    """Give a finished folder its name; what had that name before is removed.

    Raises:
        OSError: It can't be; the old bundle keeps its name then.
    """
    if not os.path.lexists(target):
        folder.rename(target)
        return
    if exchange(folder, target):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with step_aside(target) as aside:
        folder.rename(target)
    shutil.rmtree(aside, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; return False where the system or file system can't.

    Raises:
        OSError: It can, and failed.
    """
    arguments: tuple[object, ...]
    try:
        library = ctypes.CDLL(None, use_errno=True)
        first, second = os.fsencode(one), os.fsencode(other)
        if sys.platform == "darwin":
            function, arguments = library.renamex_np, (first, second, _SWAP)
        else:
            function = library.renameat2
            arguments = (_AT_FDCWD, first, _AT_FDCWD, second, _EXCHANGE)
    except (AttributeError, OSError, TypeError):  # another system, or an old library
        return False
    if function(*arguments) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_THERE:
        return False
    raise OSError(number, os.strerror(number), str(other))
