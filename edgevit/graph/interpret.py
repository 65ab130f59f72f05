"""Runs a canonical graph node by node, so that products can be replaced and tensors observed.

Each intermediate tensor is freed after its last use: peak memory is that of the widest point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from edgevit.graph.model import Gemm, Graph
from edgevit.graph.outputs import output_nodes
from edgevit.graph.shapes import args_of, target_of

Product = Callable[[Gemm, Tensor, "Tensor | None"], Tensor]
"""Computes a gemm: (gemm, left, right) -> output; right is None for a linear."""
NO_CONSTANTS: Mapping[str, Tensor] = {}
NO_USES: Mapping[str, Sequence[str]] = {}
Observer = Callable[[str, Tensor], None]
Keeper = Callable[[str, Tensor], Tensor]
"""What is kept of an output: (fx name, output) -> the tensor later operators read."""


def run_graph(
    graph: Graph,
    image: Tensor,
    *,
    gemm: Product | None = None,
    observe: Observer | None = None,
    keep: Keeper | None = None,
) -> Tensor:
    """Return the main output of images float32 [B, 3, H, W]; the whole graph is run.

    Args:
        graph: What to run; gradients flow as in `graph.forward`.
        image: Normalised images.
        gemm: Replaces the computation of every gemm node. For a linear `right` is None: the
            callee reads weight and bias itself by `graph.weight(gemm)`.
        observe: Sees the fx name and output of the image and of every operator.
        keep: Replaces the image and every output, such as by rounding it to a narrower type.
    """
    found = run_outputs(graph, image, gemm=gemm, observe=observe, keep=keep)
    return found[graph.outputs[0]]


def run_outputs(
    graph: Graph,
    image: Tensor,
    *,
    gemm: Product | None = None,
    observe: Observer | None = None,
    keep: Keeper | None = None,
) -> dict[str, Tensor]:
    """Return every output by name; arguments as for `run_graph`."""
    nodes = list(graph.module.graph.nodes)
    first = next(node for node in nodes if node.op == "placeholder")
    value = image if keep is None else keep(first.name, image)
    if observe is not None:
        observe(first.name, value)
    values: dict[str, Any] = {first.name: value}
    run_nodes(
        graph,
        [node for node in nodes if node.op not in {"placeholder", "output"}],
        values,
        gemm=gemm,
        observe=observe,
        keep=keep,
        last_uses=_last_uses(graph),
    )
    ends = output_nodes(graph.module)
    return {name: values[node.name] for name, node in zip(graph.outputs, ends, strict=True)}


def run_part(
    graph: Graph,
    start: str,
    value: Tensor,
    stop: str | None,
    *,
    gemm: Product | None = None,
    observe: Observer | None = None,
    keep: Keeper | None = None,
    constants: Mapping[str, Tensor] = NO_CONSTANTS,
) -> Tensor:
    """Return what node `stop` computes when node `start` has given `value`.

    Args:
        start, stop: fx node names; everything computed in between may depend on `start` and
            constants only. `stop` None means the outputs that come behind `start`: of several
            their elements side by side, [B, elements].
        gemm, observe, keep: As for `run_graph`.
        constants: Used in place of the graph's own of these names.

    Raises:
        KeyError: A node in between needs another tensor from before `start`.
    """
    nodes = {node.name: node for node in graph.module.graph.nodes}
    ends = [nodes[stop]] if stop else _behind(graph, start)
    value = value if keep is None else keep(start, value)
    if observe is not None:
        observe(start, value)
    values: dict[str, Any] = {start: value}
    run_nodes(
        graph,
        _between(nodes.values(), nodes[start], ends[-1]),
        values,
        gemm=gemm,
        observe=observe,
        keep=keep,
        constants=constants,
        last_uses=_last_uses(graph),
    )
    found = [values[node.name] for node in ends]
    return found[0] if len(found) == 1 else torch.cat([one.flatten(1) for one in found], 1)


def run_nodes(
    graph: Graph,
    nodes: Sequence[Node],
    values: dict[str, Any],
    *,
    gemm: Product | None = None,
    observe: Observer | None = None,
    keep: Keeper | None = None,
    constants: Mapping[str, Tensor] = NO_CONSTANTS,
    last_uses: Mapping[str, Sequence[str]] = NO_USES,
) -> Tensor:
    """Run nodes in order and return the output of the last one.

    Args:
        values: fx name -> what is known already (such nodes are not run again); filled with
            the output of every node that is run.
        gemm, observe, keep, constants: As for `run_part`.
        last_uses: fx name of a node -> what is dropped from `values` behind it.

    Raises:
        KeyError: A node needs a tensor that is neither known nor computed by one before it.
    """
    gemms = {g.name: g for g in graph.gemms} if gemm is not None else {}
    for node in nodes:
        if node.name in values:
            continue
        if node.op == "get_attr":
            name = str(node.target)
            values[node.name] = constants[name] if name in constants else graph.constant(name)
            continue
        if gemm is not None and node.name in gemms:
            result: Any = _product(gemm, gemms[node.name], node, values)
        else:
            args, kwargs = map_arg((args_of(node), node.kwargs), lambda n: values[n.name])
            result = target_of(node)(*args, **kwargs)
        values[node.name] = result = result if keep is None else keep(node.name, result)
        if observe is not None:
            observe(node.name, result)
        for dead in last_uses.get(node.name, ()):
            values.pop(dead, None)
    last: Tensor = values[nodes[-1].name]
    return last


def _behind(graph: Graph, start: str) -> list[Node]:
    """Return the nodes of the outputs from `start` on, in execution order."""
    order = {node: at for at, node in enumerate(graph.module.graph.nodes)}
    first = next(at for node, at in order.items() if node.name == start)
    ends = {node for node in output_nodes(graph.module) if order[node] >= first}
    return sorted(ends, key=order.__getitem__)


def _between(nodes: Iterable[Node], first: Node, last: Node) -> list[Node]:
    """Return what is run to get from one node to another: constants and all that stands between."""
    begun, found = False, []
    for node in nodes:
        begun = begun or node is first
        if begun or node.op == "get_attr":
            found.append(node)
        if begun and node is last:
            break
    return found


def _product(gemm: Product, which: Gemm, node: Node, values: Mapping[str, Any]) -> Tensor:
    left, *rest = (values[source.name] for source in args_of(node)[:2])
    return gemm(which, left, None if which.kind == "linear" else rest[0])


def _last_uses(graph: Graph) -> dict[str, list[str]]:
    """Return node -> the nodes whose value nobody needs after it, by their fx names."""
    uses: dict[str, list[str]] = {}
    seen: set[Node] = set()
    for node in reversed(graph.module.graph.nodes):
        for source in node.all_input_nodes:
            if source not in seen:
                seen.add(source)
                uses.setdefault(node.name, []).append(source.name)
    return uses
