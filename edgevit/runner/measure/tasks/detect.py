"""Detections: boxes of fp32 that the engine finds as well; COCO AP where there are annotations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping

import numpy as np

from edgevit.runner.measure.tasks.base import MetricRow, Task
from edgevit.runner.measure.tasks.boxes import SCORE, Found, found_boxes, matched
from edgevit.runner.measure.tasks.coco import average_precision
from edgevit.runner.measure.tasks.resampling import percent_over_images

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.runner.measure.tasks.base import Outputs
    from edgevit.runner.measure.tasks.resampling import Weights

_LOGITS, _BOXES = "logits", "boxes"


class DetectMetric:
    """Matches the boxes of both models above a score of 0.5 at an IoU of 0.5, class by class."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        self.num_classes = int(model["num_classes"])
        self.counts: list[tuple[int, int, int, int]] = []
        self.kept: dict[str, list[Found]] = {"fp32": [], "engine": []}
        self.annotations: list[Any] = []

    def add(self, reference: Outputs | None, engine: Outputs, labels: Any) -> None:
        """Add a batch; `labels` is a list of `Annotated` where there are annotations."""
        found = self._found(engine)
        wanted = None if reference is None else self._found(reference)
        if wanted is not None:
            self.counts += [_count(a.above(SCORE), b.above(SCORE)) for a, b in zip(wanted, found)]
        if isinstance(labels, (list, tuple)):
            self.annotations += labels
            self.kept["engine"] += found
            self.kept["fp32"] += wanted or []

    def _found(self, outputs: Outputs) -> list[Found]:
        return found_boxes(outputs[_LOGITS], outputs[_BOXES], self.num_classes)

    def result(self) -> list[MetricRow]:
        """Return AP with annotations, and which boxes the models share."""
        rows = []
        if self.annotations:
            found = [self.kept["fp32"], self.kept["engine"]]
            rows.append(_precision(*(_ap(each, self.annotations) for each in found)))
        counts = np.array(self.counts, np.int64).reshape(-1, 4)  # [N, 4]
        if len(counts):
            rows += [
                _share("boxes of fp32 that the engine finds", counts[:, 0], counts[:, 1]),
                _share("boxes of the engine that fp32 finds", counts[:, 2], counts[:, 3]),
            ]
        return rows


def _count(wanted: Found, found: Found) -> tuple[int, int, int, int]:
    """Return, for fp32's boxes and then for the engine's, how many the other has and how many."""
    forth, back = matched(wanted, found), matched(found, wanted)
    return forth, len(wanted.labels), back, len(found.labels)


def _share(label: str, matches: npt.NDArray[np.int64], boxes: npt.NDArray[np.int64]) -> MetricRow:
    def share(weights: Weights) -> float:
        total = float(weights @ boxes)
        return float(weights @ matches) / total if total else float("nan")

    if not boxes.sum():
        return MetricRow(f"{label} (there are none)", None, None, "%")
    found = percent_over_images(share, len(boxes))
    return MetricRow(label, None, found.value, "%", None, found.low, found.high)


def _ap(found: list[Found], annotations: list[Any]) -> float | None:
    """Return AP of a model in percent; None of one that was not run, or where no box counts."""
    return average_precision(found, annotations) if found else None


def _precision(fp32: float | None, engine: float | None) -> MetricRow:
    if engine is None:
        return MetricRow(f"{TASK.main} (there are no boxes)", None, None, "%")
    change = None if fp32 is None else engine - fp32
    return MetricRow(TASK.main, fp32, engine, "%", change)


TASK = Task(name="detect", metric=DetectMetric, main="COCO AP")
