"""Efficient Error Rate: how much of a reference model's cost a model needs, in percent.

EER is the mean of M_i / R_i over cost metrics, with ViT-B/16 as the reference R. Source: L. Papa,
P. Russo, I. Amerini, L. Zhou, "A survey on efficient vision transformers: algorithms, techniques,
and performance benchmarking" (arXiv 2309.02031). For a quantized model the metrics that change
are the mean width of weights and activations in bits, and the size on disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from edgevit.errors import UsageError

# ViT-B/16: parameters in millions, GFLOPs, bits, and MB (10^6 bytes) on disk in fp32.
REFERENCE = {"parameters_millions": 86.6, "gflops": 17.6, "bits": 32.0, "size_megabytes": 330.0}


def efficient_error_rate(
    metrics: Mapping[str, float], weights: Mapping[str, float] | None = None
) -> float:
    """Return the EER in percent of the reference.

    Args:
        metrics: Values of some of the metrics in `REFERENCE`, in its units.
        weights: Importance of each of those metrics, summing to 1; left out, all count alike.

    Raises:
        UsageError: A metric is unknown or not positive, or the weights do not fit (EV802).
    """
    unknown = sorted(set(metrics) - set(REFERENCE))
    values = list(metrics.values())
    if unknown or not values or not all(math.isfinite(v) and v > 0 for v in values):
        raise _unusable(f"metrics {dict(metrics)}; known are {', '.join(REFERENCE)}")
    weights = weights or {name: 1 / len(metrics) for name in metrics}
    if set(weights) != set(metrics):
        raise _unusable(f"weights {dict(weights)} for metrics {', '.join(metrics)}")
    if not all(math.isfinite(w) and w >= 0 for w in weights.values()):
        shown = " and ".join(f"{weight:g}" for weight in weights.values())
        raise _unusable(f"A weight is 0 or more, not {shown}.")
    if not math.isclose(sum(weights.values()), 1, abs_tol=1e-6):
        raise _unusable(f"The weights sum to {sum(weights.values()):g}, not to 1.")
    return 100 * sum(weights[name] * metrics[name] / REFERENCE[name] for name in metrics)


def quantized_metrics(
    weight_bits: float, activation_bits: float, size_bytes: int
) -> dict[str, float]:
    """Return a quantized model's metrics: mean width of weights and activations, size on disk."""
    return {"bits": (weight_bits + activation_bits) / 2, "size_megabytes": size_bytes / 1e6}


def _unusable(why: str) -> UsageError:
    return UsageError(
        "EV802",
        "The Efficient Error Rate is not defined for this.",
        where="--eer-weights",
        why=why,
        try_next="--eer-weights 0.5 0.5 counts bits and size alike.",
    )
