"""A set of images with class folders: drawn from, and read batch by batch.

Everything is lazy and in sorted order, so that memory holds one batch and the same folder gives
the same batches on every machine; images that can't be read are left out, named and counted.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from edgevit.data.preprocessing import Preprocessing
from edgevit.data.sources import ImageSource
from edgevit.errors import DataError, UsageError

MAX_DAMAGED_SHARE = 0.05
Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], list[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageItem:
    """One image: its name below the opened folder, and its class folder (None if flat)."""

    name: str
    folder: str | None

    @property
    def shown(self) -> str:
        """The name for reports: bytes of a file name that are no UTF-8 are escaped."""
        return self.name.encode("utf-8", "backslashreplace").decode()


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
        labels_from: What they were taken from, in words.
        named: Class names in label order where the data file itself states them (a .npz).
        numbered: Whether folder names are label indices (a .npz without class names).
        ignored: Number of images in the root beside class folders, which have no class.
        skipped: Filled while reading: name as shown -> why the image was left out.
    """

    location: str
    source: ImageSource
    prefix: str = ""
    items: tuple[ImageItem, ...]
    classes: tuple[str, ...]
    labels: Mapping[str, int] | None = None
    labels_from: str = ""
    named: tuple[str, ...] | None = None
    numbered: bool = False
    ignored: int = 0
    skipped: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    def subset(self, num: int, seed: int, *, option: str = "--num-calib") -> ImageSet:
        """Draw images, as even over the classes as possible, the first few of them as well.

        The choice depends on the names and the seed alone: images of a class, and the classes
        that give one more, are ranked by SHA-256 of seed and name.

        Args:
            num: How many images.
            seed: Seed of the draw.
            option: What the user calls `num`, for the error.

        Raises:
            DataError: There are fewer images than asked for (EV103).
        """
        if not 0 < num <= len(self.items):
            raise DataError(
                "EV103",
                f"{num} images were asked for and there are {len(self.items)}.",
                where=self.location,
                why=f"{option} is a number of images to draw from there, each at most once.",
                try_next=f"Ask for 1 to {len(self.items)} images ({option} {len(self.items)}), "
                "or give a folder with more.",
            )
        by_class: dict[str, list[ImageItem]] = defaultdict(list)
        for item in sorted(self.items, key=lambda item: _rank(seed, item.name)):
            by_class[item.folder or ""].append(item)
        order = sorted(by_class, key=lambda name: _rank(seed, name))
        rounds = range(max(len(items) for items in by_class.values()))
        drawn = [by_class[name][r] for r in rounds for name in order if r < len(by_class[name])]
        return replace(self, items=tuple(drawn[:num]), skipped={})

    def batches(self, preprocessing: Preprocessing, batch_size: int) -> Iterator[Batch]:
        """Yield the images in order; only the last batch may be smaller.

        Args:
            preprocessing: Resize and crop; normalising is left to the caller.
            batch_size: Images per batch.

        Yields:
            pixels uint8 [B, H, W, 3], labels int64 [B], names of the B images as shown; every
            label is -1 in a flat folder and before `labels_for` has set `labels`.

        Raises:
            DataError: More than 5 % of the images are damaged (EV104), or a folder has no label
                (EV133).
        """
        if batch_size < 1:
            raise UsageError(
                "EV109",
                f"A batch of {batch_size} images can't be read.",
                where="batch_size",
                why="A batch has at least one image.",
                try_next="batch_size=16",
            )
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
        items = [item for item in self.items if item.shown not in self.skipped]
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
            raise DataError(
                "EV133",
                "A class folder has no label.",
                where=self.location,
                why=why,
                try_next="Name each folder after a class of the model, or take these folders away.",
            )
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
        self.skipped[item.shown] = error.why
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


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()


def _batch(
    pairs: list[tuple[npt.NDArray[np.uint8], ImageItem]], numbers: Mapping[str | None, int]
) -> Batch:
    pixels = np.stack([pixels for pixels, _ in pairs])  # [B, H, W, 3]
    labels = np.array([numbers[item.folder] for _, item in pairs], dtype=np.int64)  # [B]
    return pixels, labels, [item.shown for _, item in pairs]
