"""Opens a folder, an archive or an array file as one sorted set of images.

The kind of a file is told by its contents; class folders are the first folders below the root.
"""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

from edgevit.data.arrays import ArraySource
from edgevit.data.imageset import ImageItem, ImageSet
from edgevit.data.paths import look_at
from edgevit.data.sources import (
    CompressedTarSource,
    FolderSource,
    ImageSource,
    TarSource,
    ZipSource,
    is_image,
)
from edgevit.errors import DataError

SPLITS = frozenset(("train", "val", "valid", "validation", "test"))


def open_images(path: str | Path) -> ImageSet:
    """Open a folder, archive or .npz of images.

    Args:
        path: A folder of class folders, a flat folder, a .zip or .tar (also compressed) of
            either, or a .npz (see `ArraySource`). ``PATH::SUB`` opens the folder SUB in it,
            such as ``cifar10.tar.gz::test``. An archive's only top folder, when nothing but
            folders lies in it, is entered. Files that are no images are ignored.

    Raises:
        DataError: Missing or unreadable (EV101, EV106, EV107, EV125 to EV129, EV131, EV134,
            EV135), no images (EV102), or split folders (train, test, ...) of which one has to
            be named (EV130).
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


def _image_set(location: str, source: ImageSource, prefix: str, names: list[str]) -> ImageSet:
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
        named=source.classes if isinstance(source, ArraySource) else None,
        numbered=isinstance(source, ArraySource) and source.classes is None,
        ignored=len(names) - len(items),
    )


def _split_location(location: str) -> tuple[Path, str]:
    """Split ``PATH::SUB``; a path that exists as it is has no SUB."""
    if not location.strip():  # it would mean the working directory
        raise DataError(
            "EV125",
            "The name of the images is empty.",
            where=f"{location!r}, as an option such as --calib or --data got it",
            why="A variable in the command may not be set.",
            try_next="Name a folder, .zip, .tar, .tar.gz or .npz; . is the working directory.",
        )
    path, separator, sub = location.rpartition("::")
    is_whole = look_at(location).kind in ("file", "folder")
    file = Path(path if separator and not is_whole else location)
    found = look_at(file)
    if found.kind == "nothing":
        raise _no_place("EV101", "The images don't exist.", location, found.why)
    if found.kind not in ("file", "folder"):
        raise _no_place("EV126", "No images can be in this.", location, found.why)
    inside = sub if str(file) != location else ""
    parts = [part for part in inside.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts:
        raise DataError(
            "EV127",
            "The part after :: leaves the folder.",
            where=location,
            why="It goes up with ..",
            try_next="Name a folder inside.",
        )
    return file, "/".join(parts)


def _no_place(code: str, what: str, location: str, why: str) -> DataError:
    return DataError(
        code,
        what,
        where=location,
        why=why,
        try_next="Give an existing folder, .zip, .tar, .tar.gz or .npz; "
        "PATH::FOLDER names a folder in it.",
    )


def _source(file: Path, location: str, prefix: str) -> ImageSource:
    """Choose the reader by what the file is, not by what it is called (except .npz)."""
    if file.is_dir():
        return FolderSource(file)
    if file.suffix.lower() == ".npz":
        return ArraySource(file)
    if is_image(file.name):
        raise DataError(
            "EV128", "This is one image.", where=location, try_next="Give the folder it lies in."
        )
    try:
        if zipfile.is_zipfile(file):
            return ZipSource(file)
        if not tarfile.is_tarfile(file):
            raise DataError(
                "EV129",
                "The file is no folder, .zip, .tar or .npz.",
                where=location,
                try_next="Give images in one of these.",
            )
        plain = _is_plain_tar(file)
    except (OSError, EOFError) as error:
        raise DataError(
            "EV134",
            "The file can't be read.",
            where=location,
            why=str(error),
            try_next="Check that you may read it and that it is whole.",
        ) from error
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
            "EV130",
            f"The images are in splits: {', '.join(sorted(tops))}.",
            where=location,
            try_next=f"Name one: {choice}.",
        )
