"""A sensitivity report as CSV and as a table for a terminal, worst layers first."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgevit.report.cells import new_table, plain_text

if TYPE_CHECKING:
    from rich.table import Table

Rows = Sequence[Mapping[str, Any]]


def csv_from_rows(rows: Rows) -> str:
    """Return the rows as CSV in execution order; what was not measured is empty."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dict(row) for row in rows)
    return stream.getvalue()


def worst_first(rows: Rows) -> list[Mapping[str, Any]]:
    """Return the rows by what they cost: KL with only that layer quantized, else Fisher error."""

    def cost(row: Mapping[str, Any]) -> float:
        known = row["kl_only"] if row["kl_only"] is not None else row["fisher_error"]
        return float(known)

    return sorted(rows, key=cost, reverse=True)


def sensitivity_table(rows: Rows, limit: int = 20) -> Table:
    """Return the costliest layers, at most `limit`; "rest" is all but that layer quantized."""
    labelled = any(row["kl_only"] is not None for row in rows)
    headings = ["SQNR dB", "Fisher"]
    if labelled:
        headings += ["KL only", "KL rest", "top-1 only", "rest"]
    title = f"Sensitivity, the worst {min(limit, len(rows))} of {len(rows)} layers"
    table = new_table(title, "layer", *headings, numbers=tuple(headings))
    for row in worst_first(rows)[:limit]:
        noise = [_show_text(row[key], ".1f") for key in ("left_sqnr_db", "right_sqnr_db")]
        cells = [row["module"], " ".join(noise), _show_text(row["fisher_error"], ".1e")]
        if labelled:
            cells += [_show_text(row[key], ".1e") for key in ("kl_only", "kl_all_but")]
            cells += [_show_text(row[key], ".2f") for key in ("top1_only", "top1_all_but")]
        table.add_row(*(plain_text(cell) for cell in cells))
    return table


def _show_text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
