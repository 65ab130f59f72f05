"""Fifteen free photographs that are installed with EdgeViT, as many different crops of each.

They stand in where a model is calibrated and nobody gave images of its task. Crops are drawn as
for training on ImageNet: C. Szegedy et al., "Going Deeper with Convolutions", arXiv 1409.4842, 6.
"""

from __future__ import annotations

import hashlib
import math
from importlib.resources import files
from pathlib import Path

from PIL import Image, ImageOps

from edgevit.data.decoding import image_from_bytes
from edgevit.data.imageset import ImageItem, ImageSet
from edgevit.data.sources import FolderSource
from edgevit.errors import EnvironmentError_

CROPS_EACH = 72
"""More than a thousand in all, the most that a method asks for."""
LOCATION = "photographs that come with EdgeViT"
_AREA = (0.25, 1.0)  # of the photograph
_RATIO = (3 / 4, 4 / 3)  # width over height
_END_OF_NAME = b"\0"


class CropSource:
    """Crops of photographs; the one called ``cat.jpg/07`` is the same on every machine."""

    def __init__(self, folder: Path) -> None:
        self._photos = FolderSource(folder)

    def names(self) -> list[str]:
        """Return the names of all crops, ``PHOTO/NUMBER``."""
        return [
            f"{photo}/{number:02}"
            for photo in sorted(self._photos.names())
            for number in range(CROPS_EACH)
        ]

    def read(self, name: str) -> bytes:
        """Return the crop's name and the photograph's bytes, which say together what it shows."""
        photo = name.rpartition("/")[0]
        return name.encode() + _END_OF_NAME + self._photos.read(photo)

    def decode(self, data: bytes) -> Image.Image:
        """Return the crop, of mode RGB."""
        name, _, photo = data.partition(_END_OF_NAME)
        return crop_of(image_from_bytes(photo), name)


def photographs() -> ImageSet:
    """Return the crops as a set of images: one class folder per photograph.

    Raises:
        EnvironmentError_: The installation is incomplete (EV186).
    """
    folder = Path(str(files("edgevit") / "assets" / "photos"))
    source = CropSource(folder) if folder.is_dir() else None
    names = [] if source is None else source.names()
    if source is None or not names:
        raise EnvironmentError_(
            "EV186",
            "The photographs that come with EdgeViT are missing.",
            where=str(folder),
            try_next="Install EdgeViT again, or give --calib DIR.",
        )
    items = tuple(ImageItem(name=name, folder=name.rpartition("/")[0]) for name in names)
    classes = tuple(sorted({name.rpartition("/")[0] for name in names}))
    return ImageSet(location=LOCATION, source=source, items=items, classes=classes)


def is_stand_in(images: ImageSet) -> bool:
    """Return whether these are crops of the photographs that come with EdgeViT."""
    return isinstance(images.source, CropSource)


def crop_of(photo: Image.Image, name: bytes) -> Image.Image:
    """Return a rectangle of `photo`, perhaps mirrored; `name` stands for the random numbers."""
    area, ratio, x, y, mirrored = _uniform_numbers(name)
    size = math.sqrt((_AREA[0] + area * (_AREA[1] - _AREA[0])) * photo.width * photo.height)
    shape = math.sqrt(_RATIO[0]) * (_RATIO[1] / _RATIO[0]) ** (ratio / 2)
    width = min(max(round(size * shape), 1), photo.width)
    height = min(max(round(size / shape), 1), photo.height)
    left, top = round(x * (photo.width - width)), round(y * (photo.height - height))
    crop = photo.crop((left, top, left + width, top + height))
    return ImageOps.mirror(crop) if mirrored < 0.5 else crop


def _uniform_numbers(name: bytes) -> list[float]:
    """Return five numbers in [0, 1) that depend on the name alone."""
    digest = hashlib.sha256(name).digest()
    return [int.from_bytes(digest[4 * i : 4 * i + 4], "big") / 2**32 for i in range(5)]
