"""Embeddings by what they are used for: does an image find the same images as in fp32?

With labels, accuracy of a vote among the nearest images; without, how often the nearest image is
the same one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping

import numpy as np

from edgevit.runner.measure.paired import drop_points
from edgevit.runner.measure.statistics import wilson_percent
from edgevit.runner.measure.tasks.base import MetricRow, Task
from edgevit.runner.measure.tasks.neighbours import (
    MOST_IMAGES,
    NEIGHBOURS,
    nearest,
    shared,
    vote,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.runner.measure.tasks.base import Outputs

_BUDGET_BYTES = 512 << 20


class EmbedMetric:
    """Keeps the embeddings of the first images and looks each up among the others."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        self.kept: dict[str, list[npt.NDArray[np.float32]]] = {"fp32": [], "engine": []}
        self.labels: list[npt.NDArray[np.int64]] = []
        self.images = 0

    def add(self, reference: Outputs | None, engine: Outputs, labels: Any) -> None:
        """Add a batch; without a reference nothing can be compared."""
        if reference is None:
            return
        name = next(iter(engine))
        found = engine[name]
        most = min(MOST_IMAGES, _BUDGET_BYTES // max(2 * found[:1].nbytes, 1))
        room = max(0, min(len(found), most - self.images))
        for kind, outputs in (("fp32", reference), ("engine", engine)):
            self.kept[kind].append(outputs[name][:room].copy())
        self.labels.append(np.asarray(labels, np.int64)[:room])
        self.images += room

    def result(self) -> list[MetricRow]:
        """Return accuracies of the vote where labels tell something, and the agreement."""
        if self.images < 2:
            return []
        count = min(NEIGHBOURS, self.images - 1)
        fp32, engine = (nearest(np.concatenate(self.kept[k]), count) for k in ("fp32", "engine"))
        labels = np.concatenate(self.labels)
        same = fp32[:, 0] == engine[:, 0]  # [N]
        rows = _votes(labels, fp32, engine) if _tell(labels) else []
        return [
            *rows,
            _share("same nearest image as fp32", same),
            MetricRow(f"of the {count} nearest also fp32's", None, 100 * shared(fp32, engine), "%"),
        ]


def _tell(labels: npt.NDArray[np.int64]) -> bool:
    """Return whether every image has a label, and another image of the same."""
    return bool((labels >= 0).all() and np.bincount(labels)[labels].min() > 1)


def _votes(
    labels: npt.NDArray[np.int64], fp32: npt.NDArray[np.int64], engine: npt.NDArray[np.int64]
) -> list[MetricRow]:
    by_fp32, by_engine = vote(labels, fp32), vote(labels, engine)  # [N]
    right, engine_right = by_fp32 == labels, by_engine == labels
    drop = drop_points(
        int((right & ~engine_right).sum()), int((engine_right & ~right).sum()), len(labels)
    )
    accuracy = MetricRow(
        TASK.main,
        100 * float(right.mean()),
        100 * float(engine_right.mean()),
        "%",
        -drop.value,
        -drop.high,
        -drop.low,
    )
    return [accuracy, _share("same vote as fp32", by_fp32 == by_engine)]


def _share(label: str, same: npt.NDArray[np.bool_]) -> MetricRow:
    share = wilson_percent(int(same.sum()), len(same))
    return MetricRow(label, None, share.value, "%", None, share.low, share.high)


TASK = Task(name="embed", metric=EmbedMetric, main="k-NN accuracy")
