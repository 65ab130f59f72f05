"""Intervals and tests for accuracies measured on the same images, and for latency ratios.

Two models that see the same images are compared through the images on which they disagree; the
interval of their difference and the verdict on it are `edgevit.runner.measure.paired`'s, which the
board needs as well. Sources: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) for one proportion; Q.
McNemar, Psychometrika 12 (1947), exact conditional form.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgevit.runner.measure.paired import (
    Interval,
    check_counts,
    decide,
    drop_points,
    images_needed,
    normal_quantile,
)

if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt

    Samples = npt.NDArray[np.floating[Any]]

__all__ = [
    "Interval",
    "decide",
    "drop_points",
    "images_needed",
    "mcnemar_exact_p",
    "ratio_of_medians",
    "wilson_percent",
]
_RESAMPLED_AT_ONCE = 1 << 22


def wilson_percent(successes: int, num_images: int, *, confidence: float = 0.95) -> Interval:
    """Return a proportion in percent with Wilson's score interval.

    Raises:
        UsageError: The counts can't be right (EV806).
    """
    check_counts(0 <= successes <= num_images and num_images > 0, f"{successes} of {num_images}")
    z, n = normal_quantile(confidence), num_images
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(value=100 * share, low=100 * low, high=100 * high)


def mcnemar_exact_p(only_fp32: int, only_engine: int) -> float:
    """Return the two-sided exact conditional p value that both models are equally accurate."""
    discordant, fewer = only_fp32 + only_engine, min(only_fp32, only_engine)
    term, total = 1, 1
    for count in range(fewer):
        term = term * (discordant - count) // (count + 1)  # C(discordant, count + 1)
        total += term
    total_p: float = 2 * total / (1 << discordant)
    return min(1.0, total_p)


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
        UsageError: The samples are no pairs (EV806).
    """
    check_counts(len(baseline) == len(other) > 0, f"{len(baseline)} and {len(other)} samples")
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
