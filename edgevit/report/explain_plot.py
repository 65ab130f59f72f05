"""An explanation as one picture: time of each block, and of each kind of kernel, in both forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.report.explain import compared_forms, precision_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#999999", "#0072b2")  # told apart by colour-blind eyes


def write_explanation(report: Mapping[str, Any], path: str | Path, form: str = "png") -> None:
    """Draw a report.

    Args:
        report: As `edgevit.api.explain` returns it.
        path: File to write.
        form: "png", "svg" or "pdf".
    """
    from matplotlib.figure import Figure

    base, shown = compared_forms(report)
    rows = [len({share["name"] for one in (base, shown) for share in one[key]}) for key in _KEYS]
    height = 0.34 * sum(rows) + 2.4
    figure = Figure(figsize=(8.5, height), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(2, 1, gridspec_kw={"height_ratios": rows})
    for panel, key in zip(panels, _KEYS, strict=True):
        _draw(panel, base, shown, key)
    word = "PREDICTED" if report["how"] == "prediction" else "measured"
    panels[0].legend(fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    panels[1].set_xlabel(f"milliseconds, {word}, batch {report['batch']}")
    speed = f"{shown['name']} {base['time_ms'] / shown['time_ms']:.2f}x as fast as {base['name']}"
    title = f"{report['model']} on {report['device']['name']}: {speed} ({word})"
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    figure.savefig(path, format=form, dpi=150)


_KEYS = ("blocks", "kinds")


def _draw(panel: Axes, base: Mapping[str, Any], shown: Mapping[str, Any], key: str) -> None:
    """Draw two bars for each block or kind, with what ran in which precision beside them."""
    names = list({share["name"]: None for one in (shown, base) for share in one[key]})
    for at, one in enumerate((base, shown)):
        times = {share["name"]: share["time_ms"] for share in one[key]}
        places = [row + 0.4 * at - 0.2 for row in range(len(names))]
        values = [times.get(name, 0.0) for name in names]
        panel.barh(places, values, height=0.38, color=_COLOURS[at], label=one["name"])
    products = {share["name"]: share["products"] for share in shown[key]}
    widest = max(share["time_ms"] for one in (base, shown) for share in one[key])
    for row, name in enumerate(names):
        ends = [s["time_ms"] for one in (base, shown) for s in one[key] if s["name"] == name]
        text = precision_text(products.get(name, {}))
        panel.text(max(ends) + 0.01 * widest, row, text, va="center", fontsize=7)
    panel.set_yticks(range(len(names)), names, fontsize=8)
    panel.set_xlim(0, 1.25 * widest)
    panel.invert_yaxis()
    panel.grid(axis="x", linewidth=0.4, alpha=0.6)
    panel.set_axisbelow(True)
