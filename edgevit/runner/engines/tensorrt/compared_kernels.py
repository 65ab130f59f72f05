"""Compares the kernels of a device's own engine with those compiled when the model was quantized.

What was compiled for the nearest generation is evidence about a board; the board's engine says how
far it held.
"""

from __future__ import annotations

from typing import Any, Mapping

from edgevit.bundle import Bundle
from edgevit.runner.engines.tensorrt.kernel_table import kernel_table


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
    said, found = bundle.manifest.get("compiled"), build.get("kernels")
    if not said or not found:
        return None
    table, here = kernel_table(found), {row["name"]: row["chosen"] for row in build["layers"]}
    rows = bundle.layers(table.variant)
    known = [row for row in rows if row.get("compiled") and here.get(row["name"])]
    differ = [row for row in known if row["compiled"] != here[row["name"]]]
    return {
        "variant": table.variant,
        "compiled": {
            "engine": said["engine"],
            "capabilities": said["capabilities"],
            "kernels": said["kernels"].get(table.variant),
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
                "name": row["name"],
                "module": row.get("module", ""),
                "compiled": row["compiled"],
                "here": here[row["name"]],
            }
            for row in differ
        ],
    }
