"""Efficient Error Rate: how much of a reference model's cost a model needs, in percent.

EER is the mean, or a weighted mean, of M_i / R_i over cost metrics M of a model and R of a
reference. Source: L. Papa, P. Russo, I. Amerini, L. Zhou, "A survey on efficient vision
transformers: algorithms, techniques, and performance benchmarking" (arXiv 2309.02031), whose
reference is ViT-B/16. For a quantized model the metrics that always change are the mean width of
weights and activations in bits, and the size on disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgevit.errors import UsageError

METRICS = {
    "parameters": "number of parameters",
    "flops": "multiply-adds per image",
    "bits": "mean width of weights and activations",
    "size": "bytes on disk of the model",
    "latency": "median milliseconds per batch",
    "energy": "millijoules per image above idle",
}
REFERENCE = {"parameters": 86.6e6, "flops": 17.6e9, "bits": 32.0, "size": 330e6}
"""ViT-B/16 in fp32, as the survey has it."""
DEFAULT_METRICS = ("bits", "size")
FLOAT_BITS = 32.0


@dataclass(frozen=True)
class EerAsked:
    """The rate that is asked for: metrics, weights and reference.

    Args:
        metrics: Some of `METRICS`.
        weights: Importance of each of them, summing to 1; None to let all count alike.
        reference: Metric -> value of the reference; None for the fp32 model of the same run.
        reference_name: The reference in words.
    """

    metrics: tuple[str, ...] = DEFAULT_METRICS
    weights: Mapping[str, float] | None = None
    reference: Mapping[str, float] | None = field(default_factory=lambda: dict(REFERENCE))
    reference_name: str = "ViT-B/16 in fp32"


def efficient_error_rate(
    metrics: Mapping[str, float],
    weights: Mapping[str, float] | None = None,
    reference: Mapping[str, float] = REFERENCE,
) -> float:
    """Return the EER in percent of the reference.

    Args:
        metrics: Values of some of the reference's metrics, in its units.
        weights: Importance of each of those metrics, summing to 1; left out, all count alike.
        reference: Metric -> value.

    Raises:
        UsageError: A metric is unknown or not positive, or the weights do not fit (EV802).
    """
    values = [*metrics.values(), *(reference.get(name, math.nan) for name in metrics)]
    if not values or not all(math.isfinite(v) and v > 0 for v in values):
        raise _unusable(f"metrics {dict(metrics)}; the reference has {dict(reference)}")
    weights = weights or {name: 1 / len(metrics) for name in metrics}
    check_weights(weights, metrics)
    return 100 * sum(weights[name] * metrics[name] / reference[name] for name in metrics)


def check_weights(weights: Mapping[str, float], metrics: Any) -> None:
    """Refuse weights with which no mean of these metrics is defined.

    Raises:
        UsageError: They are of other metrics, negative, no numbers, or don't sum to 1 (EV802).
    """
    if set(weights) != set(metrics):
        raise _unusable(f"weights {dict(weights)} for metrics {', '.join(metrics)}")
    if not all(math.isfinite(w) and w >= 0 for w in weights.values()):
        shown = " and ".join(f"{weight:g}" for weight in weights.values())
        raise _unusable(f"A weight is 0 or more, not {shown}.")
    if not math.isclose(sum(weights.values()), 1, abs_tol=1e-6):
        raise _unusable(f"The weights sum to {sum(weights.values()):g}, not to 1.")


def costs_of(report: Mapping[str, Any], kind: str = "engine") -> dict[str, float]:
    """Return metric -> value of what a validation report knows of one of its models.

    Args:
        report: Of `edgevit.runner.measure.validation.validation_report`.
        kind: "engine" or "fp32".

    Returns:
        ``latency`` is the median per image in ms, so that batches of other sizes compare.
    """
    bits, latency = report["bits"], report["latency_ms"][kind]
    mean = FLOAT_BITS if kind == "fp32" else (bits["weight_mean"] + bits["act_mean"]) / 2
    found = {
        "parameters": report.get("parameters"),
        "flops": report.get("flops"),
        "bits": mean,
        "size": report["size_bytes"][kind],
        "latency": latency and latency["p50"] / report["latency_conditions"]["batch"],
        "energy": report["energy_mj"][kind],
    }
    return {name: value for name, value in found.items() if value is not None and value > 0}


def rates_of(report: Mapping[str, Any], asked: EerAsked) -> dict[str, Any]:
    """Return ``eer``, ``eer_weighted`` and ``eer_terms`` of a report.

    A rate is null where a metric of the engine or of its reference was not measured; ``missing``
    then names it.
    """
    costs = costs_of(report)
    reference = costs_of(report, "fp32") if asked.reference is None else asked.reference
    missing = [name for name in asked.metrics if name not in costs or name not in reference]
    metrics = {name: costs[name] for name in asked.metrics if name in costs}
    plain = weighted = None
    if not missing:
        plain = efficient_error_rate(metrics, None, reference)
        if asked.weights is not None:
            weighted = efficient_error_rate(metrics, asked.weights, reference)
    terms = {
        name: {
            "value": costs.get(name),
            "reference": reference.get(name),
            "weight": None if asked.weights is None else asked.weights[name],
        }
        for name in asked.metrics
    }
    named = {"reference": asked.reference_name, "metrics": terms, "missing": missing}
    return {"eer": plain, "eer_weighted": weighted, "eer_terms": named}


def _unusable(why: str) -> UsageError:
    return UsageError(
        "EV802",
        "The Efficient Error Rate is not defined for this.",
        where="--eer-weights",
        why=why,
        try_next="--eer-weights 0.5 0.5 counts bits and size alike.",
    )
