"""Boxes that a detector finds, and which of them another one finds as well.

Detectors of the DETR kind give a fixed number of boxes (centre, width, height as shares of the
image) with logits each: of the classes and of "no object" after them, a softmax (DETR, YOLOS), or
of the classes alone, a sigmoid each (Deformable DETR, RT-DETR). Source: Carion et al., "End-to-End
Object Detection with Transformers" (arXiv:2005.12872), section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

SCORE, IOU = 0.5, 0.5


@dataclass(frozen=True)
class Found:
    """The boxes of one image, the best first.

    Args:
        boxes: float64 [N, 4]: left, top, right, bottom as shares of the image.
        labels: int64 [N].
        scores: float64 [N], 0 to 1.
    """

    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]

    def above(self, score: float) -> Found:
        """Return those with at least this score."""
        kept = self.scores >= score
        return Found(self.boxes[kept], self.labels[kept], self.scores[kept])


def found_boxes(
    logits: npt.NDArray[np.float32], boxes: npt.NDArray[np.float32], num_classes: int
) -> list[Found]:
    """Return the boxes of each image with their best classes.

    Args:
        logits: float32 [B, boxes, num_classes], or one more for "no object".
        boxes: float32 [B, boxes, 4]: centre x, centre y, width, height, as shares of the image.
        num_classes: Number of classes without "no object".
    """
    scores = _scores(logits.astype(np.float64), num_classes)  # [B, boxes, classes]
    labels = scores.argmax(axis=2)  # [B, boxes]
    best = scores.max(axis=2)
    corners = _corners(boxes.astype(np.float64))
    order = np.argsort(-best, axis=1, kind="stable")
    return [Found(c[o], label[o], s[o]) for c, label, s, o in zip(corners, labels, best, order)]


def matched(asked: Found, given: Found, iou: float = IOU) -> int:
    """Return how many boxes have a counterpart of the same class; each serves one box only.

    The best boxes choose first, and each takes what overlaps it most.
    """
    overlap = box_ious(asked.boxes, given.boxes)  # [asked, given]
    free = np.ones(len(given.labels), bool)
    count = 0
    for row, label in zip(overlap, asked.labels):
        usable = np.where(free & (given.labels == label), row, -1.0)
        if len(usable) and usable.max() >= iou:
            free[usable.argmax()] = False
            count += 1
    return count


def box_ious(
    first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return intersection over union of every two boxes, [N, M]; corners as in `Found`."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])  # [N, M, 2]
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=2)  # [N, M]
    union = _areas(first)[:, None] + _areas(second)[None] - common
    ious: npt.NDArray[np.float64] = common / np.maximum(union, np.finfo(np.float64).tiny)
    return ious


def _areas(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    areas: npt.NDArray[np.float64] = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    return areas


def _corners(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    centre, size = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([centre - size / 2, centre + size / 2], axis=-1)


def _scores(logits: npt.NDArray[np.float64], num_classes: int) -> npt.NDArray[np.float64]:
    if logits.shape[2] == num_classes:
        sigmoid: npt.NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
        return sigmoid
    shifted = np.exp(logits - logits.max(axis=2, keepdims=True))
    softmax: npt.NDArray[np.float64] = shifted / shifted.sum(axis=2, keepdims=True)
    return softmax[:, :, :num_classes]
