"""The verb `inspect`: a bundle's manifest, its sizes, and the kernels of its compiled engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgevit.bundle.opening import SizeKind
from edgevit.bundle.shares import multiply_add_shares
from edgevit.runner.engines import open_for_engine
from edgevit.runner.engines.tensorrt.kernel_table import kernel_table
from edgevit.runner.engines.tensorrt.table_summary import table_summary

_SIZES: tuple[SizeKind, ...] = ("bundle", "engine", "reference", "compiled", "total")


def inspect(path: str | Path) -> dict[str, Any]:
    """Return the verified manifest of a bundle, its sizes in bytes, and its kernels.

    ``multiply_adds`` says how they are computed, as `multiply_add_shares` gives it, null in bundles
    older than that. ``engines`` are the compiled engines that are here; ``kernels`` has one table
    for each engine that was compiled, as `table_summary` gives it.

    Raises:
        BundleError: It is damaged, incomplete, unsafe or too new.
    """
    bundle = open_for_engine(path)
    tables = [kernel_table(content) for content in bundle.kernel_tables()]
    return {
        **bundle.manifest,
        "multiply_adds": multiply_add_shares(bundle.layers()),
        "engines": bundle.engines(),
        "kernels": [table_summary(bundle.layers(one.variant), one) for one in tables],
        "size_bytes": {kind: bundle.size_bytes(kind) for kind in _SIZES},
    }
