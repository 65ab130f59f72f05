"""Static shapes of every tensor of a graph, with the dimension that follows the batch as -1."""

from __future__ import annotations

import torch
from torch import Tensor

from edgevit.errors import UnsupportedError
from edgevit.graph.interpret import run_graph
from edgevit.graph.model import Graph

Shapes = dict[str, tuple[int, ...]]


@torch.no_grad()
def shapes_of(graph: Graph) -> Shapes:
    """Return fx node name -> shape; found by running batches of one and two.

    Raises:
        UnsupportedError: More than one dimension of a tensor follows the batch (EV310).
    """
    found: list[Shapes] = []
    for batch in (1, 2):
        seen: Shapes = {}

        def note(name: str, value: Tensor, seen: Shapes = seen) -> None:
            seen[name] = tuple(value.shape)

        run_graph(graph, torch.zeros(batch, *graph.input_size), observe=note)
        found.append(seen)
    return {name: _joined(name, found[0][name], found[1][name]) for name in found[0]}


def _joined(name: str, one: tuple[int, ...], two: tuple[int, ...]) -> tuple[int, ...]:
    shape = tuple(a if a == b else -1 for a, b in zip(one, two, strict=True))
    if shape.count(-1) > 1:
        raise UnsupportedError(
            "EV310",
            "More than one dimension of a tensor depends on the batch size.",
            where=name,
            why=f"Its shape is {one} for one image and {two} for two.",
            try_next="Rewrite the model so that only one dimension follows the batch.",
        )
    return shape
