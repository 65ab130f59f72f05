"""Segmentations: mean IoU against label maps where there are some, and against fp32's always."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping

import numpy as np

from edgevit.errors import DataError
from edgevit.runner.measure.tasks.base import MetricRow, Task
from edgevit.runner.measure.tasks.dense import (
    Overlaps,
    change_of_miou,
    label_maps,
    miou_percent,
    overlaps,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.runner.measure.tasks.base import Outputs


class SegmentMetric:
    """Counts pixels by image and class; logits are resized to the label maps, not these."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        self.size = (int(model["input_size"][1]), int(model["input_size"][2]))
        self.fp32: list[Overlaps] = []
        self.engine: list[Overlaps] = []
        self.between: list[Overlaps] = []

    def add(self, reference: Outputs | None, engine: Outputs, labels: Any) -> None:
        """Add a batch; `labels` int64 [B, H, W] are label maps of the input's size, -1 for nothing.

        Raises:
            DataError: A label is no class of the model (EV931).
        """
        name = next(iter(engine))
        classes = max(engine[name].shape[1], 2)  # one logit tells two apart
        found = label_maps(engine[name], self.size)  # [B, H, W]
        wanted = None if reference is None else label_maps(reference[name], self.size)
        if wanted is not None:
            self.between.append(overlaps(found, wanted, classes))
        maps = np.asarray(labels)
        if maps.ndim != 3:
            return
        _check(maps, classes)
        self.engine.append(overlaps(found, maps, classes))
        if wanted is not None:
            self.fp32.append(overlaps(wanted, maps, classes))

    def result(self) -> list[MetricRow]:
        """Return mean IoU of both models with label maps, and that of the one against the other.

        Raises:
            DataError: No pixel of the label maps counts (EV441).
        """
        rows = []
        if self.engine:
            engine = Overlaps.joined(self.engine)
            if not engine.counted.any():
                raise _nothing_counts()
            fp32 = Overlaps.joined(self.fp32) if self.fp32 else None
            rows.append(_against_labels(fp32, engine))
        if self.between:
            between = Overlaps.joined(self.between)
            iou = miou_percent(between)
            rows += [
                MetricRow("mean IoU against fp32", None, iou.value, "%", None, iou.low, iou.high),
                MetricRow("pixels of the same class as fp32", None, 100 * between.agreement(), "%"),
            ]
        return rows


def _against_labels(fp32: Overlaps | None, engine: Overlaps) -> MetricRow:
    value = 100 * engine.mean_iou()
    if fp32 is None:
        return MetricRow(TASK.main, None, value, "%")
    change = change_of_miou(fp32, engine)
    return MetricRow(
        TASK.main, 100 * fp32.mean_iou(), value, "%", change.value, change.low, change.high
    )


def _check(maps: npt.NDArray[np.int64], classes: int) -> None:
    wrong = maps[maps >= classes]
    if wrong.size:
        raise DataError(
            "EV931",
            f"Label {int(wrong.flat[0])} is not a class of the model.",
            where="label maps",
            why=f"The model has {classes} classes, 0 to {classes - 1}; 255 does not count.",
            try_next="Number the label maps as the model does; where 0 is to be left out and "
            "classes begin at 1, subtract 1 and write 255 for 0.",
        )


def _nothing_counts() -> DataError:
    return DataError(
        "EV441",
        "No pixel of the label maps counts.",
        where="label maps",
        why="All of them are 255, which does not count.",
        try_next="Give the label maps of these images: pixels are classes of the model.",
    )


TASK = Task(name="segment", metric=SegmentMetric, main="mean IoU")
