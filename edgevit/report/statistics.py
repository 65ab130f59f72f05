"""Intervals and tests for accuracies measured on the same images, and for latency ratios.

Two models that see the same images are compared through the images on which they disagree: fp32
right and engine wrong (b), or the other way round (c); everything else cancels. Sources:
E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) for one proportion; Q. McNemar, Psychometrika 12 (1947),
exact conditional form; T. Tango, "Equivalence test and confidence interval for the difference in
proportions for the paired-sample design", Statistics in Medicine 17 (1998) 891-908, eq. 12 to 14.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgevit.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    Samples = npt.NDArray[np.floating[Any]]

Verdict = Literal["PASS", "FAIL", "UNDECIDED"]
_BISECTIONS = 100
_MOST_IMAGES = 10**8
_RESAMPLED_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, all in the same unit."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """Return a JSON-able dictionary."""
        return {"value": self.value, "low": self.low, "high": self.high}


def wilson_percent(successes: int, num_images: int, *, confidence: float = 0.95) -> Interval:
    """Return a proportion in percent with Wilson's score interval.

    Raises:
        UsageError: The counts can't be right (EV801).
    """
    _check(0 <= successes <= num_images and num_images > 0, f"{successes} of {num_images}")
    z, n = _z(confidence), num_images
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(value=100 * share, low=100 * low, high=100 * high)


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
        UsageError: The counts can't be right (EV801).
    """
    counts = (only_fp32, only_engine)
    _check(min(counts) >= 0 and num_images > 0 and sum(counts) <= num_images, f"{counts}")
    z, drop = _z(confidence), (only_fp32 - only_engine) / num_images

    def score(hypothesis: float) -> float:
        return _tango_score(only_fp32, only_engine, num_images, hypothesis)

    low = _crossing(score, -1.0, drop, z)
    high = _crossing(score, drop, 1.0, -z)
    return Interval(value=100 * drop, low=100 * low, high=100 * high)


def mcnemar_exact_p(only_fp32: int, only_engine: int) -> float:
    """Return the two-sided exact conditional p value that both models are equally accurate."""
    discordant, fewer = only_fp32 + only_engine, min(only_fp32, only_engine)
    term, total = 1, 1
    for count in range(fewer):
        term = term * (discordant - count) // (count + 1)  # C(discordant, count + 1)
        total += term
    total_p: float = 2 * total / (1 << discordant)
    return min(1.0, total_p)


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


def ratio_of_medians(
    baseline: Samples,
    other: Samples,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return median(baseline) / median(other) with a percentile bootstrap interval.

    Args:
        baseline: float [rounds], measured in turns with `other`.
        other: float [rounds]; rounds are resampled as pairs.
        confidence: Two-sided confidence of the interval.
        resamples: Number of bootstrap resamples.
        seed: Makes the interval repeatable.

    Raises:
        UsageError: The samples are no pairs (EV801).
    """
    _check(len(baseline) == len(other) > 0, f"{len(baseline)} and {len(other)} samples")
    random = np.random.default_rng(seed)
    rounds, ratios = len(baseline), []
    at_once = max(1, _RESAMPLED_AT_ONCE // rounds)
    for start in range(0, resamples, at_once):
        size = (min(at_once, resamples - start), rounds)
        picked = random.integers(0, rounds, size)  # [resamples, rounds]
        ratios.append(np.median(baseline[picked], 1) / np.median(other[picked], 1))  # [resamples]
    tail = 50 * (1 - confidence)
    low, high = np.percentile(np.concatenate(ratios), [tail, 100 - tail])
    value = float(np.median(baseline) / np.median(other))
    return Interval(value=value, low=float(low), high=float(high))


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


def _crossing(score: Callable[[float], float], low: float, high: float, level: float) -> float:
    """Return where a falling function crosses a level between two bounds, by bisection."""
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle) > level else (low, middle)
    return (low + high) / 2


def _z(confidence: float) -> float:
    _check(0 < confidence < 1, f"{confidence=}")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _check(holds: bool, found: str) -> None:
    if not holds:
        raise UsageError("EV801", "These counts can't be compared.", why=found)
