"""Compares the methods measured so far: results/TABLE_paired.csv, and the findings in words."""

from __future__ import annotations

import csv
from collections import defaultdict
from typing import Any

import numpy as np
from cells import Cell, latest_rows
from paired import Found, comparisons
from rows import RESULTS

OURS_TOO = ("edgevit-train", "edgevit-codebook")
"""No contest for `edgevit`: one trains weights, both have grids of their own."""


def kept(table: str) -> tuple[dict[tuple[Any, ...], Found], int]:
    """Return the per-image results of a table's rows, and how many rows have none here."""
    results: dict[tuple[Any, ...], Found] = {}
    missing = 0
    for row in latest_rows(table):
        cell = Cell.of(row)
        path = cell.path(row["images_sha256"])
        if not path.exists():
            missing += 1
            continue
        place = (cell.model, cell.twin, cell.weight_bits, cell.act_bits, int(row["images"]))
        with np.load(path) as arrays:
            results[(*place, cell.label, cell.seed)] = dict(arrays)
    return results, missing


def best_others(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for every cell the row of the method with the lowest KL, without ours."""
    places: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if not row["method"].startswith(OURS_TOO):
            place = ("model", "twin", "weight_bits", "act_bits", "images")
            places[tuple(row[name] for name in place)].append(row)
    return [min(found, key=lambda row: row["kl"]) for found in places.values()]


def sentence(row: dict[str, Any]) -> str:
    """Say how the reference does against one method in one cell."""
    return (
        f"{row['model']} {row['twin']} W{row['weight_bits']}A{row['act_bits']}: "
        f"{row['reference']} has {row['reference_over_method']:.3f} "
        f"[{row['ratio_low']:.3f}, {row['ratio_high']:.3f}] of the KL of {row['method']} "
        f"({row['kl']:.4g}), lower in {row['reference_lower_kl_in_draws']} of {row['draws']} draws;"
        f" agreement {row['agreement_lost']:+.2f} points "
        f"[{row['lost_low']:+.2f}, {row['lost_high']:+.2f}]"
    )


def main(reference: str, table: str) -> int:
    """Write the paired comparisons and print the reference against the best other method."""
    results, missing = kept(table)
    rows = comparisons(results, reference)
    if missing:
        print(f"{missing} rows have no per-image results on this machine and are left out")
    if not rows:
        print(f"nothing to compare with {reference}")
        return 1
    with (RESULTS / f"{table}_paired.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in r.items()} for r in rows
        )
    for row in best_others(rows):
        print(sentence(row))
    return 0
