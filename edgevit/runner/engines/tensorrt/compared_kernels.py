"""Compares the kernels of a device's own engine with those compiled when the model was quantized.

What was compiled for the nearest generation is evidence about a board; the board's engine says how
far it held.
"""

from __future__ import annotations

from typing import Any, Mapping

from edgevit.bundle import Bundle
from edgevit.runner.engines.tensorrt.kernel_table import KernelTable, kernel_table, tables_for
from edgevit.runner.engines.tensorrt.layer_table import product_rows


def with_compared_kernels(build: Mapping[str, Any] | None, bundle: Bundle) -> dict[str, Any] | None:
    """Return a report's ``build`` with ``compared``: the device's kernels beside the compiled ones.

    ``compared`` is null where either is not known, else {variant, compiled, here, same, unknown,
    differ}: ``compiled`` and ``here`` are {engine, capabilities, kernels}, ``same`` and ``unknown``
    count products, and ``differ`` lists those of another precision, {name, module, compiled, here}.

    Args:
        build: A report's ``build``; None where there was no choice.
        bundle: The bundle that was measured.
    """
    if build is None:
        return None
    return {**build, "compared": _compared(build, bundle)}


def _compared(build: Mapping[str, Any], bundle: Bundle) -> dict[str, Any] | None:
    found = build.get("kernels")
    table = None if not found else kernel_table(found)
    compiled = None if table is None else _compiled(bundle, table.variant)
    if table is None or compiled is None:
        return None
    here = {row["name"]: row["chosen"] for row in build["layers"]}
    rows = product_rows(bundle.layers(table.variant), compiled.layers)
    known = [row for row in rows if row.chosen and here.get(row.name)]
    differ = [row for row in known if row.chosen != here[row.name]]
    return {
        "variant": table.variant,
        "compiled": {
            "engine": compiled.engine,
            "capabilities": list(compiled.capabilities),
            "kernels": compiled.num_kernels,
        },
        "here": {
            "engine": table.engine,
            "capabilities": list(table.capabilities),
            "kernels": table.num_kernels,
        },
        "same": len(known) - len(differ),
        "unknown": len(rows) - len(known),
        "differ": [
            {
                "name": row.name,
                "module": row.module,
                "compiled": row.chosen,
                "here": here[row.name],
            }
            for row in differ
        ],
    }


def _compiled(bundle: Bundle, variant: str) -> KernelTable | None:
    """Return the kernels that were compiled of a variant when it was quantized, or later."""
    return tables_for(bundle.kernel_tables(), "").get(variant)
