"""Reads image bytes from a folder, a zip or a tar (arrays are in `arrays.py`).

Every source lists relative names of image files and reads one of them; archives are read in
memory, member names never become paths, links in archives are ignored and sizes are bounded.
"""

from __future__ import annotations

import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from PIL import Image

from edgevit.data.decoding import MAX_FILE_BYTES, SUFFIXES, damaged_image_error, image_from_bytes
from edgevit.errors import DataError

MAX_COMPRESSED_TAR_BYTES = 1 << 30
ARCHIVE_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    MemoryError,
    RuntimeError,
    NotImplementedError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


class ImageSource(Protocol):
    """Names of images and their bytes."""

    def names(self) -> list[str]:
        """Return the relative names (``class/file.jpg``) in any order."""

    def read(self, name: str) -> bytes:
        """Return one image's bytes, or raise DataError (EV132)."""

    def decode(self, data: bytes) -> Image.Image:
        """Return the RGB picture in these bytes, or raise DataError (EV132)."""


class FolderSource:
    """A folder on disk; links are followed, loops of links are not."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Return the images below the root."""
        return list(self._walk(self.root, "", ()))

    def _walk(self, folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
        try:
            status = folder.stat()
            identity = (status.st_dev, status.st_ino)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(
                "EV131",
                "Can't read a folder.",
                where=str(folder),
                why=str(error),
                try_next="Check that you may open it.",
            ) from error
        if identity in above:  # a link back to a folder we are in
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = prefix + entry.name
            if _answers(entry.is_dir):
                yield from self._walk(folder / entry.name, f"{name}/", (*above, identity))
            elif is_image(entry.name) and _answers(entry.is_file):
                yield name

    def read(self, name: str) -> bytes:
        """Return one file's bytes."""
        try:
            with open(self.root / name, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise damaged_image_error(str(error)) from error
        return _bound(data)

    decode = staticmethod(image_from_bytes)


class ZipSource:
    """The images of a zip file, read one at a time."""

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except ARCHIVE_DAMAGE as error:
            raise _bad_archive(path, str(error)) from error
        infos = [info for info in self._zip.infolist() if not info.is_dir()]
        self._infos = {n: i for i in infos if is_image(n := member_name(i.filename))}
        if any(info.flag_bits & 1 for info in self._infos.values()):
            raise _bad_archive(path, "It is encrypted.")

    def names(self) -> list[str]:
        """Return the images of the archive."""
        return list(self._infos)

    def read(self, name: str) -> bytes:
        """Return one member's bytes."""
        try:
            with self._zip.open(self._infos[name]) as file:
                return _bound(file.read(MAX_FILE_BYTES + 1))
        except ARCHIVE_DAMAGE as error:
            raise damaged_image_error(str(error)) from error

    decode = staticmethod(image_from_bytes)


class TarSource:
    """The images of an uncompressed tar file, found again by their offsets."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._spans = {
            name: (member.offset_data, member.size) for name, member, _ in _tar_images(path)
        }

    def names(self) -> list[str]:
        """Return the images of the archive."""
        return list(self._spans)

    def read(self, name: str) -> bytes:
        """Return one member's bytes."""
        offset, size = self._spans[name]
        try:
            with open(self.path, "rb") as file:
                file.seek(offset)
                data = file.read(min(size, MAX_FILE_BYTES + 1))
        except OSError as error:
            raise damaged_image_error(str(error)) from error
        return _bound(data)

    decode = staticmethod(image_from_bytes)


class CompressedTarSource:
    """The images of a .tar.gz (.bz2, .xz), kept in memory because it can't be read out of order."""

    def __init__(self, path: Path, keep: Callable[[str], bool]) -> None:
        self._bytes: dict[str, bytes] = {}
        total = 0
        for name, _, data in _tar_images(path, keep):
            self._bytes[name] = data
            total += len(data)
            if total > MAX_COMPRESSED_TAR_BYTES:
                raise _bad_archive(
                    path,
                    f"Its images take more than {MAX_COMPRESSED_TAR_BYTES >> 20} MiB; a "
                    "compressed tar is held in memory. Use a zip or an uncompressed tar.",
                )

    def names(self) -> list[str]:
        """Return the images of the archive."""
        return list(self._bytes)

    def read(self, name: str) -> bytes:
        """Return one member's bytes."""
        return _bound(self._bytes[name])

    decode = staticmethod(image_from_bytes)


def _answers(question: Callable[[], bool]) -> bool:
    """Return what an entry of a folder says of itself; False for a link to itself."""
    try:
        return question()
    except OSError:
        return False


def is_image(name: str) -> bool:
    """Return whether the name ends as an image's does and no part of it is hidden."""
    parts = name.split("/")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and os.path.splitext(name)[1].lower() in SUFFIXES


def member_name(name: str) -> str:
    """Return an archive member's name without ``./``, a leading ``/`` or backslashes."""
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _tar_images(
    path: Path, keep: Callable[[str], bool] | None = None
) -> Iterator[tuple[str, tarfile.TarInfo, bytes]]:
    """Yield name, header and, with `keep`, the bytes of the images that it keeps.

    Links, devices and sparse files are left out. A tar that stops without its end mark was cut
    off, which tarfile itself does not report.
    """
    try:
        with tarfile.open(path, "r:*") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # else every header is kept
                name = member_name(member.name)
                if not member.isreg() or member.issparse() or not is_image(name):
                    continue
                if keep is None:
                    yield name, member, b""
                elif keep(name):
                    file = tar.extractfile(member)
                    yield name, member, file.read(MAX_FILE_BYTES + 1) if file else b""
            _check_end_mark(tar)
    except ARCHIVE_DAMAGE as error:
        raise _bad_archive(path, str(error)) from error


def _check_end_mark(tar: tarfile.TarFile) -> None:
    stream = tar.fileobj
    if stream is not None:
        stream.seek(tar.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("It is cut off or damaged: there is no end mark.")


def _bound(data: bytes) -> bytes:
    if len(data) > MAX_FILE_BYTES:
        raise damaged_image_error(f"It has more than {MAX_FILE_BYTES:,} bytes.")
    return data


def _bad_archive(path: Path, why: str) -> DataError:
    return DataError(
        "EV106",
        "The archive can't be read.",
        where=str(path),
        why=why,
        try_next="Give a folder, .zip, .tar, .tar.gz or .npz that opens without a password.",
    )
