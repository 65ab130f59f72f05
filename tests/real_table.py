"""The table of docs/accuracy.md: methods on a real DeiT-Tiny, from the rows of results/real.csv.

`tests/doc_tables.py` writes it, and a test holds the two equal.
"""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from pathlib import Path

from edgevit.calibration.methods import METHODS

ROWS = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "real.csv"
WIDTHS = ("8/8", "6/6", "4/8", "4/4", "3/3")
HEAD = ("method", *(f"W{w[0]}A{w[2]}" for w in WIDTHS))
Key = tuple[str, str]


def table() -> list[tuple[str, ...]]:
    """Return a row a method: KL, drop in points and agreement with fp32 in %, the draws' means."""
    cells: dict[Key, list[dict[str, str]]] = defaultdict(list)
    with ROWS.open(newline="") as file:
        found = {_identity(row): row for row in csv.DictReader(file)}  # the last row counts
    for row in found.values():
        if (row["twin"], row["asked_images"], row["num_calib"]) == ("plain", "all", "32"):
            cells[row["method"], f"{row['weight_bits']}/{row['act_bits']}"].append(row)
    names = [name for name in METHODS if any(name == method for method, _ in cells)]
    return [(f"`{name}`", *(_cell(cells[name, width]) for width in WIDTHS)) for name in names]


def _identity(row: dict[str, str]) -> tuple[str, ...]:
    keys = ("twin", "method", "weight_bits", "act_bits", "num_calib", "seed", "asked_images")
    return tuple(row[key] for key in keys)


def _cell(rows: list[dict[str, str]]) -> str:
    if not rows:
        return ""
    kl, drop, agree = (
        statistics.mean(float(row[key]) for row in rows)
        for key in ("kl_to_fp32", "drop_points", "agreement_fp32")
    )
    star = "" if all(row["runs_on"] == "engine" for row in rows) else "*"
    return f"{kl:.2g}, {drop + 0.0:.1f}, {agree:.0f}{star}"
