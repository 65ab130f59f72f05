"""A set of images with class folders: opened, drawn from, and read batch by batch.

Everything is lazy and in sorted order, so that memory holds one batch and the same folder gives
the same batches on every machine; images that can't be read are left out, named and counted.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgevit.data.preprocessing import Preprocessing
from edgevit.data.sources import (
    ArraySource,
    CompressedTarSource,
    FolderSource,
    Source,
    TarSource,
    ZipSource,
    is_image,
)
from edgevit.errors import DataError, UsageError

MAX_DAMAGED_SHARE = 0.05
SPLITS = frozenset(("train", "val", "valid", "validation", "test"))
Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], list[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageItem:
    """One image: its name below the opened folder, and its class folder (None if flat)."""

    name: str
    folder: str | None


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images in a fixed order.

    Args:
        location: Where they come from, as the user gave it.
        source: Reads the bytes.
        prefix: What has to be put before a name to find it in the source.
        items: The images, sorted by name.
        classes: Sorted names of all class folders of the location; a subset keeps them all.
        labels: Folder -> label index of the model, see `edgevit.data.labels.labels_for`.
        numbered: Whether folder names are label indices (a .npz without class names).
        ignored: Number of images in the root beside class folders, which have no class.
        skipped: Filled while reading: name -> why the image was left out.
    """

    location: str
    source: Source
    prefix: str = ""
    items: tuple[ImageItem, ...]
    classes: tuple[str, ...]
    labels: Mapping[str, int] | None = None
    numbered: bool = False
    ignored: int = 0
    skipped: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    def subset(self, num: int, seed: int) -> ImageSet:
        """Draw images, as even over the classes as possible.

        The choice depends on the names and the seed alone: images of a class, and the classes
        that give one more, are ranked by SHA-256 of seed and name.

        Raises:
            DataError: There are fewer images than asked for (EV103).
        """
        if not 0 < num <= len(self.items):
            raise DataError(
                "EV103",
                f"{num} images were asked for and there are {len(self.items)}.",
                where=self.location,
                try_next=f"Ask for 1 to {len(self.items)} images (--num-calib {len(self.items)}), "
                "or give a folder with more.",
            )
        by_class: dict[str, list[ImageItem]] = defaultdict(list)
        for item in sorted(self.items, key=lambda item: _rank(seed, item.name)):
            by_class[item.folder or ""].append(item)
        order = sorted(by_class, key=lambda name: _rank(seed, name))
        rounds = range(max(len(items) for items in by_class.values()))
        drawn = [by_class[name][r] for r in rounds for name in order if r < len(by_class[name])]
        chosen = tuple(sorted(drawn[:num], key=lambda item: item.name))
        return replace(self, items=chosen, skipped={})

    def batches(self, preprocessing: Preprocessing, batch_size: int) -> Iterator[Batch]:
        """Yield the images in order; only the last batch may be smaller.

        Args:
            preprocessing: Resize and crop; normalising is left to the caller.
            batch_size: Images per batch.

        Yields:
            pixels uint8 [B, H, W, 3], labels int64 [B], names of the B images; every label is
            -1 in a flat folder and before `labels_for` has set `labels`.

        Raises:
            DataError: More than 5 % of the images are damaged (EV104), or a folder has no label
                (EV105).
        """
        if batch_size < 1:
            raise UsageError("EV109", "A batch has at least one image.", where=f"{batch_size=}")
        numbers = self._numbers()
        waiting: list[tuple[npt.NDArray[np.uint8], ImageItem]] = []
        for pair in self._pictures(preprocessing, batch_size):
            waiting.append(pair)
            if len(waiting) == batch_size:
                yield _batch(waiting, numbers)
                waiting = []
        if waiting:
            yield _batch(waiting, numbers)

    def sha256s(self) -> list[str]:
        """Return the SHA-256 of each image's bytes in order, without those in `skipped`."""
        items = [item for item in self.items if item.name not in self.skipped]
        return [
            hashlib.sha256(self.source.read(self.prefix + item.name)).hexdigest() for item in items
        ]

    def _numbers(self) -> dict[str | None, int]:
        folders = {item.folder for item in self.items}
        labels = self.labels
        if labels is None:
            return dict.fromkeys(folders, -1)
        missing = sorted(name for name in folders if name is not None and name not in labels)
        if missing:
            why = f"{len(missing)} folders have no label: {', '.join(missing[:8])}"
            raise DataError("EV105", "A class folder has no label.", where=self.location, why=why)
        return {name: -1 if name is None else labels[name] for name in folders}

    def _pictures(
        self, preprocessing: Preprocessing, chunk: int
    ) -> Iterator[tuple[npt.NDArray[np.uint8], ImageItem]]:
        """Decode `chunk` images at a time in a few threads, in order, leaving out damaged ones."""

        def picture(data: bytes | DataError) -> npt.NDArray[np.uint8] | DataError:
            try:
                return data if isinstance(data, DataError) else decode(data)
            except DataError as error:
                return error

        def decode(data: bytes) -> npt.NDArray[np.uint8]:
            return preprocessing.pixels(self.source.decode(data))  # [H, W, 3]

        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            for start in range(0, len(self.items), chunk):
                items = self.items[start : start + chunk]
                data = [self._read(item) for item in items]  # archives are read by one thread
                for item, result in zip(items, pool.map(picture, data), strict=True):
                    if isinstance(result, DataError):
                        self._skip(item, result)
                    else:
                        yield result, item

    def _read(self, item: ImageItem) -> bytes | DataError:
        try:
            return self.source.read(self.prefix + item.name)
        except DataError as error:
            return error

    def _skip(self, item: ImageItem, error: DataError) -> None:
        self.skipped[item.name] = error.why
        if len(self.skipped) > MAX_DAMAGED_SHARE * len(self.items):
            shown = [f"{name}: {why}" for name, why in list(self.skipped.items())[:8]]
            raise DataError(
                "EV104",
                f"At least {len(self.skipped)} of {len(self.items)} images are damaged; "
                f"{MAX_DAMAGED_SHARE:.0%} are allowed.",
                where=self.location,
                why="; ".join(shown),
                try_next="Replace or remove them.",
            ) from error


