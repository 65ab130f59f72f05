"""Cuts a whole graph into parts that follow each other, one transformer block to a part.

What stands before the first block or between two (patch embedding, patch merging) belongs to the
block behind it; what stands after the last one (norm, pooling, head) is the last part. A block
ends no part if something behind it reads what was computed before its end, as decoders do.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgevit.graph.blocks import blocks_of
from edgevit.graph.layernorm import LayerNormFeed, ln_of
from edgevit.graph.model import Graph


@dataclass(frozen=True, kw_only=True)
class Part:
    """A stretch of a graph that one activation enters and one leaves.

    Args:
        name: Module path of its block, or "head".
        start: fx node name of what enters.
        stop: fx node name of what leaves, None for the logits.
        gemms: Names of its products in execution order.
    """

    name: str
    start: str
    stop: str | None
    gemms: tuple[str, ...]


def feeds_in(graph: Graph, part: Part) -> tuple[LayerNormFeed, ...]:
    """Return the LayerNorms inside a part that feed nothing but linears of the part."""
    order = {node.name: at for at, node in enumerate(graph.module.graph.nodes)}
    found = {}
    for name in part.gemms:
        feed = ln_of(graph, graph.gemm(name))
        inside = feed is not None and order[feed.ln] > order[part.start]
        if feed is not None and inside and set(feed.linears) <= set(part.gemms):
            found[feed.ln] = feed
    return tuple(found.values())


def parts_of(graph: Graph) -> tuple[Part, ...]:
    """Return the parts in execution order; a graph without blocks is one part."""
    order = {node.name: at for at, node in enumerate(graph.module.graph.nodes)}
    start = next(n.name for n in graph.module.graph.nodes if n.op == "placeholder")
    parts = []
    cuts = _cuts(graph)
    blocks = [(b.name, b.output) for b in blocks_of(graph) if b.output in cuts]
    for name, stop in [*blocks, ("head", None)]:
        end = len(order) if stop is None else order[stop]
        inside = tuple(g.name for g in graph.gemms if order[start] < order[g.name] <= end)
        parts.append(Part(name=name, start=start, stop=stop, gemms=inside))
        start = stop or start
    return tuple(parts)


def _cuts(graph: Graph) -> set[str]:
    """Return the nodes of which alone, and of constants, everything later is computed."""
    nodes = [node for node in graph.module.graph.nodes if node.op not in {"get_attr", "output"}]
    order = {node: at for at, node in enumerate(nodes)}
    found, earliest = set(), len(nodes)
    for at in range(len(nodes) - 1, -1, -1):
        if earliest >= at:
            found.add(nodes[at].name)
        read = [order[source] for source in nodes[at].all_input_nodes if source in order]
        earliest = min([earliest, *read])
    return found
