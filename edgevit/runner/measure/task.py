"""The block ``task`` of a report: errors of every output against fp32, and the task's own rows.

It is filled in the run that also gives the predictions, so that no image is decoded twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Mapping

from edgevit.bundle.outputs import task_of
from edgevit.runner.measure.outputs import OutputErrors
from edgevit.runner.measure.tasks import all_tasks

if TYPE_CHECKING:
    from edgevit.runner.measure.tasks.base import Outputs, TaskMetric

FP32, ENGINE = "fp32", "engine"


@dataclass
class TaskMeasurement:
    """Sums over the images for the block ``task``, see `started`.

    Args:
        name: The task.
        main: Label of the row that counts; empty where the task has no rows.
        metric: The task's own; None where it has none.
        errors: Errors of each output against fp32.
        images: How many were run.
    """

    name: str
    main: str = ""
    metric: TaskMetric | None = None
    errors: dict[str, OutputErrors] = field(default_factory=dict)
    images: int = 0

    def add(self, found: Mapping[str, Outputs], labels: Any) -> None:
        """Add a batch: "engine" and, where there is a reference, "fp32" -> their outputs."""
        reference, engine = found.get(FP32), found[ENGINE]
        self.images += len(next(iter(engine.values())))
        if reference is not None:
            for name, values in engine.items():
                self.errors.setdefault(name, OutputErrors()).add(reference[name], values)
        if self.metric is not None:
            self.metric.add(reference, engine, labels)

    def to_dict(self) -> dict[str, Any]:
        """Return what a report says of it."""
        rows = [] if self.metric is None else self.metric.result()
        return {
            "name": self.name,
            "num_images": self.images,
            "main": self.main if rows else "",
            "metrics": [row.to_dict() for row in rows],
            "outputs": {name: one.to_dict() for name, one in self.errors.items()},
        }


def started(model: Mapping[str, Any]) -> TaskMeasurement:
    """Return an empty measurement for the task in a manifest's ``model``."""
    name = task_of(model)
    task = all_tasks().get(name)
    if task is None:
        return TaskMeasurement(name=name)
    return TaskMeasurement(name=name, main=task.main, metric=task.metric(model))
