"""Multiply-adds counted from the graph: torch's own counter, and what is listed.

The figures of the literature are in test_graph_libraries.py, with the whole models.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgevit.graph.capture import graph_from_module
from edgevit.graph.model import Graph
from edgevit.graph.multiply_adds import multiply_adds
from edgevit.zoo import load_model
from edgevit.zoo.embedded import EMBEDDED_MODELS, embedded_config


def counted_by_torch(model: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Two operations per multiply-add; on meta tensors, where attention is counted too."""
    image = torch.empty(1, *input_size, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(model).to("meta")(image)
    return int(counter.get_total_flops()) // 2


def test_torch_counts_the_same_in_the_models_of_three_libraries(
    small: tuple[nn.Module, Graph],
) -> None:
    model, graph = small
    assert multiply_adds(graph) == counted_by_torch(model, graph.input_size)


@pytest.mark.parametrize("groups", [1, 3])
def test_a_convolution_counts_its_own_inputs_only(groups: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3, groups=groups), nn.Flatten(), nn.Linear(6 * 36, 4))
    graph = graph_from_module(model.eval(), (3, 8, 8))
    assert multiply_adds(graph) == 6 * 36 * 9 * 3 // groups + 6 * 36 * 4


@pytest.mark.parametrize("name", EMBEDDED_MODELS)
def test_embedded_models_are_listed_with_what_is_counted(name: str) -> None:
    loaded = load_model(name)
    graph = graph_from_module(loaded.model, loaded.preprocessing.input_size, check=False)
    assert embedded_config(name)["flops"] == multiply_adds(graph)
