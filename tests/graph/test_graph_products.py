"""Products of two activations and of one with a table: canonical forms, roles, what stays equal."""

from __future__ import annotations

import pytest
import torch
from paired_models import (
    HEADS,
    KINDS,
    SIDE,
    LinearAttention,
    RelativePositions,
    TalkingHeads,
    TurnedAttention,
    paired,
    photographs,
)
from torch import Tensor, nn

from edgevit.calibration.rewrites.heads import equalize_heads
from edgevit.calibration.statistics.ranges import observe_ranges
from edgevit.graph.attention import find_self_divided
from edgevit.graph.capture import graph_from_module
from edgevit.graph.channels import head_channels
from edgevit.graph.interpret import run_graph
from edgevit.graph.model import Gemm, Graph, Role
from edgevit.graph.shapes import shape_of
from edgevit.progress import no_progress
from edgevit.quantizers.quantized_graph import float_product


class TablesOfHeads(nn.Module):
    """Scores to which q times a table of every head is added."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.table = nn.Linear(16, 48), nn.Parameter(torch.randn(HEADS, 8, 16))

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(x).reshape(x.shape[0], 16, 3, HEADS, 8).permute(2, 0, 3, 1, 4)
        q, k, v = heads.unbind(0)
        scores = q @ k.transpose(-1, -2) + q @ self.table
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def captured(*kinds: type[nn.Module]) -> tuple[nn.Module, Graph]:
    model = paired(*kinds)
    return model, graph_from_module(model, (3, SIDE, SIDE))


def products(graph: Graph, kind: str) -> list[Gemm]:
    return [gemm for gemm in graph.gemms if gemm.kind == kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_function_stays_the_same(kind: type[nn.Module], batch: int) -> None:
    model, graph = captured(kind)
    image = photographs(batch)
    torch.testing.assert_close(graph.forward(image), model(image), rtol=1e-5, atol=1e-5)


def test_the_batch_is_in_front_of_every_product() -> None:
    _, graph = captured()
    nodes = {node.name: node for node in graph.module.graph.nodes}
    for gemm in graph.gemms:
        assert shape_of(nodes[gemm.name])[0] < 0
        if gemm.constant != 0:
            assert shape_of(nodes[gemm.left.producer])[0] < 0


def test_relative_positions_stand_beside_an_attention() -> None:
    _, graph = captured(RelativePositions)
    assert len(products(graph, "qk")) == len(products(graph, "pv")) == 1
    tables = products(graph, "matmul")
    assert [(gemm.constant, gemm.right.role) for gemm in tables] == [(1, Role.FACTOR)] * 2
    for gemm in tables:
        stored = graph.stored(gemm)
        assert stored is not None
        assert stored.ndim == 3


def test_probabilities_are_brought_to_the_left() -> None:
    _, graph = captured(TurnedAttention)
    (product,) = products(graph, "pv")
    assert product.left.role is Role.SOFTMAX_OUT


def test_a_softmax_of_no_attention_keeps_its_role() -> None:
    class Mixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x @ x.transpose(1, 2)).softmax(1) @ x

    _, graph = captured(Mixed)
    left = [gemm.left.role for gemm in products(graph, "matmul")]
    assert left == [Role.LN_OUT, Role.SOFTMAX_OUT]


def test_one_matrix_for_the_whole_batch_is_a_linear() -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(1, 16, 16))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.matrix

    model, graph = captured(One)
    assert not products(graph, "matmul")
    torch.testing.assert_close(graph.forward(photographs(2)), model(photographs(2)))


def test_a_constant_on_the_left_with_the_batch_in_the_columns() -> None:
    class Columns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(16, 8, 16) / 4)

        def forward(self, x: Tensor) -> Tensor:
            # [tokens, 8, C] times [tokens, C, B]
            made = torch.bmm(self.table, x.permute(1, 2, 0)).permute(2, 0, 1)
            return torch.cat([made, made], -1)

    model, graph = captured(Columns)
    (gemm,) = products(graph, "matmul")
    assert gemm.constant == 1
    torch.testing.assert_close(graph.forward(photographs(3)), model(photographs(3)))


def test_a_constant_operand_is_there_once_per_image() -> None:
    _, graph = captured()
    seen: list[Gemm] = []

    def look(gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
        if right is not None:
            assert len(left) == len(right)
            assert len(left) % 3 == 0
            seen.append(gemm)
        return float_product(graph, gemm, left, right)

    image = photographs(3)
    torch.testing.assert_close(run_graph(graph, image, gemm=look), graph.forward(image))
    assert sum(gemm.constant is not None for gemm in seen) == 4


def test_channels_that_a_second_product_reads_are_left_alone() -> None:
    """q is multiplied by tables too: rescaling its heads for q k^T would change those products."""
    _, graph = captured(TablesOfHeads)
    (scores,) = products(graph, "qk")
    assert head_channels(graph, scores.left) is None
    assert head_channels(graph, scores.left, shared=True) is not None
    assert head_channels(graph, scores.right) is not None
    image = photographs(2)
    expected = graph.forward(image)
    ranges = observe_ranges(graph, image, 2, no_progress)
    equalize_heads(graph, ranges, {site.name for site in graph.sites})
    torch.testing.assert_close(graph.forward(image), expected, rtol=1e-5, atol=1e-5)


def test_a_product_divided_by_a_part_of_itself_is_found() -> None:
    _, graph = captured(LinearAttention, TalkingHeads)
    found = {node.name for node in find_self_divided(graph.module)}
    assert found == {products(graph, "matmul")[1].name}


def test_a_norm_of_the_scores_is_no_such_product() -> None:
    """Cosine attention divides q and k, not their product."""

    class Cosine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(16, 48)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (
                self.qkv(x).reshape(x.shape[0], 16, 3, HEADS, 8).permute(2, 0, 3, 1, 4).unbind(0)
            )
            q, k = (nn.functional.normalize(each, dim=-1) for each in (q, k))
            return ((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(2)

    _, graph = captured(Cosine)
    assert not find_self_divided(graph.module)
    assert len(products(graph, "qk")) == 1
