"""Runs a canonical graph node by node, so that products can be replaced and tensors observed.

Each intermediate tensor is freed after its last use: peak memory is that of the widest point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from edgevit.graph.model import Gemm, Graph
from edgevit.graph.shapes import args_of, target_of

Product = Callable[[Gemm, Tensor, "Tensor | None"], Tensor]
"""Computes a gemm: (gemm, left, right) -> output; right is None for a linear."""
NO_CONSTANTS: Mapping[str, Tensor] = {}
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
    """Return logits float32 [B, classes] of images float32 [B, 3, H, W].

    Args:
        graph: What to run; gradients flow as in `graph.forward`.
        image: Normalised images.
        gemm: Replaces the computation of every gemm node. For a linear `right` is None: the
            callee reads weight and bias itself by `graph.constant(gemm.weight)`.
        observe: Sees the fx name and output of the image and of every operator.
        keep: Replaces the image and every output, such as by rounding it to a narrower type.
    """
    first = next(n for n in graph.module.graph.nodes if n.op == "placeholder")
    return run_part(graph, first.name, image, None, gemm=gemm, observe=observe, keep=keep)


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
            constants only. `stop` None means the logits.
        gemm, observe, keep: As for `run_graph`.
        constants: Used in place of the graph's own of these names.

    Raises:
        KeyError: A node in between needs another tensor from before `start`.
    """
    gemms = {g.name: g for g in graph.gemms} if gemm is not None else {}
    last_use = _last_uses(graph)
    values: dict[Node, Any] = {}
    begun = False
    for node in graph.module.graph.nodes:
        if node.op == "output":
            break
        if node.op == "get_attr":
            name = str(node.target)
            values[node] = constants[name] if name in constants else graph.constant(name)
            continue
        begun = begun or node.name == start
        if not begun:
            continue
        if node.name == start:
            result: Any = value
        elif gemm is not None and node.name in gemms:
            result = _product(gemm, gemms[node.name], node, values)
        else:
            args, kwargs = map_arg((args_of(node), node.kwargs), values.__getitem__)
            result = target_of(node)(*args, **kwargs)
        values[node] = result = result if keep is None else keep(node.name, result)
        if observe is not None:
            observe(node.name, result)
        if node.name == stop:
            return values[node]  # type: ignore[no-any-return]
        for dead in last_use.get(node, ()):
            values.pop(dead, None)
    logits: Tensor = values[args_of(node)[0]]
    return logits


def _product(gemm: Product, which: Gemm, node: Node, values: dict[Node, Any]) -> Tensor:
    left: Tensor = values[args_of(node)[0]]
    right = None if which.kind == "linear" else values[args_of(node)[1]]
    return gemm(which, left, right)


def _last_uses(graph: Graph) -> dict[Node, list[Node]]:
    """Return node -> the nodes whose value nobody needs after it."""
    uses: dict[Node, list[Node]] = {}
    seen: set[Node] = set()
    for node in reversed(graph.module.graph.nodes):
        for source in node.all_input_nodes:
            if source not in seen:
                seen.add(source)
                uses.setdefault(node, []).append(source)
    return uses
