"""Compares two engines on the same images: the drop in accuracy, its interval, and the verdict.

Only the images on which they disagree count: fp32 right and engine wrong (b), or the other way
round (c); everything else cancels. The same comparison judges a bundle in a report and each variant
of a TensorRT bundle on the board. Source: T. Tango, "Equivalence test and confidence interval for
the difference in proportions for the paired-sample design", Statistics in Medicine 17 (1998)
891-908, eq. 12 to 14.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from edgevit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from edgevit.runner.measure.accuracy import Predictions

    Verdict = Literal["PASS", "FAIL", "UNDECIDED"]

_BISECTIONS = 100
_MOST_IMAGES = 10**8


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, all in the same unit."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """Return a JSON-able dictionary."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Comparison:
    """Two engines on the same labelled images.

    Args:
        only_fp32: Images that only fp32 gets right.
        only_engine: Images that only the engine gets right.
        num_images: All images.
        confidence: Two-sided confidence of the interval.
    """

    only_fp32: int
    only_engine: int
    num_images: int
    confidence: float = 0.95

    @property
    def drop(self) -> Interval:
        """Top-1 of fp32 minus that of the engine, in percentage points."""
        return drop_points(
            self.only_fp32, self.only_engine, self.num_images, confidence=self.confidence
        )

    def images_needed(self, max_drop_points: float) -> int | None:
        """Return what `images_needed` says of these counts."""
        return images_needed(
            self.only_fp32,
            self.only_engine,
            self.num_images,
            max_drop_points,
            confidence=self.confidence,
        )

    def reason(self, max_drop_points: float) -> str:
        """Return the verdict on a limit in one sentence."""
        drop = self.drop
        verdict = decide(drop, max_drop_points)
        span = f"The drop lies between {drop.low:.2f} and {drop.high:.2f} points"
        if verdict == "PASS":
            return f"{span}, within the limit of {max_drop_points:g}."
        if verdict == "FAIL":
            return f"{span}, above the limit of {max_drop_points:g}."
        needed = self.images_needed(max_drop_points)
        more = (
            f"about {needed} more images would tell" if needed else "the drop is the limit itself"
        )
        return f"{span}, on both sides of the limit of {max_drop_points:g}; {more}."


def compare(fp32: Predictions, engine: Predictions, *, confidence: float = 0.95) -> Comparison:
    """Return two engines' predictions as counts.

    Args:
        fp32: Of the reference; every image has a label.
        engine: Of the other engine, on the same images in the same order.
        confidence: Two-sided confidence of the interval.

    Raises:
        UsageError: They are not of the same images (EV801).
    """
    if not np.array_equal(fp32.labels, engine.labels):
        raise UsageError(
            "EV801",
            "These predictions are not of the same images.",
            why=f"{fp32.num_images} and {engine.num_images} images; their labels differ.",
            try_next="Predict the same images in the same order.",
        )
    fp32_right, engine_right = fp32.correct(1), engine.correct(1)  # [N]
    return Comparison(
        only_fp32=int((fp32_right & ~engine_right).sum()),
        only_engine=int((engine_right & ~fp32_right).sum()),
        num_images=engine.num_images,
        confidence=confidence,
    )


def drop_points(
    only_fp32: float, only_engine: float, num_images: float, *, confidence: float = 0.95
) -> Interval:
    """Return the accuracy drop in percentage points with Tango's paired score interval.

    Args:
        only_fp32: Images that only fp32 gets right (b).
        only_engine: Images that only the engine gets right (c).
        num_images: All images (n); the drop is 100 (b - c) / n, positive when fp32 is better.
        confidence: Two-sided confidence of the interval.

    Raises:
        UsageError: The counts can't be right (EV806).
    """
    counts = (only_fp32, only_engine)
    check_counts(min(counts) >= 0 and num_images > 0 and sum(counts) <= num_images, f"{counts}")
    z, drop = normal_quantile(confidence), (only_fp32 - only_engine) / num_images

    def score(hypothesis: float) -> float:
        return _tango_score(only_fp32, only_engine, num_images, hypothesis)

    low = _find_crossing(score, -1.0, drop, z)
    high = _find_crossing(score, drop, 1.0, -z)
    return Interval(value=100 * drop, low=100 * low, high=100 * high)


def decide(drop: Interval, max_drop_points: float) -> Verdict:
    """Return whether the drop stays within a limit, given its interval, in percentage points."""
    if drop.high <= max_drop_points:
        return "PASS"
    return "FAIL" if drop.low > max_drop_points else "UNDECIDED"


def images_needed(
    only_fp32: int,
    only_engine: int,
    num_images: int,
    max_drop_points: float,
    *,
    confidence: float = 0.95,
) -> int | None:
    """Return about how many further images would decide, if the models go on disagreeing as now.

    Returns:
        0 when it is decided already; None when no number of images would decide, because the drop
        measured is the limit itself.
    """

    def decided(total: int) -> bool:
        scale = total / num_images
        drop = drop_points(only_fp32 * scale, only_engine * scale, total, confidence=confidence)
        return decide(drop, max_drop_points) != "UNDECIDED"

    if decided(num_images):
        return 0
    too_few, enough = num_images, num_images * 2
    while not decided(enough):
        too_few, enough = enough, enough * 2
        if enough > _MOST_IMAGES:
            return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if decided(middle) else (middle, enough)
    return enough - num_images


def normal_quantile(confidence: float) -> float:
    """Return how many standard deviations a two-sided interval reaches."""
    check_counts(0 < confidence < 1, f"{confidence=}")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def check_counts(holds: bool, found: str) -> None:
    """Refuse what can't have been counted.

    Raises:
        UsageError: It does not hold (EV806).
    """
    if not holds:
        raise UsageError(
            "EV806",
            "These counts can't be compared.",
            why=found,
            try_next="Counts go from 0 to the number of images, a confidence from 0 to 1.",
        )


def _tango_score(b: float, c: float, n: float, hypothesis: float) -> float:
    """Return Tango's score statistic for a drop of `hypothesis` (a share, not percent)."""
    linear = -b - c + (2 * n - b + c) * hypothesis
    constant = -c * hypothesis * (1 - hypothesis)
    root = math.sqrt(max(0.0, linear * linear - 8 * n * constant))
    only_engine_share = max(0.0, (root - linear) / (4 * n))  # restricted maximum likelihood
    variance = n * (2 * only_engine_share + hypothesis * (1 - hypothesis))
    difference = b - c - n * hypothesis
    if variance <= 0:
        return math.copysign(math.inf, difference) if difference else 0.0
    return difference / math.sqrt(variance)


def _find_crossing(score: Callable[[float], float], low: float, high: float, level: float) -> float:
    """Return where a falling function crosses a level between two bounds, by bisection."""
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle) > level else (low, middle)
    return (low + high) / 2
