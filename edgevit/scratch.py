"""Temporary folders that are gone afterwards, also when their clearing is interrupted.

`tempfile.TemporaryDirectory` forgets its folder before it removes it: a Ctrl-C or SIGTERM that
comes just then leaves the folder behind. Here it is removed again, and the interruption goes on.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "edgevit-"


@contextmanager
def scratch_folder(prefix: str = PREFIX) -> Iterator[Path]:
    """Make a temporary folder for the with block.

    Args:
        prefix: What its name begins with.
    """
    folder = tempfile.TemporaryDirectory(prefix=prefix)
    try:
        yield Path(folder.name)
    finally:
        clear(folder)


def clear(folder: tempfile.TemporaryDirectory[str]) -> None:
    """Remove a temporary folder, also when this is interrupted once."""
    try:
        folder.cleanup()
    except BaseException:
        shutil.rmtree(folder.name, ignore_errors=True)
        raise
