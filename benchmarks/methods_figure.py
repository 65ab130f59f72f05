"""The figure and the tables of the methods, from the rows of results/methods.csv.

A point is the mean over the draws of calibration images, its bar the draws' smallest and largest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import matplotlib.pyplot as plt
from cells import Cell, order

OWN = {"edgevit": "#0072b2", "edgevit-codebook": "#d55e00", "edgevit-train": "#000000"}
OTHERS = ("#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c6d31", "#7f7f7f")
"""Okabe and Ito's palette, told apart in any kind of colour vision; markers differ as well."""
MARKERS = "osD^vP*X<>hd"
WIDTHS = ((8, 8), (6, 6), (4, 8), (4, 4), (3, 3), (2, 4))
TITLES = {
    "plain": "",
    "hardened-ln": ", LayerNorms hardened",
    "hardened": ", hardened",
    "hardened+head": ", hardened with the head",
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One method in one cell: what each draw gave."""

    kl: tuple[float, ...]
    agreement: tuple[float, ...]
    top1: tuple[float, ...]
    simulated: bool


Place = tuple[str, str]
"""(model, twin)."""
Points = dict[Place, dict[str, dict[tuple[int, int], Point]]]
"""place -> method -> (weight bits, activation bits) -> what was found."""


def found(rows: Iterable[dict[str, str]]) -> Points:
    """Group CSV rows; of a cell measured twice the last row counts, and only the most images."""
    rows = list(rows)
    most = max((int(row["images"]) for row in rows), default=0)
    draws: dict[tuple[Place, str, tuple[int, int]], dict[int, dict[str, str]]] = defaultdict(dict)
    for row in rows:
        cell = Cell.of(row)
        if int(row["images"]) == most:
            width = (cell.weight_bits, cell.act_bits)
            draws[((cell.model, cell.twin), cell.label, width)][cell.seed] = row
    points: Points = {}
    for (place, method, width), by_draw in draws.items():
        parts = list(by_draw.values())
        point = Point(
            kl=tuple(float(row["kl_to_fp32"]) for row in parts),
            agreement=tuple(float(row["agreement_fp32"]) for row in parts),
            top1=tuple(float(row["top1"]) for row in parts),
            simulated=any(row["runs_on"] == "simulation" for row in parts),
        )
        points.setdefault(place, {}).setdefault(method, {})[width] = point
    return points


def figure(points: Points) -> plt.Figure:
    """Draw KL by method and width, one panel for each model and twin with more than one width."""
    models = sorted({model for model, _ in points})
    drawable = {place[1] for place, methods in points.items() if len(_widths(methods)) > 1}
    twins = [twin for twin in TITLES if twin in drawable] or ["plain"]
    size = (4.4 * len(twins) + 2.2, 3.9 * len(models))
    drawn, axes = plt.subplots(
        len(models), len(twins), figsize=size, squeeze=False, sharey=True, layout="constrained"
    )
    for line, model in zip(axes, models, strict=True):
        for axis, twin in zip(line, twins, strict=True):
            _panel(axis, points.get((model, twin), {}))
            axis.set_title(f"{model}{TITLES[twin]}", fontsize=10)
        line[0].set_ylabel("mean KL to fp32, nats")
    lines = {h.get_label(): h for axis in axes.flat for h in axis.get_legend_handles_labels()[0]}
    ordered = sorted(lines, key=order)
    handles = [lines[name] for name in ordered]
    drawn.legend(handles, ordered, loc="outside right center", frameon=False, fontsize=9)
    return drawn


def _panel(axis: plt.Axes, methods: dict[str, dict[tuple[int, int], Point]]) -> None:
    present = sorted(methods, key=order)
    for at, method in enumerate(present):
        index, name = order(method)[0], method.split(" (")[0]
        own, points = name in OWN, methods[method]
        widths = [width for width in WIDTHS if width in points]
        shift = 0.5 * ((at + 0.5) / len(present) - 0.5)
        means = [sum(points[width].kl) / len(points[width].kl) for width in widths]
        low = [mean - min(points[w].kl) for mean, w in zip(means, widths, strict=True)]
        high = [max(points[w].kl) - mean for mean, w in zip(means, widths, strict=True)]
        axis.errorbar(
            [WIDTHS.index(width) + shift for width in widths],
            means,
            [[max(x, 0.0) for x in low], [max(x, 0.0) for x in high]],
            label=method,
            color=OWN.get(name, OTHERS[index % len(OTHERS)]),
            marker=MARKERS[index % len(MARKERS)],
            markersize=6 if own else 4.5,
            linewidth=2 if own else 0.8,
            elinewidth=1,
            alpha=1.0 if own else 0.9,
            zorder=3 if own else 2,
        )
    axis.set_yscale("log")
    axis.set_xlim(-0.5, len(WIDTHS) - 0.5)
    axis.set_xticks(range(len(WIDTHS)), [f"W{w}A{a}" for w, a in WIDTHS], fontsize=8)
    axis.grid(axis="y", color="#e2e8f0", lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def tables(points: Points) -> str:
    """Return one Markdown table for each model and twin: KL and agreement with fp32.

    The lowest KL of a column is bold; a * marks methods that no target of EdgeViT deploys.
    """
    return "\n\n".join(_table(place, points[place]) for place in sorted(points))


def _table(place: Place, methods: dict[str, dict[tuple[int, int], Point]]) -> str:
    widths = _widths(methods)
    best = {
        width: min(_mean(points[width].kl) for points in methods.values() if width in points)
        for width in widths
    }
    lines = [
        f"**{place[0]}{TITLES[place[1]]}**: mean KL to fp32 (agreement with fp32, %)",
        "",
        "| method | " + " | ".join(f"W{w}A{a}" for w, a in widths) + " |",
        "|---|" + "---|" * len(widths),
    ]
    for name in sorted(methods, key=order):
        shown = [_shown(methods[name].get(width), best[width]) for width in widths]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _shown(point: Point | None, best: float) -> str:
    if point is None:
        return ""
    kl = _mean(point.kl)
    text = f"{kl:.2g}" if kl < 0.0995 else f"{kl:.2f}"
    text = f"**{text}**" if kl == best else text
    return f"{text} ({_mean(point.agreement):.1f}){'*' if point.simulated else ''}"


def _widths(methods: dict[str, dict[tuple[int, int], Point]]) -> list[tuple[int, int]]:
    return [width for width in WIDTHS if any(width in points for points in methods.values())]


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)
