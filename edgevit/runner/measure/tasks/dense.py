"""Mean intersection over union of label maps, counted image by image.

Sums over the images are taken before the ratio, as benchmarks do (Everingham et al., "The Pascal
Visual Object Classes Challenge: A Retrospective", IJCV 111 (2015), section 4.1.2); images are
resampled with all that is in them for the interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgevit.runner.measure.scores import predicted_classes
from edgevit.runner.measure.tasks.resampling import percent_over_images

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.runner.measure.paired import Interval

IGNORED = -1
"""Label of pixels that do not count, which is no class of any model."""


@dataclass(frozen=True)
class Overlaps:
    """Pixels of each class, by image.

    Args:
        intersection: int64 [N, classes]: of this class in both label maps.
        union: int64 [N, classes]: of this class in at least one of them.
        agreeing: int64 [N]: of the same class in both.
        counted: int64 [N]: all that count.
    """

    intersection: npt.NDArray[np.int64]
    union: npt.NDArray[np.int64]
    agreeing: npt.NDArray[np.int64]
    counted: npt.NDArray[np.int64]

    @staticmethod
    def joined(parts: list[Overlaps]) -> Overlaps:
        """Return one after the other."""
        names = ("intersection", "union", "agreeing", "counted")
        return Overlaps(
            *(np.concatenate([getattr(each, name) for each in parts]) for name in names)
        )

    def mean_iou(self, weights: npt.NDArray[np.float64] | None = None) -> float:
        """Return the mean over the classes that occur, 0 to 1; NaN if none does.

        Args:
            weights: How often each image counts, [N]; once if left out.
        """
        once = np.ones(len(self.counted)) if weights is None else weights
        union = once @ self.union  # [classes]
        found = union > 0
        if not found.any():
            return float("nan")
        return float(((once @ self.intersection)[found] / union[found]).mean())

    def agreement(self) -> float:
        """Return the share of pixels of the same class, 0 to 1."""
        return float(self.agreeing.sum() / max(int(self.counted.sum()), 1))


def overlaps(
    first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], num_classes: int
) -> Overlaps:
    """Count the pixels of two batches of label maps.

    Args:
        first, second: int64 [B, H, W]; pixels that are `IGNORED` in `second` do not count.
        num_classes: Labels are below it.
    """
    batch = len(first)
    counts = second != IGNORED  # [B, H, W]
    image = np.broadcast_to(np.arange(batch)[:, None, None], first.shape)[counts]  # [pixels]
    a, b = first[counts], second[counts]
    same = a == b

    def per_class(
        where: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        flat = np.bincount(where * num_classes + labels, minlength=batch * num_classes)
        return flat.reshape(batch, num_classes)

    intersection = per_class(image[same], a[same])
    union = per_class(image, a) + per_class(image, b) - intersection
    return Overlaps(
        intersection=intersection,
        union=union,
        agreeing=intersection.sum(1),
        counted=np.bincount(image, minlength=batch),
    )


def miou_percent(one: Overlaps) -> Interval:
    """Return mean IoU in percent with a bootstrap interval over images."""
    return percent_over_images(one.mean_iou, len(one.counted))


def change_of_miou(fp32: Overlaps, engine: Overlaps) -> Interval:
    """Return the engine's mean IoU minus fp32's in points; both see each draw of the images."""
    return percent_over_images(
        lambda weights: engine.mean_iou(weights) - fp32.mean_iou(weights), len(fp32.counted)
    )


def label_maps(
    logits: npt.NDArray[np.float32], size: tuple[int, int] | None = None
) -> npt.NDArray[np.int64]:
    """Return the best class of each pixel, int64 [B, H, W]; of equal ones the lower.

    Args:
        logits: float32 [B, classes, h, w]; a single one tells two classes apart at 0.
        size: (H, W) to which logits are resized bilinearly first, corners not aligned.
    """
    maps = [  # an image at a time: resized logits of a batch may take gigabytes
        predicted_classes(one if size in (None, one.shape[2:]) else resize(one, size))[0]
        for one in logits[:, None]
    ]
    return np.stack(maps)


def resize(values: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Resize [B, C, h, w] to [B, C, H, W] bilinearly, as torch does without aligned corners."""
    rows = _mixing(values.shape[2], size[0])  # [H, h]
    columns = _mixing(values.shape[3], size[1])  # [W, w]
    resized: npt.NDArray[np.float32] = rows @ values @ columns.T
    return resized


def _mixing(old: int, new: int) -> npt.NDArray[np.float32]:
    """Return by how much each old position enters each new one, float32 [new, old]."""
    at = np.maximum((np.arange(new) + 0.5) * (old / new) - 0.5, 0)  # [new]
    low = np.minimum(at.astype(np.int64), old - 1)
    high = np.minimum(low + 1, old - 1)
    share = (at - low).astype(np.float32)
    mixing = np.zeros((new, old), np.float32)
    np.add.at(mixing, (np.arange(new), low), 1 - share)
    np.add.at(mixing, (np.arange(new), high), share)
    return mixing
