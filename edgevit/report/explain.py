"""An explanation as tables: block by block, by kind of kernel, and the costliest reasons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgevit.report.cells import new_table, plain_text
from edgevit.runner.engines.tensorrt.cost_model import LARGEST_BATCH
from edgevit.runner.engines.tensorrt.inspecting import CODES

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_NAMED_BLOCKS = 3
_WORDS = {"prediction": "PREDICTED, not measured", "measured": "measured"}


def explain_table(report: Mapping[str, Any]) -> RenderableType:
    """Return a report of `edgevit.verbs.explain.explain` for a terminal."""
    from rich.console import Group

    base, shown = compared_forms(report)
    tables = [_shares(report, base, shown, "blocks"), _shares(report, base, shown, "kinds")]
    others = [form for form in report["forms"] if form is not base]
    lines = [line for form in others for line in _form_lines(base, form)]
    lines += [*_reason_lines(base, shown), *_slower_lines(base, shown)]
    return Group(*tables, *map(plain_text, [*lines, *_source_lines(report)]))


def compared_forms(report: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the form that others are compared with, and the one that the report shows."""
    forms = report["forms"]
    return forms[0], next(form for form in forms if form["name"] == report["shown"])


def precision_text(products: Mapping[str, int]) -> str:
    """Return "int8 4, fp16 1" for products counted by precision."""
    return ", ".join(f"{name} {count}" for name, count in products.items())


def _shares(
    report: Mapping[str, Any], base: Mapping[str, Any], shown: Mapping[str, Any], key: str
) -> Table:
    """Return a table of blocks or kinds: times of both forms, how many kernels, precisions."""
    left, right = f"{base['name']} ms", f"{shown['name']} ms"
    title = f"{report['model']} on {report['device']['name']}, batch {report['batch']}: "
    heading = "block" if key == "blocks" else "kind"
    counts = "kernels" if report["how"] == "prediction" else "operators"
    columns = (heading, left, right, "change", counts, "products")
    table = new_table(title + _WORDS[report["how"]], *columns, numbers=(left, right, "change"))
    before = {share["name"]: share for share in base[key]}
    after = {share["name"]: share for share in shown[key]}
    for name in {**after, **before}:
        old, new = before.get(name), after.get(name)
        cells = (
            name,
            _ms(old),
            _ms(new),
            f"{_time(new) - _time(old):+.3f}",
            " -> ".join(str(one["parts"] if one else 0) for one in (old, new)),
            precision_text(new["products"]) if new else "",
        )
        table.add_row(*map(plain_text, cells))
    total = (base["time_ms"], shown["time_ms"])
    cells = ("all", f"{total[0]:.3f}", f"{total[1]:.3f}", f"{total[1] - total[0]:+.3f}", "", "")
    table.add_row(*map(plain_text, cells))
    return table


def _form_lines(base: Mapping[str, Any], form: Mapping[str, Any]) -> list[str]:
    ratio = base["time_ms"] / form["time_ms"]
    bounds = [
        f"{100 * time_ms / form['time_ms']:.0f} % in kernels bound by {name}"
        for name, time_ms in form["bounds"].items()
    ]
    line = (
        f"{form['name']}: {form['time_ms']:.3f} ms, {ratio:.2f}x as fast as {base['name']}"
        f" ({base['time_ms']:.3f} ms)"
    )
    return ["; ".join([line, *bounds])]


def _reason_lines(base: Mapping[str, Any], shown: Mapping[str, Any]) -> list[str]:
    if not shown["reasons"]:
        return [f"nothing in {shown['name']} costs more than in {base['name']}"]
    lines = [f"what keeps {shown['name']} from being faster than {base['name']}:"]
    for number, reason in enumerate(shown["reasons"], 1):
        lines.append(f"{number}. {reason['cost_ms']:.3f} ms: {reason['text']} {reason['remedy']}")
    return lines


def _slower_lines(base: Mapping[str, Any], shown: Mapping[str, Any]) -> list[str]:
    """Return a line with the blocks that lose, the one that loses most first."""
    before = {share["name"]: share["time_ms"] for share in base["blocks"]}
    losses = {
        share["name"]: share["time_ms"] - before[share["name"]]
        for share in shown["blocks"]
        if share["time_ms"] > before.get(share["name"], float("inf"))
        and CODES.intersection(share["products"])  # others are in float already
    }
    if not losses:
        return []
    names = sorted(losses, key=lambda name: -losses[name])[:_NAMED_BLOCKS]
    kept = " ".join(f"--float-layer {name}" for name in names)
    return [f"{len(losses)} blocks are slower; to keep those that lose most in float: {kept}"]


def _source_lines(report: Mapping[str, Any]) -> list[str]:
    device, base = report["device"], report["forms"][0]["name"]
    if report["how"] == "measured":
        return [
            f"profile of {name}: operators {cost['operators_ms']:.3f} ms, run with the profile"
            f" {cost['profiled_ms']:.3f} ms, without {cost['plain_ms']:.3f} ms"
            for name, cost in report["overhead"].items()
        ]
    crossings = [
        f"{form['name']} {_crossing(form['crossover_batch'])}" for form in report["forms"][1:]
    ]
    return [
        f"predicted to be faster than {base}: {'; '.join(crossings)}",
        f"kernels: {device['kernels_from']}; peaks: {device['source']}",
        f"doubtful: {device['doubtful']}",
    ]


def _crossing(batch: int | None) -> str:
    if batch is None:
        return f"not up to batch {LARGEST_BATCH}"
    return "at every batch" if batch == 1 else f"from batch {batch} on"


def _ms(share: Mapping[str, Any] | None) -> str:
    return "-" if share is None else f"{share['time_ms']:.3f}"


def _time(share: Mapping[str, Any] | None) -> float:
    return 0.0 if share is None else float(share["time_ms"])
