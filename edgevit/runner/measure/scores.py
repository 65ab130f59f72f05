"""Reads classes from logits, also from a single logit that says yes or no.

One logit is the score of class 1 against 0, as a classifier trained with a logistic loss has it:
above 0 it means the second class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping

import numpy as np

from edgevit.data.tasks import LOGITS

if TYPE_CHECKING:
    import numpy.typing as npt


def class_scores(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return one score for each class, [B, max(2, logits), ...], of logits [B, logits, ...]."""
    if logits.shape[1] != 1:
        return logits
    return np.concatenate([np.zeros_like(logits), logits], axis=1)  # [B, 2, ...]


def predicted_classes(logits: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the class of each image, or pixel, int64 [B, ...]; ties go to the lower one."""
    found: npt.NDArray[np.int64] = class_scores(logits).argmax(1)
    return found


def agreement_of(
    found: Mapping[str, npt.NDArray[Any]], wanted: Mapping[str, npt.NDArray[Any]]
) -> float | None:
    """Return the agreement of a classifier's logits, None where the outputs are others."""
    logits = wanted.get(LOGITS)
    if logits is None or len(wanted) != 1 or logits.ndim != 2:
        return None
    return agreement_percent(found[LOGITS], logits)


def agreement_percent(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    """Return on how many images two logits [B, logits] name the same class, in percent."""
    return 100 * float((predicted_classes(found) == predicted_classes(wanted)).mean())
