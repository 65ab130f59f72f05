"""Shows the variants that a TensorRT device tried: times, drops in accuracy, which one was kept.

Each reason is said once, however many variants it holds for. Times that do not count, because a
clock dropped or something throttled, stand in brackets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from edgevit.report.cells import new_table, plain_text
from edgevit.report.compiled import compared_lines
from edgevit.report.telemetry import telemetry_notes

if TYPE_CHECKING:
    from rich.console import RenderableType

_NOTHING = "-"


def build_table(build: Mapping[str, Any]) -> RenderableType:
    """Return a table of a report's ``build``: one row per variant, the reasons below."""
    from rich.console import Group

    title = f"Variants on this device; kept: {build['kept'] or 'none'}"
    energy = any(row["energy_mj"] is not None for row in build["rows"])
    headings: tuple[str, ...] = ("variant", "p50", "x FP16", "drop in points", "images", "accuracy")
    if energy:
        headings = (*headings[:3], "mJ/image", *headings[3:])
    table = new_table(title, *headings, numbers=("p50", "x FP16", "mJ/image", "images"))
    for row in build["rows"]:
        table.add_row(*map(plain_text, _cells(row, energy)))
    lines = [build["reason"], *build["fp16_reasons"], *_reasons(build["rows"])]
    lines += compared_lines(build.get("compared"))
    return Group(table, *map(plain_text, [*lines, *telemetry_notes(build["telemetry"])]))


def _cells(row: Mapping[str, Any], energy: bool) -> tuple[str, ...]:
    ratio, gate, valid = row["speedup_over_fp16"], row["gate"], row["latency_valid"]
    return (
        row["variant"],
        _count_text(None if row["p50_ms"] is None else f"{row['p50_ms']:.2f} ms", valid),
        _count_text(None if ratio is None else f"{ratio['value']:.2f}", valid),
        *((_energy(row["energy_mj"]),) if energy else ()),
        _drop(gate["drop_points"]),
        str(gate["num_images"] or _NOTHING),
        gate["verdict"] or _NOTHING,
    )


def _count_text(figure: str | None, valid: bool | None) -> str:
    """Return a figure, in brackets if it does not count."""
    if figure is None:
        return _NOTHING
    return f"({figure})" if valid is False else figure


def _energy(energy_mj: float | None) -> str:
    return _NOTHING if energy_mj is None else f"{energy_mj:.1f}"


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
