"""The table of `edgevit check`: one row per broken rule and level, its remedy below."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from edgevit.report.cells import new_table, plain_text

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES = {"E": "bold red", "W": "yellow", "P": "cyan"}
_WORDS = {"E": ("error", "errors"), "W": ("warning", "warnings"), "P": ("advice", "advice")}


def conformance_table(report: Mapping[str, Any]) -> RenderableType:
    """Return a table of a report made by `edgevit.verbs.check.check`."""
    from rich.console import Group

    return Group(*(part for graph in report["graphs"] for part in _parts(graph, report)))


def _parts(graph: Mapping[str, Any], report: Mapping[str, Any]) -> Iterable[RenderableType]:
    counts = ", ".join(_count_text(graph["counts"][level], level) for level in _WORDS)
    oldest, newest = report["tensorrt"]
    served = oldest if oldest == newest else f"{oldest} to {newest}"
    title = f"{graph['name']} for {report['target']}, TensorRT {served}: {counts}"
    groups = _groups(graph["findings"])
    if groups:
        table = new_table(title, "rule", "", "places", "first place and what is wrong there")
        for (number, level), findings in groups.items():
            first = findings[0]
            what = f"{first['node']}: {first['message']}"
            cells = (str(number), level, str(len(findings)), what)
            table.add_row(*(plain_text(cell, _style(cell)) for cell in cells))
        yield table
    else:
        yield plain_text(title)
    all_found = [one for findings in groups.values() for one in findings]
    for number, remedy in dict.fromkeys((one["rule"], one["remedy"]) for one in all_found):
        yield plain_text(f"rule {number}: {remedy}")
    left_out = [row for row in graph["rules"] if row["state"] == "not run"]
    if left_out:
        yield plain_text(f"rules not looked at: {_reasons(left_out)}")


def _count_text(count: int, level: str) -> str:
    """Return a count with its word, such as "1 error" or "2 errors"."""
    return f"{count} {_WORDS[level][count != 1]}"


def _reasons(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return numbers of rules by the reason why they were not looked at, each reason once."""
    numbers: dict[str, list[str]] = {}
    for row in rows:
        numbers.setdefault(row["reason"], []).append(str(row["rule"]))
    return "; ".join(f"{', '.join(found)} ({reason})" for reason, found in numbers.items())


def _style(cell: str) -> str:
    return _STYLES.get(cell, "")


def _groups(findings: Iterable[Mapping[str, Any]]) -> dict[tuple[int, str], list[Any]]:
    """Return findings by rule and level, errors first."""
    found: dict[tuple[int, str], list[Any]] = {}
    for finding in findings:
        found.setdefault((finding["rule"], finding["level"]), []).append(finding)
    return dict(sorted(found.items(), key=lambda item: ("EWP".index(item[0][1]), item[0][0])))
