"""The share of a model's multiply-adds that run in integers, and why the rest does not.

It is counted from the rows of products that a bundle's manifest has; those of bundles written
before they had multiply-adds say nothing, and then nothing is said.
"""

from __future__ import annotations

from typing import Any, Iterable, Mapping

UNKNOWN_REASON = "no reason is noted"


def multiply_add_shares(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return how the multiply-adds of one image are computed, None where that is not known.

    Args:
        layers: Rows of products, see `edgevit.targets.layer_rows`.

    Returns:
        ``total`` multiply-adds; ``integer_percent`` of them in integers and ``float8_percent`` in
        8-bit floating point numbers; ``float``, a row of ``percent``, ``products`` and ``reason``
        for each reason why products stay in float, largest first.
    """
    rows = list(layers)
    if any(type(row.get("multiply_adds")) is not int for row in rows):
        return None
    total = sum(row["multiply_adds"] for row in rows)
    if total < 1:
        return None
    in_float: dict[str, list[int]] = {}
    float8 = 0
    for row in rows:
        if runs_in_float(row):
            reason = str(row.get("reason") or UNKNOWN_REASON)
            in_float.setdefault(reason, []).append(row["multiply_adds"])
        elif "f8" in str(row.get("carrier")):
            float8 += row["multiply_adds"]
    left = float8 + sum(sum(counts) for counts in in_float.values())
    reasons = [
        {"percent": 100 * sum(counts) / total, "products": len(counts), "reason": reason}
        for reason, counts in in_float.items()
    ]
    return {
        "total": total,
        "integer_percent": 100 * (total - left) / total,
        "float8_percent": 100 * float8 / total,
        "float": sorted(reasons, key=_largest_first),
    }


def runs_in_float(row: Mapping[str, Any]) -> bool:
    """Return whether a product is not quantized."""
    return str(row.get("kernel", "")).startswith("float")


def _largest_first(row: Mapping[str, Any]) -> tuple[float, str]:
    return -row["percent"], row["reason"]