def open_images(path: str | Path) -> ImageSet:
    """Open a folder, archive or .npz of images.

    Args:
        path: A folder of class folders, a flat folder, a .zip or .tar (also compressed) of
            either, or a .npz (see `ArraySource`). ``PATH::SUB`` opens the folder SUB in it,
            such as ``cifar10.tar.gz::test``. An archive's only top folder, when nothing but
            folders lies in it, is entered. Files that are no images are ignored.

    Raises:
        DataError: Missing or unreadable (EV101, EV106, EV107), no images (EV102), or split
            folders (train, test, ...) of which one has to be named (EV101).
    """
    location = str(path)
    file, sub = _split_location(location)
    prefix = f"{sub}/" if sub else ""
    source = _source(file, location, prefix)
    names = sorted(n[len(prefix) :] for n in source.names() if n.startswith(prefix))
    if not file.is_dir():
        top = _only_folder(names)
        prefix, names = prefix + top, [name[len(top) :] for name in names]
    if not names:
        raise DataError(
            "EV102",
            "There are no images.",
            where=location,
            try_next="Give a folder, archive or .npz with images in class folders or in its root.",
        )
    _refuse_splits(names, location)
    return _image_set(location, source, prefix, names)


def _image_set(location: str, source: Source, prefix: str, names: list[str]) -> ImageSet:
    folders = [name.split("/", 1)[0] if "/" in name else None for name in names]
    classes = tuple(sorted({name for name in folders if name is not None}))
    items = tuple(
        ImageItem(name=name, folder=folder)
        for name, folder in zip(names, folders, strict=True)
        if folder is not None or not classes
    )
    return ImageSet(
        location=location,
        source=source,
        prefix=prefix,
        items=items,
        classes=classes,
        numbered=isinstance(source, ArraySource) and source.classes is None,
        ignored=len(names) - len(items),
    )


def _split_location(location: str) -> tuple[Path, str]:
    """Split ``PATH::SUB``; a path that exists as it is has no SUB."""
    path, separator, sub = location.rpartition("::")
    file = Path(path if separator and not Path(location).exists() else location)
    if not file.exists():
        raise DataError(
            "EV101",
            "The images don't exist.",
            where=location,
            try_next="Give an existing folder, .zip, .tar, .tar.gz or .npz; "
            "PATH::FOLDER names a folder in it.",
        )
    inside = sub if str(file) != location else ""
    parts = [part for part in inside.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts:
        raise DataError("EV101", "The part after :: leaves the folder.", where=location)
    return file, "/".join(parts)


def _source(file: Path, location: str, prefix: str) -> Source:
    """Choose the reader by what the file is, not by what it is called (except .npz)."""
    if file.is_dir():
        return FolderSource(file)
    if file.suffix.lower() == ".npz":
        return ArraySource(file)
    if is_image(file.name):
        raise DataError(
            "EV101", "This is one image.", where=location, try_next="Give the folder it lies in."
        )
    try:
        if zipfile.is_zipfile(file):
            return ZipSource(file)
        if not tarfile.is_tarfile(file):
            raise DataError(
                "EV101",
                "The file is no folder, .zip, .tar or .npz.",
                where=location,
                try_next="Give images in one of these.",
            )
        plain = _is_plain_tar(file)
    except (OSError, EOFError) as error:
        why = str(error)
        raise DataError("EV106", "The file can't be read.", where=location, why=why) from error
    return TarSource(file) if plain else CompressedTarSource(file, lambda n: n.startswith(prefix))


def _is_plain_tar(file: Path) -> bool:
    try:
        with tarfile.open(file, "r:"):
            return True
    except tarfile.TarError:
        return False


def _only_folder(names: list[str]) -> str:
    """Return ``"top/"`` when every name lies in a folder of one folder called top, else ``""``."""
    tops = {name.split("/", 1)[0] for name in names}
    nested = all(name.count("/") >= 2 for name in names)
    return f"{tops.pop()}/" if len(tops) == 1 and nested and not tops <= SPLITS else ""


def _refuse_splits(names: list[str], location: str) -> None:
    tops = {name.split("/", 1)[0] for name in names if "/" in name}
    if tops and tops <= SPLITS and all(name.count("/") >= 2 for name in names if "/" in name):
        choice = " or ".join(f"{location}::{top}" for top in sorted(tops))
        raise DataError(
            "EV101",
            f"The images are in splits: {', '.join(sorted(tops))}.",
            where=location,
            try_next=f"Name one: {choice}.",
        )


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()


def _batch(
    pairs: list[tuple[npt.NDArray[np.uint8], ImageItem]], numbers: Mapping[str | None, int]
) -> Batch:
    pixels = np.stack([pixels for pixels, _ in pairs])  # [B, H, W, 3]
    labels = np.array([numbers[item.folder] for _, item in pairs], dtype=np.int64)  # [B]
    return pixels, labels, [item.name for _, item in pairs]
