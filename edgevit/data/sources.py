"""Where image bytes come from: a folder, a zip, a tar, or arrays in a .npz.

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
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgevit.data.decoding import MAX_FILE_BYTES, SUFFIXES, damaged, image_from_bytes
from edgevit.errors import DataError

MAX_ARRAY_BYTES = 8 << 30
MAX_COMPRESSED_TAR_BYTES = 1 << 30
_ARCHIVE_DAMAGE = (
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


class Source(Protocol):
    """Names of images and their bytes."""

    def names(self) -> list[str]:
        """Return the relative names (``class/file.jpg``) in any order."""

    def read(self, name: str) -> bytes:
        """Return one image's bytes, or raise DataError (EV104)."""

    def decode(self, data: bytes) -> Image.Image:
        """Return the RGB picture in these bytes, or raise DataError (EV104)."""


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
            why = str(error)
            raise DataError("EV101", "Can't read a folder.", where=str(folder), why=why) from error
        if identity in above:  # a link back to a folder we are in
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from self._walk(
                    folder / entry.name, f"{prefix}{entry.name}/", (*above, identity)
                )
            elif is_image(entry.name) and entry.is_file():
                yield prefix + entry.name

    def read(self, name: str) -> bytes:
        """Return one file's bytes."""
        try:
            with open(self.root / name, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise damaged(str(error)) from error
        return _bounded(data)

    decode = staticmethod(image_from_bytes)


class ZipSource:
    """The images of a zip file, read one at a time."""

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except _ARCHIVE_DAMAGE as error:
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
                return _bounded(file.read(MAX_FILE_BYTES + 1))
        except _ARCHIVE_DAMAGE as error:
            raise damaged(str(error)) from error

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
            raise damaged(str(error)) from error
        return _bounded(data)

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
        return _bounded(self._bytes[name])

    decode = staticmethod(image_from_bytes)


class ArraySource:
    """Images of a .npz: ``images`` uint8 [N, H, W, 3], ``labels`` [N], ``classes`` (optional)."""

    def __init__(self, path: Path) -> None:
        arrays = _load_npz(path)
        self.images = arrays["images"]  # [N, H, W, 3]
        self.labels = arrays.get("labels")  # [N]
        classes = arrays.get("classes")
        self.classes = None if classes is None else tuple(str(name) for name in classes)
        self._digits = len(str(max(len(self.images) - 1, 0)))
        why = self._wrong()
        if why:
            raise DataError("EV107", "The .npz does not hold images.", where=str(path), why=why)

    def _wrong(self) -> str:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[3] != 3:
            return f"images is {self.images.dtype} {self.images.shape}, not uint8 [N, H, W, 3]."
        if 0 in self.images.shape[1:3]:
            return f"images has no pixels: {self.images.shape}."
        if self.labels is None:
            return ""
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype.kind not in "iu":
            return f"labels is {self.labels.dtype} {self.labels.shape}, not one integer per image."
        top = np.iinfo(np.int32).max if self.classes is None else len(self.classes) - 1
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() <= top:
            return f"labels lie outside [0, {top}]."
        return ""

    def names(self) -> list[str]:
        """Return ``class/index`` or, without labels, ``index``; indices padded with zeros."""
        index = [str(i).zfill(self._digits) for i in range(len(self.images))]
        if self.labels is None:
            return index
        named = [str(int(i)) if self.classes is None else self.classes[i] for i in self.labels]
        return [f"{label}/{i}" for label, i in zip(named, index, strict=True)]

    def read(self, name: str) -> bytes:
        """Return one image's pixels."""
        pixels: bytes = self.images[int(name.rpartition("/")[2])].tobytes()
        return pixels

    def decode(self, data: bytes) -> Image.Image:
        """Return the picture of these pixels."""
        _, height, width, _ = self.images.shape
        return Image.frombytes("RGB", (width, height), data)


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
    except _ARCHIVE_DAMAGE as error:
        raise _bad_archive(path, str(error)) from error


def _check_end_mark(tar: tarfile.TarFile) -> None:
    stream = tar.fileobj
    if stream is not None:
        stream.seek(tar.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("It is cut off or damaged: there is no end mark.")


def _load_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Load the known arrays without pickle, after a look at their size."""
    try:
        with zipfile.ZipFile(path) as file:
            size_bytes = sum(info.file_size for info in file.infolist())
        if size_bytes > MAX_ARRAY_BYTES:
            raise ValueError(f"{size_bytes} bytes are more than {MAX_ARRAY_BYTES}")
        with np.load(path, allow_pickle=False) as arrays:
            known = [key for key in ("images", "labels", "classes") if key in arrays.files]
            loaded = {key: arrays[key] for key in known}
        if "images" not in loaded:
            raise ValueError("there is no array called images")
        return loaded
    except _ARCHIVE_DAMAGE as error:
        why = f"{error}; expected: images uint8 [N, H, W, 3], labels [N], classes (optional)."
        raise DataError("EV107", "The .npz can't be read.", where=str(path), why=why) from error


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_FILE_BYTES:
        raise damaged(f"It has more than {MAX_FILE_BYTES:,} bytes.")
    return data


def _bad_archive(path: Path, why: str) -> DataError:
    return DataError(
        "EV106",
        "The archive can't be read.",
        where=str(path),
        why=why,
        try_next="Give a folder, .zip, .tar, .tar.gz or .npz that opens without a password.",
    )
