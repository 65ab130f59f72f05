"""A sensitivity report as a picture: one column per layer, in execution order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.errors import EnvironmentError_, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#777777")  # told apart by colour-blind eyes
FORMATS = (".png", ".svg", ".pdf")


def check_plot(path: str | Path) -> None:
    """Refuse a plot before the work starts instead of after it.

    Raises:
        EnvironmentError_: matplotlib is not installed (EV209).
        UsageError: The file's ending is no picture's (EV215).
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise UsageError(
            "EV215",
            "The plot can't have this format.",
            where=str(path),
            try_next=f"Endings that work: {', '.join(FORMATS)}.",
        )
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise EnvironmentError_(
            "EV209",
            "A plot needs matplotlib.",
            where="--plot",
            why=str(error),
            try_next="pip install 'edgevit[plot]', or leave out --plot.",
        ) from error


def write_plot(rows: Sequence[Mapping[str, Any]], path: str | Path, form: str = "png") -> None:
    """Draw SQNR, errors and (if measured) accuracy of every layer.

    Args:
        rows: As `edgevit.api.sensitivity` returns them.
        path: File to write.
        form: "png", "svg" or "pdf".
    """
    from matplotlib.figure import Figure

    labelled = any(row["top1_only"] is not None for row in rows)
    panels = 3 if labelled else 2
    width = max(7.0, 0.19 * len(rows) + 1.5)
    figure = Figure(figsize=(width, 2.2 * panels + 1.6), layout="constrained")
    axes: list[Axes] = list(figure.subplots(panels, 1, sharex=True))
    _draw_sqnr(axes[0], rows)
    _draw_errors(axes[1], rows, labelled)
    if labelled:
        _draw_accuracy(axes[2], rows)
    axes[-1].set_xticks(range(len(rows)), [row["module"] for row in rows], rotation=90, fontsize=7)
    axes[-1].set_xlim(-0.7, len(rows) - 0.3)
    for panel in axes:
        panel.grid(axis="y", linewidth=0.4, alpha=0.6)
        panel.set_axisbelow(True)
        panel.legend(fontsize=7, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    figure.savefig(path, format=form, dpi=150)


def _draw_sqnr(panel: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    for at, (key, label) in enumerate((("left", "input or left"), ("right", "weight or right"))):
        values = [row[f"{key}_sqnr_db"] for row in rows]
        known = [float("nan") if value is None else value for value in values]
        panel.plot(known, "os"[at], color=_COLOURS[at], markersize=3.5, label=label)
    panel.set_ylabel("SQNR (dB)")


def _draw_errors(panel: Axes, rows: Sequence[Mapping[str, Any]], labelled: bool) -> None:
    panel.bar(range(len(rows)), [_positive(row["fisher_error"]) for row in rows],
              color="#bbbbbb", label="Fisher-weighted error")  # fmt: skip
    if labelled:
        for at, (key, label) in enumerate((("only", "KL, only this"), ("all_but", "KL, all but"))):
            values = [_positive(row[f"kl_{key}"]) for row in rows]
            panel.plot(values, "os"[at], color=_COLOURS[at], markersize=3.5, label=label)
        panel.axhline(_positive(rows[0]["kl_quantized"]), color=_COLOURS[3], linestyle="--",
                      linewidth=0.9, label="KL, all")  # fmt: skip
    panel.set_yscale("log")
    panel.set_ylabel("nats per image")


def _draw_accuracy(panel: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    for at, (key, label) in enumerate((("only", "only this"), ("all_but", "all but this"))):
        values = [row[f"top1_{key}"] for row in rows]
        panel.plot(values, "os"[at], color=_COLOURS[at], markersize=3.5, label=label)
    for key, style, label in (("float32", "-", "fp32"), ("quantized", "--", "all")):
        level = rows[0][f"top1_{key}"]
        panel.axhline(level, color=_COLOURS[3], linestyle=style, linewidth=0.9, label=label)
    panel.set_ylabel("top-1 (%)")


def _positive(value: float) -> float:
    """Return a value a logarithmic axis can show: nothing lost leaves a gap."""
    return value if value > 0 else float("nan")
