"""Label maps of a segmentation: PNGs named as the images, brought to the size of the input.

A pixel's value is its class, 255 does not count and is read as -1; palettes are kept as numbers.
Resize and crop are those of the picture, with the nearest pixel in place of a mixture.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from edgevit.data.decoding import DAMAGE, MAX_FILE_BYTES, MAX_PIXELS
from edgevit.data.imageset import Batch
from edgevit.data.paths import look_at
from edgevit.data.preprocessing import Preprocessing, placed
from edgevit.errors import DataError

IGNORED = 255
_MODES = ("L", "P", "I", "1", "I;16", "I;16B")
Labelled = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], list[str]]


@dataclass(frozen=True, kw_only=True)
class MaskFolder:
    """A folder with a label map NAME.png for every image NAME.jpg.

    Args:
        path: The folder; images in class folders have their maps in folders of the same name.
        preprocessing: The model's.
    """

    path: Path
    preprocessing: Preprocessing

    def labelled(self, batches: Iterable[Batch]) -> Iterator[Labelled]:
        """Yield batches with label maps int64 [B, H, W] for labels.

        Raises:
            DataError: A map is missing, or is none (EV235).
        """
        for pixels, _, names in batches:
            yield pixels, np.stack([self.read(name) for name in names]), names

    def read(self, name: str) -> npt.NDArray[np.int64]:
        """Return the label map of an image, int64 [H, W], -1 where a pixel does not count.

        Raises:
            DataError: It is missing, or is none (EV235).
        """
        path = self.find(name)
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise _no_map(path, f"It is larger than {MAX_FILE_BYTES:,} bytes.")
            with Image.open(io.BytesIO(path.read_bytes()), formats=("PNG",)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise _no_map(path, f"It has more than {MAX_PIXELS:,} pixels.")
                image.load()
                return self._placed(image, path)
        except UnidentifiedImageError as error:
            raise _no_map(path, "It is no PNG.") from error
        except DAMAGE as error:
            raise _no_map(path, f"{type(error).__name__}: {error}") from error

    def find(self, name: str) -> Path:
        """Return the file of an image's label map.

        Raises:
            DataError: It is missing (EV235).
        """
        path = self.path / PurePosixPath(name).with_suffix(".png")
        if look_at(path).kind != "file":
            raise _no_map(path, f"{look_at(path).why} It belongs to the image {name}.")
        return path

    def _placed(self, image: Image.Image, path: Path) -> npt.NDArray[np.int64]:
        if image.mode not in _MODES:
            raise _no_map(path, f"It has colours ({image.mode}), not one number a pixel.")
        numbers = Image.fromarray(np.asarray(image).astype(np.int32))  # [H, W], mode I
        nearest = replace(self.preprocessing, interpolation="nearest")
        labels = np.asarray(placed(numbers, nearest, border=IGNORED)).astype(np.int64)
        return np.where(labels == IGNORED, -1, labels)


def open_masks(path: str | Path, preprocessing: Preprocessing) -> MaskFolder:
    """Return the folder, without looking for the map of any image.

    Raises:
        DataError: It is no folder (EV235).
    """
    if look_at(path).kind != "folder":
        raise _no_map(Path(path), look_at(path).why)
    return MaskFolder(path=Path(path), preprocessing=preprocessing)


def _no_map(path: Path, why: str) -> DataError:
    return DataError(
        "EV235",
        "A label map is missing, or is none.",
        where=str(path),
        why=why,
        try_next="--masks FOLDER with a PNG for every image, named as it is: pixels are classes of "
        f"the model, or {IGNORED} where they do not count.",
    )
