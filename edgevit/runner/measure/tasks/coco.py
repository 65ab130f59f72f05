"""COCO's average precision, by pycocotools (the extra `coco`).

Source: Lin et al., "Microsoft COCO: Common Objects in Context" (arXiv:1405.0312), and the
evaluation of the COCO challenge: the mean over IoU 0.50 to 0.95 in steps of 0.05.
"""

from __future__ import annotations

import contextlib
import io
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Sequence

import numpy as np

from edgevit.errors import EnvironmentError_

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.data.annotations import Annotated
    from edgevit.runner.measure.tasks.boxes import Found


def check_installed() -> None:
    """Make sure that AP can be computed before anything is run.

    Raises:
        EnvironmentError_: pycocotools is not installed (EV353).
    """
    if find_spec("pycocotools") is None:
        raise EnvironmentError_(
            "EV353",
            "The package pycocotools is not installed.",
            where="--annotations",
            why="It computes COCO's average precision.",
            try_next="pip install 'edgevit[coco]'; without --annotations boxes are compared with "
            "those of fp32.",
        )


def average_precision(found: Sequence[Found], annotated: Sequence[Annotated]) -> float | None:
    """Return AP in percent, None where no annotated box counts.

    Args:
        found: Boxes of each image.
        annotated: What is known of the same images.

    Raises:
        EnvironmentError_: pycocotools is not installed (EV353).
    """
    check_installed()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if all(one.crowd.all() for one in annotated):
        return None
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        truth = COCO()
        truth.dataset = _dataset(annotated)
        truth.createIndex()
        results = _results(found, annotated)
        if not results:
            return 0.0
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * float(evaluation.stats[0])


def _dataset(annotated: Sequence[Annotated]) -> dict[str, Any]:
    labels = sorted({int(label) for one in annotated for label in one.labels})
    rows: list[dict[str, Any]] = [
        {"image_id": image, "category_id": int(label), "bbox": box, "iscrowd": int(crowd)}
        for image, one in enumerate(annotated)
        for box, label, crowd in zip(_pixels(one.boxes, one.size), one.labels, one.crowd)
    ]
    return {
        "info": {},
        "images": [
            {"id": image, "height": one.size[0], "width": one.size[1]}
            for image, one in enumerate(annotated)
        ],
        "categories": [{"id": label} for label in labels],
        "annotations": [
            {**row, "id": number, "area": row["bbox"][2] * row["bbox"][3]}
            for number, row in enumerate(rows, 1)
        ],
    }


def _results(found: Sequence[Found], annotated: Sequence[Annotated]) -> list[dict[str, Any]]:
    return [
        {"image_id": image, "category_id": int(label), "bbox": box, "score": float(score)}
        for image, (one, truth) in enumerate(zip(found, annotated))
        for box, label, score in zip(_pixels(one.boxes, truth.size), one.labels, one.scores)
    ]


def _pixels(boxes: npt.NDArray[np.float64], size: tuple[int, int]) -> list[list[float]]:
    """Return left, top, width and height in pixels."""
    height, width = size
    corners = boxes * [width, height, width, height]
    sides = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    return [[float(value) for value in row] for row in sides]
