"""The files of a bundle: found in its folder only, and of the size and hash they should be."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from edgevit.errors import BundleError

_CHUNK_BYTES = 1 << 20


def verify(folder: Path, name: str, record: dict[str, Any]) -> None:
    """Refuse a file that is not what its record in the manifest says.

    Raises:
        BundleError: It differs in size or SHA-256 (EV405); as `member`.
    """
    digest = hashlib.sha256()
    with member(folder, name) as stream:
        size_bytes = os.fstat(stream.fileno()).st_size
        if size_bytes != record["size_bytes"]:
            raise damaged_file_error(
                name, f"it has {size_bytes} bytes instead of {record['size_bytes']}"
            )
        for chunk in iter(lambda: stream.read(_CHUNK_BYTES), b""):
            digest.update(chunk)
    if digest.hexdigest() != record["sha256"]:
        raise damaged_file_error(name, "its SHA-256 is not the one in the manifest")


@contextmanager
def member(folder: Path, name: str) -> Iterator[BinaryIO]:
    """Open a file of the folder for reading; only regular files that really lie in it.

    Raises:
        BundleError: It is missing (EV404), can't be read (EV424), or leads elsewhere (EV426).
    """
    try:
        root = folder.resolve(strict=True)
        target = (root / name).resolve(strict=True)
        if target.parent != root or not stat.S_ISREG(target.stat().st_mode):
            raise BundleError(
                "EV426",
                "A file of the bundle is not a plain file in its folder.",
                where=name,
                why="It is a link that leads outside, a folder or a device.",
                try_next="Copy the bundle with its links resolved (cp -rL), or get it again.",
            )
        with open(target, "rb") as stream:
            yield stream
    except FileNotFoundError as error:
        raise BundleError(
            "EV404",
            "The bundle is incomplete.",
            where=name,
            why="The file is missing.",
            try_next="Copy the whole folder again or write the bundle again.",
        ) from error
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links before Python 3.13
        raise BundleError(
            "EV424",
            "A file of the bundle can't be read.",
            where=name,
            why=str(error),
            try_next="Check that you may read the file, or copy the bundle again.",
        ) from error


def damaged_file_error(name: str, why: str) -> BundleError:
    """Return the error for a file that is not what it should be."""
    return BundleError(
        "EV405",
        "A file of the bundle is damaged.",
        where=name,
        why=why,
        try_next="Copy the bundle again or write it again.",
    )
