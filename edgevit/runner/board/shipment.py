"""Images as they are shipped to a board: cropped pixels in plain files, labels and order in JSON.

The board then needs no image library, and computes on exactly the pixels of the machine that sent
them. Files hold whole images, uint8 [n, H, W, 3] in C order, nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.runner.measure.accuracy import Batch

INDEX = "images.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Shipment:
    """A folder of shipped images.

    Args:
        folder: Where the files lie.
        shape: (H, W, 3) of every image.
        counts: Images in each of the files, in order.
        labels: int64 [N], -1 where there is none.
        skipped: Names of images that were damaged and are not here.
    """

    folder: Path
    shape: tuple[int, int, int]
    counts: tuple[int, ...]
    labels: npt.NDArray[np.int64]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield (pixels uint8 [b, H, W, 3], labels int64 [b], None), in order.

        Raises:
            DataError: A file is missing or has another size than the index says (EV110).
        """
        start = 0
        for number, count in enumerate(self.counts):
            pixels = self._pixels(number, count)
            for first in range(0, count, batch_size):
                batch = np.array(pixels[first : first + batch_size])  # [b, H, W, 3]
                yield batch, self.labels[start + first : start + first + len(batch)], None
            start += count

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its files; whatever else lies in the folder is none of them."""
        return (INDEX, *(file_name(number) for number in range(len(self.counts))))

    def sha256(self) -> str:
        """Return the SHA-256 of all its files as they are now, as `files_digest` does.

        Raises:
            DataError: A file can't be read (EV110).
        """
        return files_digest({name: _hash(self.folder / name) for name in self.names})

    def _pixels(self, number: int, count: int) -> npt.NDArray[np.uint8]:
        path = self.folder / file_name(number)
        try:
            pixels = np.memmap(str(path), np.uint8, "r")
            return pixels.reshape((count, *self.shape))  # refuses any other size
        except (OSError, ValueError) as error:
            raise _unreadable(path, str(error)) from error


def files_digest(hashes: Mapping[str, str]) -> str:
    """Return one SHA-256 for files, from name -> SHA-256 of each."""
    lines = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(str(path), "rb") as stream:
            for chunk in iter(lambda: stream.read(1 << 20), b""):
                digest.update(chunk)
    except OSError as error:
        raise _unreadable(path, str(error)) from error
    return digest.hexdigest()


def file_name(number: int) -> str:
    """Return the name of the file with that number."""
    return f"pixels-{number:05d}.bin"


def index_text(shipment: Shipment) -> str:
    """Return the index of a folder's images."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "shape": list(shipment.shape),
        "counts": list(shipment.counts),
        "labels": shipment.labels.tolist(),
        "skipped": list(shipment.skipped),
    }
    return json.dumps(content)


def open_shipment(folder: Path) -> Shipment:
    """Open a folder of shipped images.

    Raises:
        DataError: It is none, or damaged (EV110).
    """
    path = folder / INDEX
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {content['schema_version']}")
        height, width, channels = (int(size) for size in content["shape"])
        labels = np.array(content["labels"], dtype=np.int64)  # [N]
        counts = tuple(int(count) for count in content["counts"])
        if sum(counts) != len(labels) or min(counts, default=0) < 1:
            raise ValueError(f"{len(labels)} labels for {sum(counts)} images")
        shape, skipped = (height, width, channels), tuple(content["skipped"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(path, f"{type(error).__name__}: {error}") from error
    return Shipment(folder=folder, shape=shape, counts=counts, labels=labels, skipped=skipped)


def _unreadable(path: Path, why: str) -> DataError:
    return DataError(
        "EV110",
        "Shipped images can't be read.",
        where=str(path),
        why=why,
        try_next="Deploy again.",
    )
