"""The task `features`: cosine and SQNR of the engine's outputs against those of fp32.

An output's cosine is the mean of that of each image, all elements in one row; its SQNR is of all
images together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping

from edgevit.runner.measure.outputs import OutputErrors
from edgevit.runner.measure.tasks.base import MetricRow, Task

if TYPE_CHECKING:
    from edgevit.runner.measure.tasks.base import Outputs


class FeaturesMetric:
    """Cosine and SQNR of each output; the worst output counts."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        self.errors: dict[str, OutputErrors] = {}

    def add(self, reference: Outputs | None, engine: Outputs, labels: Any) -> None:
        """Add a batch; without a reference nothing can be compared."""
        if reference is None:
            return
        for name, found in engine.items():
            self.errors.setdefault(name, OutputErrors()).add(reference[name], found)

    def result(self) -> list[MetricRow]:
        """Return the output of least cosine, and the least SQNR."""
        if not self.errors:
            return []
        worst = min(self.errors.values(), key=lambda one: one.mean_cosine)
        low, high = worst.cosine_interval()
        known = [one.sqnr_db for one in self.errors.values() if one.sqnr_db is not None]
        rows = [MetricRow("least mean cosine", None, worst.mean_cosine, "", None, low, high)]
        if known:
            rows.append(MetricRow("least SQNR", None, min(known), "dB"))
        return rows


TASK = Task(name="features", metric=FeaturesMetric, main="least mean cosine")
