"""Draws docs/results.png and docs/methods.png from the CSVs under benchmarks/results.

python benchmarks/plot.py
python benchmarks/plot.py --table      # the tables of docs/methods.md instead
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import methods_figure
from rows import RESULTS

DOCS = Path(__file__).parent.parent / "docs"
BLUE, GREY, LIGHT = "#2b6cb0", "#4a5568", "#a0aec0"


def rows(name: str, *key: str) -> list[dict[str, str]]:
    """Return the rows of a CSV; of rows with equal key columns the last."""
    with (RESULTS / f"{name}.csv").open() as file:
        found = list(csv.DictReader(file))
    if not key:
        return found
    last = {tuple(row[column] for column in key): row for row in found}
    return [last[at] for at in sorted(last, key=lambda at: (at[0], [-int(v) for v in at[1:]]))]


def accuracy(axis: plt.Axes) -> None:
    """Drop in top-1 points with its interval, per model, width and method."""
    found = rows("accuracy")
    for offset, (method, colour) in enumerate((("edgevit", BLUE), ("minmax", LIGHT))):
        part = [row for row in found if row["method"] == method]
        at = [i + 0.35 * offset for i in range(len(part))]
        value = [float(row["drop_points"]) for row in part]
        low = [v - float(row["drop_low"]) for v, row in zip(value, part, strict=True)]
        high = [float(row["drop_high"]) - v for v, row in zip(value, part, strict=True)]
        axis.bar(at, value, 0.33, color=colour, label=f"--method {method}")
        axis.errorbar(at, value, [low, high], fmt="none", ecolor=GREY, capsize=3, lw=1)
        if offset == 0:
            names = [
                f"{row['model'].split('_')[0]}\nW{row['weight_bits']}A{row['act_bits']}"
                for row in part
            ]
            axis.set_xticks([i + 0.17 for i in range(len(part))], names)
    axis.axhline(0, color=GREY, lw=0.8)
    axis.set_title("Top-1 lost, points (8,000 images)")
    axis.legend(frameon=False, fontsize=8)


def size(axis: plt.Axes) -> None:
    """Bundle size in percent of the fp32 file."""
    found = rows("size", "model", "bits")
    names = [f"{row['model']}\n{row['bits']} bit" for row in found]
    bars = axis.bar(names, [float(row["percent"]) for row in found], color=BLUE)
    axis.bar_label(bars, fmt="%.0f", fontsize=7)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_title("Size on disk, % of fp32")


def latency(axis: plt.Axes) -> None:
    """Engine's latency over fp32's: the median of all runs, and every run as a dot.

    The milliseconds of two runs are those of two states of the machine; the ratio compares.
    """
    runs: dict[str, list[float]] = {}
    for row in rows("latency"):
        grids = "\ncodebooks" if row["method"] == "edgevit-codebook" else ""
        name = f"{row['model']}\n{row['bits']} bit{grids}"
        runs.setdefault(name, []).append(float(row["ratio"]))
    bars = axis.bar(list(runs), [median(values) for values in runs.values()], color=BLUE)
    axis.bar_label(bars, fmt="%.2f", fontsize=7, padding=6)
    for place, values in enumerate(runs.values()):
        axis.plot([place] * len(values), values, "o", color=GREY, markersize=3)
    axis.axhline(1, color=LIGHT, lw=0.8)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_title("Latency p50 of the engine over fp32 (2 threads)")


def results() -> plt.Figure:
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), constrained_layout=True)
    for draw, axis in zip((accuracy, size, latency), axes, strict=True):
        draw(axis)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="print Markdown tables instead")
    found = methods_figure.found(rows("methods") if (RESULTS / "methods.csv").exists() else [])
    if parser.parse_args().table:
        print(methods_figure.tables(found))
        return
    results().savefig(DOCS / "results.png", dpi=110)
    if found:
        methods_figure.figure(found).savefig(DOCS / "methods.png", dpi=110)


if __name__ == "__main__":
    main()
