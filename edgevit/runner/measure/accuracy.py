"""Runs a labelled image set through one or more engines and keeps what the statistics need.

Every engine sees the same normalized batch, so predictions are paired image by image and no image
is decoded twice. Memory stays bounded: the five best classes are kept for every image, the logits
only for the first images up to a budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgevit.data.tasks import LOGITS
from edgevit.errors import DataError
from edgevit.runner.measure.scores import class_scores

if TYPE_CHECKING:
    import numpy.typing as npt

    Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], Any]
    Normalize = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
    Watch = Callable[[Mapping[str, Mapping[str, npt.NDArray[np.float32]]], Any], None]

TOP_K = 5
LOGITS_BUDGET_BYTES = 256 << 20


class Runnable(Protocol):
    """Anything that turns float32 [B, 3, H, W] into float32 logits [B, classes].

    One whose model has named outputs also has ``run_all``, see `outputs_from`.
    """

    def run(self, images: npt.NDArray[np.float32], /) -> npt.NDArray[np.float32]:
        """Return the main output, of classifiers the logits."""


def outputs_from(
    session: Runnable, images: npt.NDArray[np.float32]
) -> dict[str, npt.NDArray[np.float32]]:
    """Return every output by name, the main one first; what has one only gives logits."""
    run_all = getattr(session, "run_all", None)
    return {LOGITS: session.run(images)} if run_all is None else dict(run_all(images))


@dataclass(frozen=True)
class Predictions:
    """One engine's answers for N images.

    Args:
        top5: int64 [N, min(5, classes)], best class first; ties go to the lower class. [N, 0] of
            a model that does not classify.
        labels: int64 [N]; -1 where an image has no label.
        logits: float32 [K, classes] of the first K <= N images.
    """

    top5: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.labels)

    @property
    def labelled(self) -> bool:
        """Return whether every image has a label, so that accuracy is defined."""
        return self.num_images > 0 and bool((self.labels >= 0).all())

    def correct(self, k: int) -> npt.NDArray[np.bool_]:
        """Return for each image whether its label is among the k best classes, bool [N]."""
        hits: npt.NDArray[np.bool_] = (self.top5[:, :k] == self.labels[:, None]).any(axis=1)  # [N]
        return hits

    def accuracy_percent(self, k: int) -> float | None:
        """Return top-k accuracy in percent, or None without labels."""
        return 100 * float(self.correct(k).mean()) if self.labelled else None


def predict_all(
    sessions: Mapping[str, Runnable],
    batches: Iterable[Batch],
    normalize: Normalize,
    *,
    logits_budget_bytes: int = LOGITS_BUDGET_BYTES,
    on_batch: Callable[[int], None] | None = None,
    classifies: bool = True,
    watch: Watch | None = None,
) -> dict[str, Predictions]:
    """Return each engine's predictions for the same images.

    Args:
        sessions: Engines by name.
        batches: (pixels uint8 [b, H, W, 3], labels int64 [b], names) tuples.
        normalize: Turns pixels into float32 [b, 3, H, W].
        logits_budget_bytes: Most bytes of logits kept per engine.
        on_batch: Called with the number of images done so far.
        classifies: Whether the main output is logits; else no classes are read from it, and no
            label is a class: those of the predictions are -1.
        watch: Sees the outputs of all engines for each batch, and its labels.

    Raises:
        DataError: There is no image (EV930), or a label is not a class of the model (EV931).
        EdgeViTError: What a session raises.
    """
    kept: dict[str, _Collected] = {name: _Collected(logits_budget_bytes) for name in sessions}
    labels: list[npt.NDArray[np.int64]] = []
    done = 0
    for pixels, batch_labels, _ in batches:
        images = normalize(pixels)  # [b, 3, H, W]
        given = np.asarray(batch_labels) if classifies else np.full(len(images), -1)
        labels.append(given.astype(np.int64))
        found = {name: outputs_from(session, images) for name, session in sessions.items()}
        for name, values in found.items():
            logits = next(iter(values.values())) if classifies else np.zeros((len(images), 0))
            if classifies:
                _check_labels(labels[-1], class_scores(logits[:1]).shape[1])
            kept[name].add(logits.astype(np.float32, copy=False))
        if watch is not None:
            watch(found, batch_labels)
        done += len(images)
        if on_batch is not None:
            on_batch(done)
    if not done:
        raise DataError("EV930", "There are no images to run.", try_next="Check --images.")
    return {name: one.predictions(np.concatenate(labels)) for name, one in kept.items()}


def predict(
    session: Runnable,
    batches: Iterable[Batch],
    normalize: Normalize,
    *,
    logits_budget_bytes: int = LOGITS_BUDGET_BYTES,
    on_batch: Callable[[int], None] | None = None,
) -> Predictions:
    """Return one engine's predictions; arguments and errors as `predict_all`."""
    return predict_all(
        {"engine": session},
        batches,
        normalize,
        logits_budget_bytes=logits_budget_bytes,
        on_batch=on_batch,
    )["engine"]


def top_classes(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the best classes of each row, int64 [B, min(5, classes)], ties to the lower one.

    Without logits there are none, [B, 0]; a single logit has two classes; see
    `edgevit.runner.measure.scores`.
    """
    if not logits.shape[1]:
        return np.zeros((len(logits), 0), np.int64)
    order = np.argsort(-class_scores(logits), axis=1, kind="stable")  # [B, classes]
    return order[:, :TOP_K].astype(np.int64)


class _Collected:
    """Top classes of all batches and the logits of the first ones."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.top: list[npt.NDArray[np.int64]] = []
        self.logits: list[npt.NDArray[np.float32]] = []

    def add(self, logits: npt.NDArray[np.float32]) -> None:
        self.top.append(top_classes(logits))
        rows = min(len(logits), self.budget_bytes // max(4 * logits.shape[1], 1))
        self.logits.append(logits[:rows].copy())
        self.budget_bytes = self.budget_bytes - self.logits[-1].nbytes
        if rows < len(logits):
            self.budget_bytes = 0  # only a gapless run of first images is of use

    def predictions(self, labels: npt.NDArray[np.int64]) -> Predictions:
        return Predictions(
            top5=np.concatenate(self.top), labels=labels, logits=np.concatenate(self.logits)
        )


def _check_labels(labels: npt.NDArray[np.int64], num_classes: int) -> None:
    if labels.size and int(labels.max()) >= num_classes:
        raise DataError(
            "EV931",
            f"Label {int(labels.max())} is not a class of the model.",
            why=f"The model has {num_classes} classes.",
            try_next="Check that the image folders are the classes the model was trained on.",
        )
