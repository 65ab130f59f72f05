"""One grid for all layers that read one tensor, so that an engine rounds it once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from edgevit.graph.model import Graph, Site
from edgevit.graph.sharing import shared_grid_sites

AnyGrid = TypeVar("AnyGrid")


class GridChooser(Generic[AnyGrid]):
    """The grids of a graph's activations, chosen one by one.

    Args:
        graph: Whose sites they are.
        choose: Returns a new grid for a site.
    """

    def __init__(self, graph: Graph, choose: Callable[[Site], AnyGrid]) -> None:
        self.choose = choose
        self._leader = shared_grid_sites(graph)
        self._kept: dict[str, AnyGrid] = {}

    def __contains__(self, site: Site) -> bool:
        """Return whether the grid of a site's tensor is settled."""
        return self._leader[site.name] in self._kept

    def grid(self, site: Site) -> AnyGrid:
        """Return the grid of a site's tensor; the first site that asks settles it."""
        if site not in self:
            self.keep(site, self.choose(site))
        return self._kept[self._leader[site.name]]

    def proposed(self, site: Site) -> AnyGrid:
        """Return the same, but settle nothing."""
        return self.grid(site) if site in self else self.choose(site)

    def keep(self, site: Site, grid: AnyGrid) -> None:
        """Settle the grid of a site's tensor."""
        self._kept[self._leader[site.name]] = grid

    def share(self, site: Site, other: Site) -> bool:
        """Return whether two sites read one tensor."""
        return self._leader[site.name] == self._leader[other.name]
