"""Reads the Efficient Error Rate a user asks for: metrics, weights and reference, by their names.

A reference is a model's name, ``fp32``, a bundle, or a JSON report of an earlier measurement.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgevit.errors import UsageError
from edgevit.runner.measure.eer import (
    DEFAULT_METRICS,
    FLOAT_BITS,
    METRICS,
    REFERENCE,
    EerAsked,
    check_weights,
    costs_of,
)

DEFAULT_REFERENCE = "vit_b"
SAME_RUN = "fp32"
_FLOAT_BYTES = 4
_SMALLEST = 1e-12
_NO_REPORT = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError)
Reference = tuple[str, "Mapping[str, float] | None"]
"""The reference in words, and its metrics; None for the fp32 model of the same run."""


def eer_asked(
    metrics: Sequence[str] = (),
    weights: Sequence[float] | None = None,
    reference: str | Path = DEFAULT_REFERENCE,
) -> EerAsked:
    """Return the rate asked for.

    Args:
        metrics: Names of `edgevit.runner.measure.eer.METRICS`, each ``NAME`` or all
            ``NAME=WEIGHT``; bits and size if there are none.
        weights: One per metric, in their order, where the names carry none.
        reference: "vit_b" for the survey's ViT-B/16, "fp32" for the fp32 model of the same run,
            another short or embedded model name, a bundle's folder, or a JSON file: a report of
            ``--json``, or a table of metrics.

    Raises:
        UsageError: No such metric or no plain list of them (EV803), no such reference (EV804), it
            lacks a metric (EV805), or weights that don't fit (EV802).
    """
    names, given = _names(metrics or DEFAULT_METRICS)
    if given and weights is not None:
        raise _no_list("--eer-weights is given beside weights of single metrics.")
    if weights is not None and len(weights) != len(names):
        raise _no_list(f"{len(weights)} weights for {len(names)} metrics ({', '.join(names)}).")
    weighted = (given or None) if weights is None else dict(zip(names, weights, strict=True))
    if weighted is not None:
        check_weights(weighted, names)
    shown, values = _reference(str(reference))
    lacking = [name for name in names if values is not None and name not in values]
    if lacking:
        raise _lacks(shown, lacking, values or {})
    return EerAsked(metrics=names, weights=weighted, reference=values, reference_name=shown)


def _names(metrics: Sequence[str]) -> tuple[tuple[str, ...], dict[str, float]]:
    """Return the metrics' names, and their weights if they carry them."""
    names: list[str] = []
    weights: dict[str, float] = {}
    for metric in metrics:
        name, equals, weight = metric.partition("=")
        if name not in METRICS:
            raise _no_list(f"There is no metric {name!r}.")
        if name in names:
            raise _no_list(f"{name} is asked for twice.")
        names.append(name)
        if equals:
            weights[name] = _number(weight, metric)
    if weights and len(weights) != len(names):
        raise _no_list("Some metrics have a weight and some have none.")
    return tuple(names), weights


def _number(text: str, metric: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _no_list(f"The weight of {metric!r} is no number.") from None


def _reference(name: str) -> Reference:
    """Return the reference of this name.

    Raises:
        UsageError: There is none (EV804).
    """
    if name == SAME_RUN:
        return "fp32", None
    if name == DEFAULT_REFERENCE:
        return EerAsked().reference_name, REFERENCE
    path = Path(name)
    if (path / "manifest.json").is_file():
        return _of_bundle(path)
    if path.is_file():
        return path.name, _of_file(path)
    return _of_model(name)


def _of_model(name: str) -> Reference:
    from edgevit.zoo import list_models

    for row in list_models():
        if row.name == name and row.parameters is not None:
            found = {"parameters": float(row.parameters), "bits": FLOAT_BITS}
            found["size"] = float(_FLOAT_BYTES * row.parameters)
            if row.flops is not None:
                found["flops"] = float(row.flops)
            return f"{name} in fp32", found
    raise _no_reference(name, "No short model name, bundle or file is called so.")


def _of_bundle(path: Path) -> Reference:
    from edgevit.runner.engines import open_for_engine

    bundle = open_for_engine(path)
    model, bits = bundle.manifest["model"], bundle.manifest["bits"]
    found = {
        "parameters": model.get("parameters"),
        "flops": model.get("flops"),
        "bits": (bits["weight_mean"] + bits["act_mean"]) / 2,
        "size": bundle.size_bytes("engine"),
    }
    return path.name, {name: float(value) for name, value in found.items() if value}


def _of_file(path: Path) -> Mapping[str, float]:
    """Return the metrics of a report's engine, or of a plain table."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = costs_of(content) if "latency_ms" in content else _table(content)
        if any(type(value) not in (int, float) for value in found.values()):
            raise ValueError("a metric is no number")
        values = {name: float(value) for name, value in found.items()}
    except (*_NO_REPORT, RecursionError) as error:
        why = f"It is no report and no table of metrics: {type(error).__name__}: {error}"
        raise _no_reference(str(path), why) from error
    if not all(_SMALLEST <= value <= 1 / _SMALLEST for value in values.values()):
        why = f"Every metric is a number from {_SMALLEST:g} to {1 / _SMALLEST:g}, not {values}."
        raise _no_reference(str(path), why)
    return values


def _table(content: Any) -> Mapping[str, Any]:
    """Return a table of metrics as it is, or raise ValueError."""
    if not isinstance(content, dict):
        raise ValueError("it holds no table")
    unknown = sorted(set(content) - set(METRICS))
    if unknown:
        raise ValueError(f"there is no metric {unknown[0]!r}")
    return dict(content)


def _no_list(why: str) -> UsageError:
    return UsageError(
        "EV803",
        "These are no metrics of an Efficient Error Rate.",
        where="--eer-metric",
        why=f"{why} There are " + ", ".join(METRICS) + ".",
        try_next="--eer-metric bits --eer-metric latency, or with weights "
        "--eer-metric bits=0.3 --eer-metric latency=0.7",
    )


def _no_reference(name: str, why: str) -> UsageError:
    return UsageError(
        "EV804",
        f"There is no reference {name!r}.",
        where="--eer-reference",
        why=why,
        try_next="--eer-reference fp32, vit_b or another name of `edgevit models`, a bundle, or a "
        "report that --json wrote.",
    )


def _lacks(shown: str, lacking: list[str], values: Mapping[str, float]) -> UsageError:
    return UsageError(
        "EV805",
        f"The reference has no {' and no '.join(lacking)}.",
        where="--eer-reference",
        why=f"{shown} has {', '.join(values) or 'nothing'}.",
        try_next="--eer-reference fp32 compares with the fp32 model of the same run; a report that "
        "--json wrote has what was measured.",
    )
