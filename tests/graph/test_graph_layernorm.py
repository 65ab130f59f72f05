"""`ln_of`: which LayerNorms can be rescaled, and that doing so changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgevit.graph.capture import graph_from_module
from edgevit.graph.layernorm import LayerNormFeed, ln_of
from edgevit.graph.model import Graph, Role


def _feeds(graph: Graph) -> dict[str, LayerNormFeed]:
    found = {}
    for gemm in graph.gemms:
        feed = ln_of(graph, gemm)
        if feed is not None:
            found[feed.ln] = feed
    return found


def _fold(graph: Graph, feed: LayerNormFeed, generator: torch.Generator) -> None:
    """x' = (x - shift) / factor on the LayerNorm, the inverse on every linear."""
    gamma, beta = graph.constant(feed.weight), graph.constant(feed.bias)
    shift = torch.randn(gamma.shape, generator=generator)  # [C]
    factor = 0.5 + torch.rand(gamma.shape, generator=generator)  # [C]
    graph.set_constant(feed.weight, gamma / factor)
    graph.set_constant(feed.bias, (beta - shift) / factor)
    for name in feed.linears:
        linear = graph.gemm(name)
        weight, bias = graph.constant(str(linear.weight)), graph.constant(str(linear.bias))
        graph.set_constant(str(linear.weight), weight * factor)
        graph.set_constant(str(linear.bias), bias + weight @ shift)


def test_folding_every_layernorm_changes_nothing(
    small: tuple[nn.Module, Graph], images: Tensor
) -> None:
    graph = small[1]
    before = graph.forward(images)
    feeds = _feeds(graph)
    generator = torch.Generator().manual_seed(0)
    for feed in feeds.values():
        _fold(graph, feed, generator)
    torch.testing.assert_close(graph.forward(images), before, rtol=1e-4, atol=1e-4)


def test_every_ln_out_and_head_has_a_feed(small: tuple[nn.Module, Graph]) -> None:
    graph = small[1]
    for gemm in graph.gemms:
        if gemm.left.role in {Role.LN_OUT, Role.HEAD_IN}:
            feed = ln_of(graph, gemm)
            assert feed is not None
            assert gemm.name in feed.linears
        else:
            assert ln_of(graph, gemm) is None


def test_separate_q_k_v_share_one_feed() -> None:
    from small_models import captured

    graph = captured("transformers_vit")[1]
    sizes = [len(feed.linears) for feed in _feeds(graph).values()]
    assert sizes == [3, 1, 3, 1, 1]


class _Reused(nn.Module):
    """A LayerNorm whose output is also the residual."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(3 * 64, 8), nn.LayerNorm(8)
        self.fc, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm(self.embed(image.flatten(1)))
        return self.head(x + self.fc(x))


class _Padded(nn.Module):
    """Zeros enter between the LayerNorm and the linear: a shift would change them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(3 * 8, 8), nn.LayerNorm(8)
        self.fc, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm(self.embed(image.permute(0, 2, 1, 3).flatten(2)))  # [B, 8, 8]
        x = nn.functional.pad(x, (0, 0, 0, 3))  # [B, 11, 8]
        return self.head(self.fc(x).mean(1))


@pytest.mark.parametrize("model", [_Reused(), _Padded()])
def test_layernorms_that_can_not_be_folded(model: nn.Module) -> None:
    graph = graph_from_module(model, (3, 8, 8))
    fc = next(g for g in graph.gemms if g.module == "fc")
    assert fc.left.role is Role.LN_OUT
    assert ln_of(graph, fc) is None
