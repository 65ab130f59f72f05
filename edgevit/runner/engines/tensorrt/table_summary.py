"""A table of kernels in numbers, with what became of each product of the bundle in it."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from edgevit.runner.engines.tensorrt.kernel_table import KernelTable
from edgevit.runner.engines.tensorrt.layer_table import product_rows, summary


def table_summary(products: Sequence[Mapping[str, Any]], table: KernelTable) -> dict[str, Any]:
    """Return a table of kernels as reports show it.

    Args:
        products: Rows of `manifest["layers"]` of the table's variant.
        table: The kernels of its engine.

    Returns:
        ``variant``, ``engine``, ``capabilities``, ``max_batch``, ``list_sha256``; ``kernels`` in
        all, ``moves`` and ``attention`` among them, ``blocks`` of the model; ``quantized``
        products, ``low`` of them with a kernel of 8 bits or fewer; ``products``, a `ProductRow`
        each.
    """
    rows = product_rows(products, table.layers)
    counts = summary(rows, table.layers)
    return {
        "variant": table.variant,
        "engine": table.engine,
        "capabilities": list(table.capabilities),
        "max_batch": table.max_batch,
        "list_sha256": table.list_sha256,
        "kernels": counts.kernels,
        "moves": counts.moves,
        "attention": counts.attention,
        "blocks": sum(product.get("kind") == "qk" for product in products),
        "quantized": counts.asked_low,
        "low": counts.got_low,
        "products": [row.to_dict() for row in rows],
    }
