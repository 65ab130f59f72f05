"""Cuts a canonical graph into its transformer blocks, for methods that work block by block.

A block is found from the module paths of its products and from the residual stream alone: the
smallest module that holds an attention and products behind the attention's projection (the MLP),
from where the first shortcut leaves the stream to where the last one joins it again.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from edgevit.graph.model import Gemm, Graph
from edgevit.graph.operators import LAYOUT, aten


@dataclass(frozen=True, kw_only=True)
class Block:
    """One transformer block.

    Args:
        name: Module path, such as ``"blocks.0"``.
        gemms: Names of its products in execution order.
        input: fx node name of the one activation that enters it.
        output: fx node name of its last residual addition.
    """

    name: str
    gemms: tuple[str, ...]
    input: str
    output: str


def blocks_of(graph: Graph) -> tuple[Block, ...]:
    """Return the transformer blocks in execution order.

    An attention without a residual stream around it, or one that more than one activation
    enters, belongs to no block; what stands between blocks (patch embedding, patch merging,
    head) never does.
    """
    nodes = {node.name: node for node in graph.module.graph.nodes}
    found = []
    for gemm in graph.gemms:
        projection = _projection(graph, gemm) if gemm.kind == "pv" else None
        block = None if projection is None else _block(graph, nodes, gemm, projection)
        if block is not None:
            found.append(block)
    return tuple(found)


def block_nodes(graph: Graph, block: Block) -> tuple[Node, ...]:
    """Return the nodes that compute the block's output from its input, in execution order."""
    nodes = {node.name: node for node in graph.module.graph.nodes}
    inside, _ = _between(nodes[block.input], nodes[block.output])
    return tuple(node for node in graph.module.graph.nodes if node in inside)


def _projection(graph: Graph, attention: Gemm) -> Gemm | None:
    """Return the first linear behind the product P V of an attention."""
    later = graph.gemms[graph.gemms.index(attention) + 1 :]
    return next((gemm for gemm in later if gemm.kind == "linear"), None)


def _block(graph: Graph, nodes: dict[str, Node], attention: Gemm, projection: Gemm) -> Block | None:
    owner = _owner(graph, attention, projection)
    if owner is None:
        return None
    name, last = owner
    first_sum, output = _residual(nodes[projection.name]), _residual(nodes[last.name])
    entry = None if first_sum is None else _entry(first_sum, nodes[projection.name])
    if entry is None or output is None:
        return None
    inside, closed = _between(entry, output)
    gemms = tuple(g.name for g in graph.gemms if nodes[g.name] in inside)
    if not closed or attention.name not in gemms:
        return None
    return Block(name=name, gemms=gemms, input=entry.name, output=output.name)


def _owner(graph: Graph, attention: Gemm, projection: Gemm) -> tuple[str, Gemm] | None:
    """Return the smallest module with this attention and an MLP, and its last product."""
    behind = graph.gemms[graph.gemms.index(projection) + 1 :]
    path = attention.module
    while "." in path:
        path = path.rpartition(".")[0]
        inside = [gemm for gemm in behind if gemm.module.startswith(f"{path}.")]
        if any(gemm.kind in {"qk", "pv"} for gemm in inside):
            return None
        if inside and projection.module.startswith(f"{path}."):
            return path, inside[-1]
    return None


def _residual(node: Node) -> Node | None:
    """Return the first sum of two activations behind a product."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.target is aten.add.Tensor and len(_activations(node)) == 2:
            return node
    return None


def _entry(residual: Node, projection: Node) -> Node | None:
    """Return where the shortcut into a residual sum comes from, before any layout."""
    shortcuts = [n for n in _activations(residual) if projection not in _between(None, n)[0]]
    if len(shortcuts) != 1:
        return None
    node = shortcuts[0]
    while node.target in LAYOUT and len(_activations(node)) == 1:
        node = _activations(node)[0]
    return node


def _activations(node: Node) -> list[Node]:
    return [source for source in node.all_input_nodes if source.op != "get_attr"]


def _between(entry: Node | None, output: Node) -> tuple[set[Node], bool]:
    """Return the nodes behind `entry` that lead to `output`; whether `entry` is the only way in."""
    found, todo = {output}, [output]
    while todo:
        for source in todo.pop().all_input_nodes:
            if source is not entry and source not in found:
                found.add(source)
                todo.append(source)
    return found, not any(node.op == "placeholder" for node in found)
