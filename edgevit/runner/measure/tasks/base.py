"""The protocol of a task's metric: it sees fp32 and engine side by side, batch by batch.

What it returns are rows that a board can send, a report can show and nobody has to know: a label,
a value for fp32 and for the engine, and the change between them with its interval.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Callable, Mapping, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Outputs = Mapping[str, npt.NDArray[np.float32]]

UNITS = ("%", "dB", "")
MAX_ROWS = 64


@dataclass(frozen=True)
class MetricRow:
    """One row of a task's result.

    Args:
        label: What it is, in a few words, such as "mean IoU".
        fp32: Value of the fp32 reference; None where the row compares the two.
        engine: Value of the engine, or of the comparison; None where there is none.
        unit: One of `UNITS`.
        change: engine - fp32 over the same images, or the comparison itself; None without.
        low, high: Ends of its interval; None without one.
    """

    label: str
    fp32: float | None
    engine: float | None
    unit: str = ""
    change: float | None = None
    low: float | None = None
    high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return asdict(self)


class TaskMetric(Protocol):
    """Adds up what the engine's outputs are worth beside the reference's.

    It sees each batch once and keeps no more of it than bounded memory allows.
    """

    def add(self, reference: Outputs | None, engine: Outputs, labels: Any) -> None:
        """Add a batch.

        Args:
            reference: Outputs of fp32 by name, float32 [B, ...]; None without an fp32 reference.
            engine: Outputs of the quantized engine for the same images.
            labels: What the images' set says of them: int64 [B], -1 without a label, or as the
                task's own data gives them.
        """

    def result(self) -> list[MetricRow]:
        """Return the rows, the one that counts first; intervals are at 95 %."""


@dataclass(frozen=True)
class Task:
    """A task; a module of this folder with a `TASK` of this kind is one.

    Args:
        name: One of `edgevit.data.tasks.TASKS`.
        metric: Makes an empty metric of a manifest's ``model``.
        main: Label of the row that counts.
    """

    name: str
    metric: Callable[[Mapping[str, Any]], TaskMetric]
    main: str
