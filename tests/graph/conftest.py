"""Fixtures: copies of the small captured models."""

from __future__ import annotations

import pytest
import torch
from small_models import SMALL, captured
from torch import Tensor, nn

from edgevit.graph.model import Graph


@pytest.fixture(params=sorted(SMALL))
def small(request: pytest.FixtureRequest) -> tuple[nn.Module, Graph]:
    model, graph = captured(request.param)
    return model, graph.clone()


@pytest.fixture
def vit() -> Graph:
    return captured("timm_vit")[1].clone()


@pytest.fixture
def swin() -> Graph:
    return captured("timm_swin")[1].clone()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
