"""Compares methods image by image, from the per-image results that the benchmark kept.

All methods see the same images with the same draws of calibration images, so a difference is the
mean of per-image differences, averaged over the draws first; its interval is Wald's over images,
and a ratio's is the delta method's (Casella and Berger, Statistical Inference, section 5.5.4).
The draws are few: in how many of them a method wins on its own stands beside the interval.
"""

from __future__ import annotations

import math
from collections import defaultdict
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.runner.measure.statistics import Interval, wilson_percent

Values = npt.NDArray[np.floating[Any]]
Found = dict[str, npt.NDArray[Any]]
_Z = NormalDist().inv_cdf(0.975)


def mean_interval(values: npt.NDArray[Any]) -> Interval:
    """Return the mean of [N] values with Wald's 95 % interval."""
    values = values.astype(np.float64)
    mean, half = float(values.mean()), _Z * _standard_error(values)
    return Interval(value=mean, low=mean - half, high=mean + half)


def ratio_of_means(above: Values, below: Values) -> Interval:
    """Return mean(above) / mean(below) of paired [N] values with its 95 % interval."""
    above, below = above.astype(np.float64), below.astype(np.float64)
    ratio = float(above.mean() / below.mean())
    half = _Z * _standard_error(above - ratio * below) / abs(float(below.mean()))
    return Interval(value=ratio, low=ratio - half, high=ratio + half)


def percent(hits: npt.NDArray[np.bool_]) -> Interval:
    """Return the share of True in percent with Wilson's 95 % interval."""
    return wilson_percent(int(hits.sum()), len(hits))


def _standard_error(values: Values) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def compare(reference: list[Found], other: list[Found]) -> dict[str, Any]:
    """Return how a method differs from the reference method.

    Args:
        reference: Per-image results of the reference method, one for each draw.
        other: Those of the other method, for the same draws in the same order.
    """
    kl = [_draws(part, "kl") for part in (reference, other)]  # [draws, N] each
    agrees = [100 * _draws(part, "agrees") for part in (reference, other)]
    more_kl = mean_interval((kl[1] - kl[0]).mean(0))
    ratio = ratio_of_means(kl[0].mean(0), kl[1].mean(0))
    less = mean_interval((agrees[0] - agrees[1]).mean(0))
    alone = [mean_interval(b - a).low > 0 for a, b in zip(*kl, strict=True)]
    return {
        "draws": len(reference),
        "kl": float(kl[1].mean()),
        "kl_minus_reference": more_kl.value,
        "kl_minus_low": more_kl.low,
        "kl_minus_high": more_kl.high,
        "reference_over_method": ratio.value,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "agreement": float(agrees[1].mean()),
        "agreement_lost": less.value,
        "lost_low": less.low,
        "lost_high": less.high,
        "reference_lower_kl_in_draws": sum(alone),
    }


def _draws(found: list[Found], what: str) -> Values:
    return np.stack([part[what] for part in found]).astype(np.float64)


def comparisons(results: dict[tuple[Any, ...], Found], reference: str) -> list[dict[str, Any]]:
    """Return one row for every method but the reference, cell by cell.

    Args:
        results: (model, twin, weight bits, act bits, images, method, seed) -> per-image results.
        reference: Name of the method that the others are compared with.
    """
    tables: dict[tuple[Any, ...], dict[str, dict[int, Found]]] = defaultdict(dict)
    for (*place, method, seed), found in results.items():
        tables[tuple(place)].setdefault(method, {})[seed] = found
    rows = []
    for place, methods in tables.items():
        own = methods.get(reference, {})
        for method, found in methods.items():
            seeds = sorted(own.keys() & found.keys())
            if method != reference and seeds:
                names = ("model", "twin", "weight_bits", "act_bits", "images")
                named = {**dict(zip(names, place, strict=True)), "method": method}
                pair = [own[seed] for seed in seeds], [found[seed] for seed in seeds]
                rows.append({**named, "reference": reference, **compare(*pair)})
    return rows
