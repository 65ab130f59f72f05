"""Channels of heads, proven by changing weights and watching what moves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgevit.graph.channels import channels_of, head_channels, input_head_channels
from edgevit.graph.interpret import run_graph
from edgevit.graph.model import Gemm, Graph
from edgevit.graph.rewrite import multiply_output


def _operand(graph: Graph, gemm: Gemm, operand: int, images: Tensor) -> Tensor:
    seen: list[Tensor] = []

    def look(which: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
        if right is None:
            bias = graph.constant(str(which.bias))
            return nn.functional.linear(left, graph.weight(which), bias)
        if which == gemm:
            seen.append((left, right)[operand])
        return left @ right

    run_graph(graph, images, gemm=look)
    return seen[0]


@pytest.mark.parametrize(("kind", "operand"), [("qk", 0), ("qk", 1), ("pv", 1)])
def test_rows_of_a_head_move_that_head_only(
    small: tuple[nn.Module, Graph], images: Tensor, kind: str, operand: int
) -> None:
    graph = small[1]
    gemm = [g for g in graph.gemms if g.kind == kind][-1]
    found = head_channels(graph, (gemm.left, gemm.right)[operand])
    assert found is not None
    linear, rows = graph.gemm(found[0]), found[1]
    before = _operand(graph, gemm, operand, images)  # [B, H, N, D] or [B, H, D, N]
    weight, bias = graph.constant(str(linear.weight)), graph.constant(str(linear.bias))
    factor = torch.ones(len(weight))
    factor[rows[1]] = 2.0
    graph.set_constant(str(linear.weight), weight * factor[:, None])
    graph.set_constant(str(linear.bias), bias * factor)
    after = _operand(graph, gemm, operand, images)
    expected = torch.ones(rows.shape[0])
    expected[1] = 2.0
    torch.testing.assert_close(after, before * expected[:, None, None])


def test_every_channel_is_where_it_is_said_to_be(vit: Graph, images: Tensor) -> None:
    gemm = next(g for g in vit.gemms if g.kind == "qk")
    for operand in (0, 1):
        found = head_channels(vit, (gemm.left, gemm.right)[operand])
        assert found is not None
        linear, rows = vit.gemm(found[0]), found[1]
        bias = torch.arange(96.0)
        vit.set_constant(str(linear.weight), torch.zeros(96, 32))
        vit.set_constant(str(linear.bias), bias)
        seen = _operand(vit, gemm, operand, images)
        seen = seen if operand == 0 else seen.transpose(-1, -2)  # [B, H, N, D]
        torch.testing.assert_close(seen[0, :, 0], bias[rows])


def test_columns_behind_the_attention(small: tuple[nn.Module, Graph], images: Tensor) -> None:
    graph = small[1]
    before = graph.forward(images)
    for gemm in [g for g in graph.gemms if g.kind == "pv"]:
        source, behind = head_channels(graph, gemm.right), input_head_channels(graph, gemm)
        assert source is not None
        assert behind is not None
        value, reader = graph.gemm(source[0]), graph.gemm(behind[0])
        assert source[1].shape == behind[1].shape
        factor = torch.linspace(0.5, 2.0, len(source[1]))  # [H]
        for linear, at, factors in (
            (value, source[1], factor),
            (reader, behind[1], 1.0 / factor),
        ):
            weight = graph.constant(str(linear.weight))
            scale = torch.ones(weight.shape[0 if linear is value else 1])
            scale[at.reshape(-1)] = factors[:, None].expand(at.shape).reshape(-1)
            shape = (-1, 1) if linear is value else (1, -1)
            graph.set_constant(str(linear.weight), weight * scale.reshape(shape))
            if linear is value:
                graph.set_constant(str(linear.bias), graph.constant(str(linear.bias)) * scale)
    torch.testing.assert_close(graph.forward(images), before, rtol=1e-4, atol=1e-5)


def test_a_tensor_of_two_linears_has_no_channels(vit: Graph) -> None:
    residual = next(n for n in vit.module.graph.nodes if n.name == "add_1")
    assert channels_of(vit, residual.name) is None
    softmax = next(g for g in vit.gemms if g.kind == "pv").left
    assert head_channels(vit, softmax) is None


def test_channels_of_a_linear_are_in_order(vit: Graph) -> None:
    found = channels_of(vit, vit.gemms[1].name)
    assert found is not None
    assert found[0] == vit.gemms[1].name
    assert torch.equal(found[1], torch.arange(96).expand(1, 17, 96))


def test_multiply_output_keeps_the_attention(vit: Graph, images: Tensor) -> None:
    gemm = next(g for g in vit.gemms if g.kind == "qk")
    before = vit.forward(images)
    rows = head_channels(vit, gemm.left)
    assert rows is not None
    linear = vit.gemm(rows[0])
    factor = torch.tensor([0.5, 4.0])
    scale = torch.ones(96)
    scale[rows[1].reshape(-1)] = factor[:, None].expand(rows[1].shape).reshape(-1)
    weight, bias = vit.constant(str(linear.weight)), vit.constant(str(linear.bias))
    vit.set_constant(str(linear.weight), weight * scale[:, None])
    vit.set_constant(str(linear.bias), bias * scale)
    kinds = [g.kind for g in vit.gemms]
    multiply_output(vit, gemm.name, (1 / factor).reshape(1, 2, 1, 1))
    assert [g.kind for g in vit.gemms] == kinds
    torch.testing.assert_close(vit.forward(images), before, rtol=1e-4, atol=1e-5)
