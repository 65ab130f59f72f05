"""Shows the kernels of compiled engines: each in a row, and what became of a form's products."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from edgevit.report.cells import new_table, plain_text
from edgevit.runner.engines import all_engines

if TYPE_CHECKING:
    from rich.console import RenderableType

_NOTHING = "-"
_STUB = "__myelin_CASK_STUB"
_MARKS = re.compile(r"(_0x[0-9a-f]+.*|_myl[0-9_]+)\Z")
_PER_BLOCK = "per block"
LIBRARY = "library"
"""A product by itself, whose kernel is chosen on the card."""


def build_report(report: Mapping[str, Any]) -> RenderableType:
    """Return what `edgevit build` did: a row for each engine, and what it could not have."""
    from rich.console import Group

    rows = [row for variant in report["variants"] for row in variant["engines"]]
    table = _table(f"Compiled for {report['target']}", "size", "seconds")
    for row in rows:
        size = _NOTHING if row["size_bytes"] is None else f"{row['size_bytes'] / 1e6:.1f} MB"
        table.add_row(*map(plain_text, (*_cells(row["kernels"]), size, f"{row['seconds']:.1f}")))
    lines = [_evidence(report), *_refusals(report["variants"]), *_misses(rows), *_warnings(rows)]
    return Group(table, *(plain_text(line) for line in lines if line))


def kernels_report(kernels: Iterable[Mapping[str, Any]], engine: str) -> list[RenderableType]:
    """Return a bundle's tables of kernels, a row each.

    Args:
        kernels: As `edgevit.verbs.inspect.inspect` gives them; nothing is shown for none.
        engine: Name of the engine that runs the bundle.
    """
    tables = list(kernels)
    if not tables:
        return []
    overview = _table("Kernels, as compiled ahead of time")
    for one in tables:
        overview.add_row(*map(plain_text, _cells(one)))
    made_by = dict.fromkeys(one["engine"] for one in tables)
    said = [plain_text(f"compiled by {_titles(made_by)}")]
    if not any(name.split(" ")[0] == engine for name in made_by):
        said.append(plain_text("the device builds its own engine; this is evidence only"))
    return [overview, *said]


def _table(title: str, *further: str) -> Any:
    numbers = ("kernels", _PER_BLOCK, "as asked", *further)
    return new_table(title, "variant", "cards", *numbers, numbers=numbers)


def _cells(one: Mapping[str, Any]) -> tuple[str, ...]:
    """Return variant, cards, kernels, kernels per block, quantized products as asked."""
    blocks = one["blocks"]
    return (
        one["variant"],
        ", ".join(one["capabilities"]),
        str(one["kernels"]),
        f"{one['kernels'] / blocks:.1f}" if blocks else _NOTHING,
        f"{one['low']} of {one['quantized']}" if one["quantized"] else _NOTHING,
    )


def kernel_of(product: Mapping[str, Any]) -> str:
    """Return the kernel of a product in few words: names without what only tells them apart."""
    if product["kernel"] == _STUB:
        return LIBRARY
    name = _MARKS.sub("", product["kernel"] or product["engine_layer"])
    return name.removeprefix("__myl_").strip("_") or _NOTHING


def _evidence(report: Mapping[str, Any]) -> str:
    if report["keeps_engines"]:
        return ""
    cards, engine = ", ".join(report["capabilities"]), _titles([report["engine"]])
    return (
        f"compiled for {cards} by {engine}; {report['target']} builds its own engine, so that only "
        "the kernels are kept, as evidence"
    )


def _titles(engines: Iterable[str]) -> str:
    """Return "TensorRT for RTX 1.7.1.116" for "tensorrt_rtx 1.7.1.116"."""
    known = all_engines()
    parts = [engine.partition(" ") for engine in engines]
    return ", ".join(
        f"{known[name].title if name in known else name} {version}".strip()
        for name, _, version in parts
    )


def _refusals(variants: Iterable[Mapping[str, Any]]) -> list[str]:
    return [
        f"{one['name']} is not there for {card}: {why}"
        for one in variants
        for card, why in one["refused"].items()
    ]


def _misses(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line for each form and reason for which products are not as asked."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for product in row["kernels"]["products"]:
            if product["reason"] and product["asked"] != "float":
                key = row["kernels"]["variant"], product["reason"]
                found.setdefault(key, []).append(product["module"] or product["name"])
    return [
        f"{variant}: not as asked: {', '.join(dict.fromkeys(modules))}: {reason}"
        for (variant, reason), modules in found.items()
    ]


def _warnings(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return [
        f"warning: {text}"
        for text in dict.fromkeys(text for row in rows for text in row["warnings"])
    ]
