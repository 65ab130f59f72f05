"""Shows the variants that a TensorRT device tried: times, drops in accuracy, which one was kept.

Each reason is said once, however many variants it holds for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from edgevit.report.table import new_table, plain_text

if TYPE_CHECKING:
    from rich.console import RenderableType

_NOTHING = "-"


def build_table(build: Mapping[str, Any]) -> RenderableType:
    """Return a table of a report's ``build``: one row per variant, the reasons below."""
    from rich.console import Group

    title = f"Variants on this device; kept: {build['kept'] or 'none'}"
    headings = ("variant", "p50", "x FP16", "drop in points", "images", "accuracy")
    table = new_table(title, *headings, numbers=("p50", "x FP16", "images"))
    for row in build["rows"]:
        table.add_row(*map(plain_text, _cells(row)))
    lines = [build["reason"], *build["fp16_reasons"], *_reasons(build["rows"])]
    return Group(table, *map(plain_text, lines))


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    ratio, gate = row["speedup_over_fp16"], row["gate"]
    return (
        row["variant"],
        _NOTHING if row["p50_ms"] is None else f"{row['p50_ms']:.2f} ms",
        _NOTHING if ratio is None else f"{ratio['value']:.2f}",
        _drop(gate["drop_points"]),
        str(gate["num_images"] or _NOTHING),
        gate["verdict"] or _NOTHING,
    )


def _drop(drop: Mapping[str, float] | None) -> str:
    if drop is None:
        return _NOTHING
    return f"{drop['value']:.2f} [{drop['low']:.2f}, {drop['high']:.2f}]"


def _reasons(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return why variants may not be used, and what is said of the others, each text once."""
    variants: dict[str, list[str]] = {}
    for row in rows:
        text = row["why_not"] and f"not used, {row['why_not']}"
        text = text or row["gate"]["reason"]
        if text:
            variants.setdefault(text, []).append(row["variant"])
    return [f"{', '.join(names)}: {text}" for text, names in variants.items()]
