"""Writes images as they are shipped to a board: decoded and cropped here, labels in an index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.data import ImageSet, Preprocessing
from edgevit.errors import DataError, EnvironmentError_
from edgevit.runner.board.shipment import INDEX, Shipment, file_name, index_text

_FILE_BYTES = 32 << 20
_BATCH = 16


def pack_images(
    images: ImageSet,
    preprocessing: Preprocessing,
    folder: Path,
    on_images: Callable[[int], None] = lambda done: None,
) -> Shipment:
    """Write images into an empty folder; the same images give the same bytes.

    Args:
        images: Labelled images; damaged ones are left out and named in the index.
        preprocessing: The model's resize and crop.
        folder: Where the files go.
        on_images: Called with the number of images done so far.

    Raises:
        DataError: No image could be read (EV102), or too many could not (EV104).
        EnvironmentError_: There is no room here (EV231).
    """
    labels: list[npt.NDArray[np.int64]] = []
    counts: list[int] = []
    done = 0
    try:
        for batches in _by_file(images.batches(preprocessing, _BATCH), preprocessing.input_size):
            with open(folder / file_name(len(counts)), "wb") as stream:
                counts.append(0)
                for pixels, numbers, _ in batches:
                    stream.write(np.ascontiguousarray(pixels).data)  # uint8 [b, H, W, 3]
                    labels.append(numbers)
                    counts[-1] += len(pixels)
                    done += len(pixels)
                    on_images(done)
        return _index(images, preprocessing, folder, counts, labels)
    except OSError as error:
        raise EnvironmentError_(
            "EV231",
            "The images can't be prepared for sending.",
            where=str(folder),
            why=str(error),
            try_next="Free some space there (TMPDIR names another folder), or use --num.",
        ) from error


def _by_file(batches: Iterator[Any], input_size: tuple[int, int, int]) -> Iterator[list[Any]]:
    """Yield the batches of one file after the other; every file holds whole batches."""
    per_file = max(1, _FILE_BYTES // (_BATCH * int(np.prod(input_size))))
    waiting: list[Any] = []
    for batch in batches:
        waiting.append(batch)
        if len(waiting) == per_file:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _index(
    images: ImageSet,
    preprocessing: Preprocessing,
    folder: Path,
    counts: list[int],
    labels: list[npt.NDArray[np.int64]],
) -> Shipment:
    if not counts:
        raise DataError(
            "EV102",
            "There are no images.",
            where=images.location,
            why="None could be read.",
            try_next="Give images that open.",
        )
    channels, height, width = preprocessing.input_size
    shipment = Shipment(
        folder=folder,
        shape=(height, width, channels),
        counts=tuple(counts),
        labels=np.concatenate(labels),
        skipped=tuple(images.skipped),
    )
    (folder / INDEX).write_text(index_text(shipment))
    return shipment
