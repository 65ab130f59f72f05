"""Runs a canonical graph node by node, so that products can be replaced and tensors observed.

Each intermediate tensor is freed after its last use: peak memory is that of the widest point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from edgevit.graph.model import Gemm, Graph
from edgevit.graph.shapes import args_of, target_of

Product = Callable[[Gemm, Tensor, "Tensor | None"], Tensor]
"""Computes a gemm: (gemm, left, right) -> output; right is None for a linear."""
Convolution = Callable[[Gemm, Tensor], Tensor]
"""Computes a convolution of its whole input: (gemm, [B, C, H, W]) -> [B, O, H', W']."""
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
    conv: Convolution | None = None,
    observe: Observer | None = None,
    keep: Keeper | None = None,
) -> Tensor:
    """Return logits float32 [B, classes] of images float32 [B, 3, H, W].

    Args:
        graph: What to run; gradients flow as in `graph.forward`.
        image: Normalised images.
        gemm: Replaces the computation of every gemm node. For a linear `right` is None: the
            callee reads weight and bias itself by `graph.weight(gemm)`. A convolution is a linear
            of all its patches at once.
        conv: Replaces the computation of every convolution among them in place of `gemm`.
        observe: Sees the fx name and output of the image and of every operator.
        keep: Replaces the image and every output, such as by rounding it to a narrower type.
    """
    first = next(n for n in graph.module.graph.nodes if n.op == "placeholder")
    return run_part(
        graph, first.name, image, None, gemm=gemm, conv=conv, observe=observe, keep=keep
    )


def run_part(
    graph: Graph,
    start: str,
    value: Tensor,
    stop: str | None,
    *,
    gemm: Product | None = None,
    conv: Convolution | None = None,
    observe: Observer | None = None,
    keep: Keeper | None = None,
    constants: Mapping[str, Tensor] = NO_CONSTANTS,
) -> Tensor:
    """Return what node `stop` computes when node `start` has given `value`.

    Args:
        start, stop: fx node names; everything computed in between may depend on `start` and
            constants only. `stop` None means the logits.
        gemm, conv, observe, keep: As for `run_graph`.
        constants: Used in place of the graph's own of these names.

    Raises:
        KeyError: A node in between needs another tensor from before `start`.
    """
    nodes = {node.name: node for node in graph.module.graph.nodes}
    last = nodes[stop] if stop else args_of(graph.module.graph.output_node())[0]
    value = value if keep is None else keep(start, value)
    if observe is not None:
        observe(start, value)
    return run_nodes(
        graph,
        _between(nodes.values(), nodes[start], last),
        {start: value},
        gemm=gemm,
        conv=conv,
        observe=observe,
        keep=keep,
        constants=constants,
        last_uses=_last_uses(graph),
    )


def run_nodes(
    graph: Graph,
    nodes: Sequence[Node],
    values: dict[str, Any],
    *,
    gemm: Product | None = None,
    conv: Convolution | None = None,
    observe: Observer | None = None,
    keep: Keeper | None = None,
    constants: Mapping[str, Tensor] = NO_CONSTANTS,
    last_uses: Mapping[str, Sequence[str]] = NO_USES,
) -> Tensor:
    """Run nodes in order and return the output of the last one.

    Args:
        values: fx name -> what is known already (such nodes are not run again); filled with
            the output of every node that is run.
        gemm, conv, observe, keep, constants: As for `run_part`.
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
            result: Any = _product(gemm, conv, gemms[node.name], node, values)
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


def _product(
    gemm: Product,
    conv: Convolution | None,
    which: Gemm,
    node: Node,
    values: Mapping[str, Any],
) -> Tensor:
    left, *rest = (values[source.name] for source in args_of(node)[:2])
    if which.window is None:
        return gemm(which, left, None if which.weight is not None else rest[0])
    if conv is not None:
        return conv(which, left)
    return which.window.fold(gemm(which, which.window.unfold(left), None))


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
