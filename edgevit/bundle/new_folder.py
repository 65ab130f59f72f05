"""A bundle's folder in the making: it appears under its name as a whole, or nothing does.

Everything goes into a hidden folder beside the target, is flushed to the disk and renamed at the
end; an error or an interrupt removes that folder again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterable, Mapping

from edgevit.bundle.leftovers import clear_leftovers, find, fresh_folder
from edgevit.bundle.manifest import BUNDLE_FILES, MANIFEST, dump_manifest
from edgevit.bundle.placing import put_in_place
from edgevit.errors import EnvironmentError_, UsageError


class NewBundle:
    """Writes files into a folder and remembers their size and SHA-256.

    Args:
        folder: The hidden folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: dict[str, dict[str, Any]] = {}

    def add(self, name: str, data: bytes) -> None:
        """Write a file."""
        self.add_stream(name, [data])

    def add_stream(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write a file piece by piece."""
        digest, size_bytes = hashlib.sha256(), 0
        with open(self.folder / name, "xb") as stream:
            for chunk in chunks:
                stream.write(chunk)
                digest.update(chunk)
                size_bytes += len(chunk)
            stream.flush()
            os.fsync(stream.fileno())
        self.records[name] = {"sha256": digest.hexdigest(), "size_bytes": size_bytes}

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest, which gets the records of all files.

        Raises:
            UsageError, BundleError: As `dump_manifest`.
        """
        self.add(MANIFEST, dump_manifest({**manifest, "files": dict(self.records)}))


@contextmanager
def new_bundle(
    target: Path, overwrite: bool, check: Callable[[], object] = lambda: None
) -> Iterator[NewBundle]:
    """Yield a bundle to write; it gets its name when the block ends, and is gone if that fails.

    Args:
        target: Its place; missing parent folders are made too.
        overwrite: Replace a bundle that is there.
        check: Called just before; what it raises leaves everything as it was.

    Raises:
        UsageError: Something is there that may not be replaced (EV411).
        EnvironmentError_: The disk is full or not writable (EV412).
    """
    clear_leftovers(
        find(target.parent, target.name)
    )  # what a killed process left of the same bundle
    check_target(target, overwrite)
    try:
        with _parents(target.parent), fresh_folder(target) as folder:
            yield NewBundle(folder)
            _sync_folder(folder)
            check_target(target, overwrite)  # somebody else may have made it meanwhile
            check()
            put_in_place(folder, target)
            _sync_folder(target.parent)
    except OSError as error:
        raise _unwritable(target, error) from error


def check_target(target: Path, overwrite: bool) -> None:
    """Refuse a path where something is that may not be replaced.

    Raises:
        UsageError: Something is there and `overwrite` is False, or it is no bundle (EV411).
    """
    if not os.path.lexists(target):
        return
    try_next = "Choose another --output, or --overwrite to replace a bundle."
    why = "It is there already."
    if overwrite:
        why = _why_not_replaceable(target)
        try_next = "Choose another --output; EdgeViT replaces nothing but its own bundles."
    if why:
        raise UsageError(
            "EV411", "Can't write the bundle there.", where=str(target), why=why, try_next=try_next
        )


def _why_not_replaceable(target: Path) -> str:
    """Return why a path must not be replaced, or an empty string if it may be."""
    if target.is_symlink() or not target.is_dir():
        return "It is not a folder."
    try:
        found = {entry.name for entry in os.scandir(target)}
    except OSError as error:
        return str(error)
    foreign = sorted(found - BUNDLE_FILES)
    if foreign:
        return f"It holds files that are not part of a bundle, such as {foreign[0]!r}."
    return "" if MANIFEST in found or not found else f"It is not a bundle: it has no {MANIFEST}."


@contextmanager
def _parents(parent: Path) -> Iterator[None]:
    """Make missing parent folders; take them away again if the work inside fails."""
    missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    try:
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
        yield
    except BaseException:
        for folder in missing:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # elsewhere a folder can't be opened to be flushed
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(target: Path, error: OSError) -> EnvironmentError_:
    return EnvironmentError_(
        "EV412",
        "The bundle can't be written.",
        where=str(error.filename or target),
        why=error.strerror or str(error),
        try_next="Free some space or choose another --output; nothing was left behind.",
    )
