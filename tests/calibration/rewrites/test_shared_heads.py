"""Attention in which one key and one value serve all heads (multi-query attention)."""

import pytest
import torch
from torch import nn

from edgevit.calibration.methods import METHODS
from edgevit.calibration.run import calibrate
from edgevit.graph.capture import graph_from_module
from edgevit.graph.channels import head_channels
from edgevit.targets.registry import target_named

SIMULATED = {"fq-vit", "repq-vit"}  # with grids that no engine here runs
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class MultiQuery(nn.Module):
    """Four heads of queries, one of keys and values, on 16 tokens of 32 channels."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.q = nn.Conv2d(3, 32, 4, 4), nn.Linear(32, 64)
        self.k, self.v, self.proj = nn.Linear(32, 16), nn.Linear(32, 16), nn.Linear(64, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, image):
        x = self.embed(image).flatten(2).transpose(1, 2)  # [B, N, C]
        q = self.q(x).unflatten(2, (4, 16)).transpose(1, 2)  # [B, H, N, D]
        k, v = self.k(x)[:, None], self.v(x)[:, None]  # [B, 1, N, D]
        attention = (q @ k.transpose(-2, -1) / 4).softmax(-1)  # [B, H, N, N]
        x = x + self.proj((attention @ v).transpose(1, 2).flatten(2))
        return self.head(x.mean(1))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_takes_it(method):
    target = target_named("simulation" if method in SIMULATED else "cpu")
    graph = target.prepare(graph_from_module(MultiQuery().eval(), (3, 16, 16)))
    placement = target.place(graph, weight_bits=8, act_bits=8)
    quantized = calibrate(graph, placement, IMAGES, METHODS[method])
    exact = graph.forward(IMAGES)
    assert torch.allclose(quantized.graph.forward(IMAGES), exact, atol=1e-5)
    error = quantized.forward(IMAGES) - exact
    assert error.square().sum() < 1e-3 * exact.square().sum()


def test_a_shared_key_is_one_head():
    graph = graph_from_module(MultiQuery().eval(), (3, 16, 16))
    scores = next(gemm for gemm in graph.gemms if gemm.kind == "qk")
    found = [head_channels(graph, site) for site in (scores.left, scores.right)]
    assert [one[1].shape[0] for one in found if one] == [4, 1]
