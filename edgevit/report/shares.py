"""Says in a few lines how much of a model runs in integers, and why the rest does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SMALLEST = 0.05  # percent that rounds to 0.1


def shares_lines(shares: Mapping[str, Any] | None) -> list[str]:
    """Return the lines on what `edgevit.bundle.shares.multiply_add_shares` gives."""
    if shares is None:
        return ["multiply-adds: the bundle does not say how many are in integers"]
    line = f"multiply-adds: {_percent(shares['integer_percent'])} in integers"
    if shares["float8_percent"]:
        line += f", {_percent(shares['float8_percent'])} in FP8"
    left = [f"  {_percent(row['percent'])} in float: {row['reason']}" for row in shares["float"]]
    return [line, *left]


def _percent(value: float) -> str:
    """Return a share; one that is not nothing is not shown as nothing, nor is one not all."""
    if 0 < value < _SMALLEST:
        return "under 0.1 %"
    if 100 - _SMALLEST < value < 100:
        return "over 99.9 %"
    return f"{value:.1f} %"
