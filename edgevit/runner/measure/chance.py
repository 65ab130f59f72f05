"""Tests if answers are better than chance, so that a drop in accuracy says something at all.

A model whose classes are numbered otherwise than the labels, or whose images are prepared wrongly,
is as right as somebody who never looks; quantized it stays so, and no drop shows it. The test is
the exact one-sided binomial test.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from edgevit.runner.measure.accuracy import Predictions

MIN_IMAGES = 30
_SIGNIFICANCE = 0.01
# With many classes a few hits of a wrong order are more than chance and yet no sign of life.
_MANY_CLASSES, _TIMES_CHANCE = 10, 2


@dataclass(frozen=True)
class Chance:
    """A model's top-1 against that of somebody who never looks at the images.

    Args:
        num_classes: Different labels among the images.
        chance_percent: What the top-1 has to be above: one class of those, with ten or more twice
            that.
        p: Probability of at least so many hits at that.
        one_answer: Whether the model says the same of every image.
        above: Whether the model is better, at the 1 % level and with more than one answer; None
            where the images can't tell, as there are fewer than 30 or all are of one class.
    """

    num_classes: int
    chance_percent: float
    p: float
    one_answer: bool
    above: bool | None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return asdict(self)


def against_chance(predictions: Predictions) -> Chance | None:
    """Return how a model's answers compare with chance; None without labels."""
    if not predictions.labelled:
        return None
    num, num_classes = predictions.num_images, len(np.unique(predictions.labels))
    share = (_TIMES_CHANCE if num_classes >= _MANY_CLASSES else 1) / num_classes
    p = _at_least(int(predictions.correct(1).sum()), num, share)
    one_answer = len(np.unique(predictions.top5[:, 0])) == 1
    judged = num >= MIN_IMAGES and num_classes > 1
    return Chance(
        num_classes=num_classes,
        chance_percent=100 * share,
        p=p,
        one_answer=one_answer,
        above=(p <= _SIGNIFICANCE and not one_answer) if judged else None,
    )


def _at_least(hits: int, num: int, share: float) -> float:
    """Return the probability of `hits` or more successes in `num` trials."""
    if hits <= 0 or share >= 1:
        return 1.0
    log_share, log_rest = math.log(share), math.log1p(-share)
    logs = [
        math.lgamma(num + 1)
        - math.lgamma(k + 1)
        - math.lgamma(num - k + 1)
        + k * log_share
        + (num - k) * log_rest
        for k in range(hits, num + 1)
    ]
    return min(1.0, math.fsum(math.exp(one) for one in logs))
