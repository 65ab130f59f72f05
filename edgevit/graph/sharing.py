"""Finds sites that read the same tensor: they share one grid, so that an engine rounds it once."""

from __future__ import annotations

from edgevit.graph.model import Graph


def shared_grid_sites(graph: Graph) -> dict[str, str]:
    """Return site -> the first site that reads the same tensor into a linear (maybe itself)."""
    first: dict[str, str] = {}
    found = {}
    for gemm in graph.gemms:
        for site in (gemm.left, gemm.right):
            shared = gemm.weight is not None and site is gemm.left
            key = site.producer if shared else site.name
            found[site.name] = first.setdefault(key, site.name)
    return found
