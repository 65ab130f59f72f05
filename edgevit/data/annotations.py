"""Boxes of objects in COCO's JSON format, brought to classes of the model and shares of the image.

Source: Lin et al., "Microsoft COCO: Common Objects in Context" (arXiv:1405.0312), and its format of
annotations (images, categories, annotations with ``bbox`` = left, top, width, height in pixels).
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.data.imageset import Batch
from edgevit.data.paths import look_at
from edgevit.data.preprocessing import Preprocessing
from edgevit.errors import DataError

_MAX_BYTES = 1 << 30
_TABLES = ("images", "annotations", "categories")
_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """The objects and the size of one annotated image.

    Args:
        boxes: float64 [N, 4]: left, top, right, bottom as shares of the image.
        labels: int64 [N], classes of the model.
        crowd: bool [N]: whether it is a group, which costs nothing to miss.
        size: Height and width in pixels of the original image; sizes of boxes are those in it.
    """

    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """The annotations of a file.

    Args:
        path: The file.
        by_name: Image's ``file_name`` -> its annotations.
    """

    path: Path
    by_name: Mapping[str, Annotated]

    def labelled(self, batches: Iterable[Batch]) -> Iterator[tuple[Any, list[Annotated], Any]]:
        """Yield batches with a list of `Annotated` for labels.

        Raises:
            DataError: An image is not in the file (EV236).
        """
        taken: dict[int, str] = {}
        for pixels, _, names in batches:
            found = [self.of(name) for name in names]
            for name, one in zip(names, found, strict=True):
                if taken.setdefault(id(one), name) != name:
                    raise _unusable(self.path, f"{taken[id(one)]} and {name} are one image in it.")
            yield pixels, found, names

    def of(self, name: str) -> Annotated:
        """Return what is known of an image, by its name or by the last part of it.

        Raises:
            DataError: The file does not have it (EV236).
        """
        found = self.by_name.get(name) or self.by_name.get(name.rpartition("/")[2])
        if found is None:
            raise _unusable(self.path, f"There is no image {name} in it.")
        return found


def read_annotations(
    path: str | Path, classes: Sequence[str] | None, num_classes: int, preprocessing: Preprocessing
) -> Annotations:
    """Read a file of COCO's format.

    Args:
        path: The file.
        classes: The model's class names; categories are found among them by name. Without names a
            category's id is the class.
        num_classes: Number of classes.
        preprocessing: The model's; inputs have to show whole pictures.

    Raises:
        DataError: It can't be read, or does not fit the model (EV236).
    """
    path = Path(path)
    if preprocessing.resize_size != preprocessing.input_size[1:]:
        raise _unusable(path, "The model takes crops, and boxes are those of whole pictures.")
    values = _read(path)
    try:
        labels = _labels(values["categories"], classes, num_classes, path)
        boxes: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for row in values["annotations"]:
            boxes[int(row["image_id"])].append(row)
        images = {
            str(row["file_name"]): _annotated(row, boxes[int(row["id"])], labels)
            for row in values["images"]
        }
        if len(images) < len(values["images"]):
            raise ValueError("two images have one file_name")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _unusable(path, f"{type(error).__name__}: {error}") from error
    return Annotations(path=path, by_name=images)


def _read(path: Path) -> dict[str, Any]:
    if look_at(path).kind != "file":
        raise _unusable(path, look_at(path).why)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"It is larger than {_MAX_BYTES:,} bytes.")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unusable(path, str(error)) from error
    if not isinstance(values, dict) or not all(isinstance(values.get(k), list) for k in _TABLES):
        raise _unusable(path, f"It has no lists called {', '.join(_TABLES)}.")
    return values


def _labels(
    categories: list[dict[str, Any]], classes: Sequence[str] | None, num_classes: int, path: Path
) -> dict[int, int]:
    """Return category id -> class of the model."""
    if classes is None:
        labels = {int(row["id"]): int(row["id"]) for row in categories}
        unknown = [str(label) for label in labels if not 0 <= label < num_classes]
    else:
        where = {name: index for index, name in enumerate(classes)}
        labels = {int(row["id"]): where.get(str(row["name"]), -1) for row in categories}
        unknown = [str(row["name"]) for row in categories if str(row["name"]) not in where]
    if unknown:
        raise _unusable(path, f"Not classes of the model: {', '.join(unknown[:_SHOWN])}.")
    return labels


def _annotated(
    image: dict[str, Any], rows: list[dict[str, Any]], labels: Mapping[int, int]
) -> Annotated:
    height, width = int(image["height"]), int(image["width"])
    if min(height, width) < 1:
        raise ValueError(f"an image of {height} x {width} pixels")
    for row in rows:
        _check_row(row, labels)
    corners = np.array([[float(v) for v in row["bbox"]] for row in rows]).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]  # left, top, right, bottom
    return Annotated(
        boxes=corners / np.array([width, height, width, height], np.float64),
        labels=np.array([labels[int(row["category_id"])] for row in rows], np.int64),
        crowd=np.array([bool(row.get("iscrowd", 0)) for row in rows], bool),
        size=(height, width),
    )


def _check_row(row: dict[str, Any], labels: Mapping[int, int]) -> None:
    """Refuse an annotation of a category that is not there, or whose box is none."""
    if int(row["category_id"]) not in labels:
        raise ValueError(f"an annotation of the category {row['category_id']}, which is not there")
    box = [float(value) for value in row["bbox"]]
    if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) < 0:
        raise ValueError(f"the box {row['bbox']} is not left, top, width and height")


def _unusable(path: Path, why: str) -> DataError:
    return DataError(
        "EV236",
        "The annotations can't be used.",
        where=str(path),
        why=why[:300],
        try_next="--annotations FILE in COCO's format (images, annotations, categories) of the "
        "images in --data, for a model whose input is the whole picture.",
    )
