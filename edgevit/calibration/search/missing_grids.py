"""Warnings about grids that a method would have used, had the target run them.

A method that has no use for such a grid says nothing, nor does one that has something better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from edgevit.calibration.search import activation_grids
from edgevit.calibration.statistics.fisher import Statistics
from edgevit.graph.model import Graph, Role, Site
from edgevit.quantizers.quantized_graph import Grid
from edgevit.quantizers.spec import Placement

TWIN_ROLES = (Role.SOFTMAX_OUT, Role.GELU_OUT)
_WORDS = {Role.SOFTMAX_OUT: "a softmax", Role.GELU_OUT: "a GELU"}


def missing_notes(
    graph: Graph,
    placement: Placement,
    statistics: Statistics,
    grid_of: Callable[[Site], Grid],
    *,
    must_save: float,
    roles: Collection[Role] = TWIN_ROLES,
    everywhere: bool = False,
) -> list[str]:
    """Return a counted warning for every reason why inputs go without a twin grid.

    Args:
        graph: Of the sites.
        placement: What the target offers, and what is missing.
        statistics: Histograms of the sites that are quantized.
        grid_of: The grid chosen for a quantized site.
        must_save: Share of that grid's error that a twin grid has to save to be used.
        roles: Inputs that the method gives twin grids.
        everywhere: The method has them at every such input: those left in float count too.
    """
    found: Counter[tuple[Role, str]] = Counter()
    for gemm in graph.gemms:
        site, missing = gemm.left, placement.missing.get(gemm.left.name)
        if missing is None or site.role not in roles:
            continue
        if site.name in placement.options:
            histogram = statistics.histograms[site.name]
            twin = activation_grids.search_grid(missing.spec, histogram)
            errors = [activation_grids.error(grid, histogram) for grid in (grid_of(site), twin)]
            found[site.role, missing.why] += errors[1] < (1 - must_save) * errors[0]
        elif everywhere:
            found[site.role, placement.skipped[site.name]] += 1
    return [
        f"{count} inputs behind {_WORDS[role]} go without the twin grids that this method would "
        f"give them on {placement.target}: {why}"
        for (role, why), count in found.items()
        if count
    ]
