"""Images that are already decoded: arrays in a .npz file, read without pickle."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgevit.data.sources import ARCHIVE_DAMAGE
from edgevit.errors import DataError

MAX_ARRAY_BYTES = 8 << 30


class ArraySource:
    """Images of a .npz: ``images`` uint8 [N, H, W, 3], ``labels`` [N], ``classes`` (optional)."""

    def __init__(self, path: Path) -> None:
        arrays = _load_npz(path)
        self.images = arrays["images"]  # [N, H, W, 3]
        self.labels = arrays.get("labels")  # [N]
        classes = arrays.get("classes")
        self.classes = None if classes is None else tuple(str(name) for name in classes.flat)
        why = self._wrong()
        if why:
            raise _no_images("EV107", "The .npz does not hold images.", path, why)
        self._digits = len(str(max(len(self.images) - 1, 0)))

    def _wrong(self) -> str:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[3] != 3:
            return f"images is {self.images.dtype} {self.images.shape}, not uint8 [N, H, W, 3]."
        if 0 in self.images.shape[1:3]:
            return f"images has no pixels: {self.images.shape}."
        slashed = [name for name in self.classes or () if "/" in name]
        if slashed:  # names of images are class/index
            return f"classes holds {slashed[0]!r}; no name of a class can have a slash."
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
        damaged = [key for key, array in loaded.items() if not isinstance(array, np.ndarray)]
        if damaged:  # numpy returns the bytes of a member that is not in its format
            raise ValueError(f"{damaged[0]} is no array")
        return loaded
    except ARCHIVE_DAMAGE as error:
        why = str(error) or type(error).__name__
        raise _no_images("EV135", "The .npz can't be read.", path, why) from error


def _no_images(code: str, what: str, path: Path, why: str) -> DataError:
    return DataError(
        code,
        what,
        where=str(path),
        why=why,
        try_next="Save it with numpy.savez(FILE, images=..., labels=...): images uint8 "
        "[N, H, W, 3], labels integers [N], optionally classes, their names.",
    )
