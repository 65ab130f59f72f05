"""Random chains of reshapes and permutes, against torch itself."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.fx import Graph, GraphModule, Node

from edgevit.graph.operators import aten
from edgevit.graph.passes.dead_code import dead_code
from edgevit.graph.passes.merge_layout import merge_layout
from edgevit.graph.rearrange import Rearrangement, chain_cost, is_rearranging
from edgevit.graph.rewrite import permute, reshape
from edgevit.graph.shapes import Shape, at_batch

BATCH = 11


def _factors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


@st.composite
def _regrouped(draw: Any, shape: Shape) -> Shape:
    """Draw another shape of as many elements; the batch stays its own dimension or joins one."""
    rest = abs(math.prod(shape))
    sizes: list[int] = []
    while rest > 1 and len(sizes) < 5:
        sizes.append(draw(st.sampled_from(_factors(rest))))
        rest //= sizes[-1]
    sizes.append(rest)
    at = draw(st.integers(0, len(sizes) - 1))
    sizes[at] = -sizes[at]
    return tuple(sizes)


@st.composite
def chains(draw: Any) -> tuple[Shape, list[Shape | list[int]]]:
    source: Shape = (-1, *draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=3)))
    shape, steps = source, []
    for _ in range(draw(st.integers(1, 6))):
        if draw(st.booleans()):
            order = draw(st.permutations(range(len(shape))))
            steps.append(list(order))
            shape = tuple(shape[d] for d in order)
        else:
            shape = draw(_regrouped(shape))
            steps.append(shape)
    return source, steps


def _module(source: Shape, steps: list[Shape | list[int]]) -> tuple[GraphModule, Node]:
    graph = Graph()
    node = image = graph.placeholder("image")
    image.meta = {"shape": source, "dtype": torch.float32, "module": ""}
    for step in steps:
        node = permute(node, step) if isinstance(step, list) else reshape(node, step)
    graph.output(node)
    return GraphModule(nn.Module(), graph), node


@settings(max_examples=60, deadline=None)
@given(chains())
def test_a_merged_chain_moves_the_same_elements(
    chain: tuple[Shape, list[Shape | list[int]]],
) -> None:
    source, steps = chain
    module, _ = _module(source, steps)
    numbers = torch.arange(math.prod(at_batch(source, BATCH))).reshape(at_batch(source, BATCH))
    before = module(numbers)
    cost = chain_cost([n for n in module.graph.nodes if is_rearranging(n)])
    merge_layout(module)
    dead_code(module)
    module.recompile()
    assert torch.equal(module(numbers), before)
    assert chain_cost([n for n in module.graph.nodes if is_rearranging(n)]) <= cost


def test_window_partition_and_reverse_cancel() -> None:
    steps = [
        (-1, 2, 7, 2, 7, 16),
        [0, 1, 3, 2, 4, 5],
        (-4, 49, 16),
        (-1, 2, 2, 7, 7, 16),
        [0, 1, 3, 2, 4, 5],
        (-1, 14, 14, 16),
    ]
    module, _ = _module((-1, 14, 14, 16), steps)
    merge_layout(module)
    dead_code(module)
    assert not [n for n in module.graph.nodes if n.op == "call_function"]


def test_heads_take_one_permute() -> None:
    rearrangement = Rearrangement((-1, 17, 2, 16))
    _, last = _module((-1, 17, 2, 16), [[0, 2, 1, 3], [0, 1, 3, 2]])
    for node in last.graph.nodes:
        assert node.target is not aten.permute.default or rearrangement.follow(node)
    assert rearrangement.steps() == [("permute", (0, 2, 3, 1))]
