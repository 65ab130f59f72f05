"""Units that get one width: single layers, or whole attention and MLP modules as in Liu et al.

Weights and activations have units of their own. Layers that read one tensor share one
activation width, because the engine rounds the tensor once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from edgevit.graph.blocks import blocks_of
from edgevit.graph.model import Gemm, Graph, Role, Site
from edgevit.graph.shapes import at_batch, shape_of
from edgevit.graph.sharing import shared_grid_sites


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Products that get one width.

    Args:
        gemms: Their names in execution order.
        cost: Bits this unit takes per bit of width: its weights, or its activation values of
            one image.
        maps: Names of the products P V in its module, whose left operand is an attention map.
    """

    gemms: tuple[str, ...]
    cost: int
    maps: tuple[str, ...] = ()


def single_layers(graph: Graph) -> list[set[str]]:
    """Return every product on its own."""
    return [{gemm.name} for gemm in graph.gemms]


def modules(graph: Graph) -> list[set[str]]:
    """Return attentions (q, k, v, both products, projection), MLPs, and what else there is."""
    found: list[set[str]] = []
    for block in blocks_of(graph):
        inside = [graph.gemm(name) for name in block.gemms]
        kinds = [gemm.kind for gemm in inside]
        projection = kinds.index("pv") + 1
        found += [{g.name for g in inside[: projection + 1]}]
        found += [{g.name for g in inside[projection + 1 :]}]
    known = set().union(*found)
    return [group for group in found if group] + [
        {gemm.name} for gemm in graph.gemms if gemm.name not in known
    ]


def weight_units(graph: Graph, groups: Iterable[set[str]], sites: set[str]) -> list[Unit]:
    """Return the units of the weights among `sites`."""
    units = []
    for group in groups:
        inside = [g for g in graph.gemms if g.name in group and g.weight is not None]
        linears = [g for g in inside if g.right.name in sites]
        cost = sum(graph.weight(g).numel() for g in linears)
        names = tuple(g.name for g in linears)
        units.append(Unit(gemms=names, cost=cost, maps=_maps(graph, group)))
    return [unit for unit in units if unit.cost]


def activation_units(graph: Graph, groups: Iterable[set[str]], sites: set[str]) -> list[Unit]:
    """Return the units of the activations among `sites`; the image keeps its 8 bits."""
    sizes = {n.name: n for n in graph.module.graph.nodes}
    units = []
    for group in _join(graph, groups):
        inside = [g for g in graph.gemms if g.name in group]
        read = {s.name: s for g in inside for s in activation_sites(graph, g) if s.name in sites}
        cost = sum(prod(at_batch(shape_of(sizes[s.producer]), 1)) for s in read.values())
        names = tuple(g.name for g in inside)
        units.append(Unit(gemms=names, cost=cost, maps=_maps(graph, group)))
    return [unit for unit in units if unit.cost]


def _maps(graph: Graph, group: set[str]) -> tuple[str, ...]:
    return tuple(g.name for g in graph.gemms if g.name in group and g.kind == "pv")


def activation_sites(graph: Graph, gemm: Gemm) -> list[Site]:
    """Return the activations a product is the first to read, without the image."""
    sites = [gemm.left] if gemm.weight is not None else [gemm.left, gemm.right]
    leader = shared_grid_sites(graph)
    return [s for s in sites if s.role is not Role.PATCH_IN and leader[s.name] == s.name]


def _join(graph: Graph, groups: Iterable[set[str]]) -> list[set[str]]:
    """Return the groups, those that read one tensor put together."""
    leader, found = shared_grid_sites(graph), [set(group) for group in groups]
    for gemm in graph.gemms:
        first = graph.site(leader[gemm.left.name]).gemm
        at = next(i for i, group in enumerate(found) if first in group)
        other = next(i for i, group in enumerate(found) if gemm.name in group)
        if at != other:
            found[at] |= found[other]
            found[other] = set()
    return [group for group in found if group]
