"""Tables for a terminal: the validation report, a bundle's layers, the known models.

Everything fits 80 columns and is plain text when piped; names that come from outside are never
read as markup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

Report = Mapping[str, Any]
_VERDICT_STYLES = {"PASS": "bold green", "FAIL": "bold red", "UNDECIDED": "bold yellow"}
_NOTHING = "-"
_NAMED_SKIPS = 3
_MODEL_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "name": ("model", str),
    "parameters": ("parameters", lambda count: f"{count / 1e6:.1f} M"),
    "flops": ("GFLOPs", lambda flops: f"{flops / 1e9:.1f}"),
    "input_size": ("input", lambda size: "x".join(map(str, size))),
    "source": ("source", str),
    "note": ("note", str),
}


def print_validation(console: Console, report: Report) -> None:
    """Print a report made by `edgevit.report.validation.validation_report`."""
    bits = report["bits"]
    widths = f"W{bits['weight_mean']:g}A{bits['act_mean']:g}"
    title = f"{report['model']}  {widths}  {report['num_images']} images"
    table = _table(title, "", "fp32", "engine", "change", numbers=("fp32", "engine"))
    for row in [*_accuracy_rows(report), *_latency_rows(report), *_cost_rows(report)]:
        table.add_row(*(_text(cell) for cell in row))
    console.print(table)
    for line in _notes(report):
        console.print(_text(line))
    if report["verdict"]:
        line = _text(report["verdict"], _VERDICT_STYLES[report["verdict"]])
        console.print(line.append(f"  {report['verdict_reason']}", style="not bold default"))


def print_layers(console: Console, layers: Iterable[Mapping[str, Any]]) -> None:
    """Print the ``layers`` of a bundle's manifest, one row per matrix product."""
    table = _table("Layers", "module", "kind", "bits", "grid", "carrier", "kernel")
    for layer in layers:
        widths = f"W{_shown(layer.get('weight_bits'))}A{_shown(layer.get('act_bits'))}"
        cells = [layer.get("module", layer.get("name")), layer.get("kind"), widths]
        cells += [layer.get(key) for key in ("grid", "carrier", "kernel")]
        table.add_row(*(_text(_shown(cell)) for cell in cells))
    console.print(table)


def print_models(console: Console, models: Iterable[Mapping[str, Any]]) -> None:
    """Print models: name, parameters, flops, input_size, source, note, as far as they are known."""
    rows = list(models)
    used = [key for key in _MODEL_COLUMNS if any(row.get(key) is not None for row in rows)]
    headings = [_MODEL_COLUMNS[key][0] for key in used]
    table = _table("Models", *headings, numbers=("parameters", "GFLOPs"))
    for row in rows:
        known = {key: row[key] for key in used if row.get(key) is not None}
        cells = {key: _MODEL_COLUMNS[key][1](value) for key, value in known.items()}
        table.add_row(*(_text(cells.get(key, _NOTHING)) for key in used))
    console.print(table)


def _accuracy_rows(report: Report) -> list[tuple[str, ...]]:
    top1, top5, drop = report["top1"], report["top5"], report["drop_points"]
    change = ""
    if drop is not None:
        low, high = -drop["high"], -drop["low"]
        change = f"{-drop['value']:+.2f} points [{low:+.2f}, {high:+.2f}]"
    return [
        ("top-1 accuracy", _percent(top1["fp32"]), _percent(top1["engine"]), change),
        ("top-5 accuracy", _percent(top5["fp32"]), _percent(top5["engine"]), ""),
    ]


def _latency_rows(report: Report) -> list[tuple[str, ...]]:
    latency, speedup = report["latency_ms"], report["speedup"]
    if not latency["engine"]:
        return []
    change = ""
    if speedup is not None:
        change = f"{speedup['value']:.2f}x as fast [{speedup['low']:.2f}, {speedup['high']:.2f}]"
    rows: list[tuple[str, ...]] = []
    for key in ("p50", "p90", "p99"):
        cells = [f"{one[key]:.2f} ms" if one else _NOTHING for one in _pair(latency)]
        rows.append((f"latency {key}", *cells, change if key == "p50" else ""))
    return rows


def _cost_rows(report: Report) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for label, key in (("size of the model", "size_bytes"), ("peak memory", "peak_memory_bytes")):
        fp32, engine = _pair(report[key])
        change = f"{fp32 / engine:.1f}x smaller" if fp32 and engine else ""
        rows.append((label, _megabytes(fp32), _megabytes(engine), change))
    rows.append(("EER", "", _percent(report["eer"], digits=1), "of ViT-B/16 in fp32"))
    return rows


def _notes(report: Report) -> list[str]:
    """Return the lines below the table."""
    agreement, skipped = report["agreement"], report["skipped_images"]
    lines = [f"engine and simulation agree on {_percent(agreement['engine_vs_simulated'])}"]
    if agreement["engine_vs_fp32"] is not None:
        lines.append(f"engine and fp32 agree on {_percent(agreement['engine_vs_fp32'])}")
    if report["mcnemar_p"] is not None:
        lines.append(f"McNemar's exact p = {report['mcnemar_p']:.3g}")
    if report["latency_ms"]["engine"]:
        conditions = report["latency_conditions"].items()
        lines.append(
            "latency at " + ", ".join(f"{key} {_shown(value)}" for key, value in conditions)
        )
    if skipped["count"]:
        names = ", ".join(skipped["names"][:_NAMED_SKIPS])
        lines.append(f"{skipped['count']} damaged images skipped: {names}")
    return lines + [f"warning: {warning}" for warning in report["warnings"]]


def _table(title: str, *headings: str, numbers: tuple[str, ...] = ()) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=_text(title), title_justify="left", box=box.SIMPLE_HEAD)
    for heading in headings:
        justify: Any = "right" if heading in numbers else "left"
        table.add_column(heading, justify=justify, overflow="fold")
    return table


def _text(content: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(content, style=style)


def _pair(values: Mapping[str, Any]) -> tuple[Any, Any]:
    return values["fp32"], values["engine"]


def _shown(value: Any) -> str:
    return _NOTHING if value is None else str(value)


def _percent(value: float | None, digits: int = 2) -> str:
    return _NOTHING if value is None else f"{value:.{digits}f} %"


def _megabytes(size_bytes: int | None) -> str:
    return _NOTHING if size_bytes is None else f"{size_bytes / 1e6:.1f} MB"
