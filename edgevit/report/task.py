"""Rows and lines of a report on the outputs of a model and on the task that it is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgevit.data.tasks import CLASSIFY

_NOTHING = "-"
_SHOWN = 8


def task_name(report: Mapping[str, Any]) -> str:
    """Return the task of a validation report; one of an older EdgeViT is of a classifier."""
    return str((report.get("task") or {}).get("name", CLASSIFY))


def task_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of the task: label, fp32, engine, change."""
    task = report.get("task") or {}
    rows = [_row(one) for one in task.get("metrics", [])]
    if task_name(report) == CLASSIFY and len(task.get("outputs", {})) < 2:
        return rows  # of a classifier agreement says more, and the JSON has the rest
    return rows + [
        (f"{name}: cosine to fp32", "", f"{one['cosine']:.5f}", _sqnr(one))
        for name, one in list(task.get("outputs", {}).items())[:_SHOWN]
    ]


def checked_lines(report: Mapping[str, Any]) -> list[str]:
    """Return a line for each named output: how near the engine is to the simulation."""
    checked = list((report["self_check"].get("outputs") or {}).items())
    lines = []
    for name, one in checked[:_SHOWN]:
        near = "equal" if one["sqnr_db"] is None else f"{one['sqnr_db']:.1f} dB"
        against = one["quantization_sqnr_db"]
        moved = "" if against is None else f"; quantization alone leaves {against:.1f} dB to fp32"
        lines.append(f"{name}: engine and simulation {near}, cosine {one['cosine']:.5f}{moved}")
    return lines


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    change, unit = "", row["unit"]
    low, high = row["low"], row["high"]
    span = "" if low is None or high is None else f"[{_number(low, '')}, {_number(high, '')}]"
    if row["change"] is not None:
        change = f"{row['change']:+.2f} {'points' if unit == '%' else unit}".rstrip() + f" {span}"
    elif span:
        change = span
    return row["label"], _number(row["fp32"], unit), _number(row["engine"], unit), change.rstrip()


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return _NOTHING
    digits = 5 if not unit and abs(value) <= 1 else 2
    return f"{value:.{digits}f} {unit}".rstrip()


def _sqnr(one: Mapping[str, Any]) -> str:
    return "equal" if one["sqnr_db"] is None else f"SQNR {one['sqnr_db']:.1f} dB"
