"""Gives codebooks to the activations where they are worth their time, up to a budget of it.

An engine looks every element of such an activation up in a table, so that the time grows with their
number; what is saved is Fisher-weighted error, which adds up over activations. The activations are
taken in the order of error saved per element until the budget is full, which is the greedy solution
of a knapsack of many small things (Dantzig, "Discrete-variable extremum problems", Operations
Research 5(2), 1957).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

from edgevit.calibration.run import Run
from edgevit.calibration.search.parallel import SearchChoices
from edgevit.calibration.statistics.fisher import Statistics
from edgevit.calibration.statistics.ranges import Ranges
from edgevit.graph.model import Graph, Site
from edgevit.graph.shapes import at_batch, shape_of
from edgevit.graph.sharing import shared_grid_sites
from edgevit.quantizers.base import Grid
from edgevit.quantizers.codebook import CodebookGrid
from edgevit.quantizers.spec import Placement

Choose = Callable[[Site, bool], Grid]
"""(site, whether codebooks may be used) -> its grid."""


def without_twins(placement: Placement, site: Site, choices: SearchChoices) -> SearchChoices:
    """Return the choices for a site: no twin grid where the target offers a codebook too.

    A twin grid takes more operators, on a CPU four times the time of a table for each element, and
    has more error at the same width.
    """
    return replace(choices, twin=False) if offers_codebook(placement, site.name) else choices


def offers_codebook(placement: Placement, site: str) -> bool:
    """Return whether the target offers a codebook at a site, by its name."""
    return any(spec.kind in CodebookGrid.kinds for spec in placement.options.get(site, ()))


def affordable_grids(
    run: Run, ranges: Ranges, statistics: Statistics, choices: SearchChoices, choose: Choose
) -> list[tuple[Site, Grid]]:
    """Return the sites of all activations with their grids; of sites that share a tensor the first.

    Args:
        choices: Its `codebook_share` is the budget, as a share of the elements of all activations.
        choose: Finds a site's best grid.
    """
    elements = _elements(run, ranges)
    savings: list[tuple[float, Site, Grid, Grid]] = []  # each per element
    chosen: list[tuple[Site, Grid]] = []
    for site in (site for site in run.graph.sites if site.name in elements):
        found = choose(site, True)
        if isinstance(found, CodebookGrid):
            plain, histogram = choose(site, False), statistics.histograms[site.name]
            saved = plain.error(histogram) - found.error(histogram)
            savings.append((saved / elements[site.name], site, found, plain))
        else:
            chosen.append((site, found))
    left = choices.codebook_share * sum(elements.values())
    for _, site, found, plain in sorted(savings, key=lambda one: one[0], reverse=True):
        fits = elements[site.name] <= left
        left -= elements[site.name] * fits
        chosen.append((site, found if fits else plain))
    return chosen


def _elements(run: Run, ranges: Ranges) -> dict[str, int]:
    """Return the first site of each tensor -> the number of its elements for one image."""
    leader, sizes = shared_grid_sites(run.graph), _sizes(run.graph)
    return {
        site.name: sizes[site.producer]
        for site in run.graph.sites
        if site.name in ranges and leader[site.name] == site.name and site.producer in sizes
    }


def _sizes(graph: Graph) -> dict[str, int]:
    nodes = graph.module.graph.nodes
    computed = [node for node in nodes if node.op in ("call_function", "placeholder")]
    return {node.name: prod(at_batch(shape_of(node), 1)) for node in computed}
