"""Models that can't be captured are refused with the module, the operator and a way out."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from edgevit.errors import UnsupportedError
from edgevit.graph.capture import graph_from_module
from edgevit.graph.verify import check_against


class _Model(nn.Module):
    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.head = nn.Linear(3 * 64, 5)
        self.function = function

    def forward(self, image: Tensor) -> object:
        return self.function(self.head(image.flatten(1)))


class _Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1)


class _Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.odd = nn.Linear(3 * 64, 5), _Sorted()

    def forward(self, image: Tensor) -> Tensor:
        return self.odd(self.head(image.flatten(1)))


def _depends_on_values(x: Tensor) -> Tensor:
    return x if float(x.sum()) > 0 else -x


@pytest.mark.parametrize(
    ("function", "code"),
    [
        (_depends_on_values, "EV301"),
        (lambda x: {"best": x.argmax(1), "count": 3, "nothing": None}, "EV302"),
        (lambda x: x[None], "EV302"),
        (lambda x: x + torch.arange(x.shape[0])[:, None], "EV303"),
        (lambda x: x * torch.full((1,), x.shape[0]), "EV303"),
        (lambda x: x.roll(1), "EV303"),
        (lambda x: x.roll(1, 0), "EV303"),
        (lambda x: x - x.mean(0, keepdim=True), "EV303"),
        (lambda x: x.softmax(0), "EV303"),
        (lambda x: x @ (x.T @ x), "EV303"),
        (lambda x: x[:, :0], "EV302"),
        (lambda x: x.cumsum(1), "EV304"),
        (lambda x: x * math.nan, "EV309"),
    ],
)
def test_refused(function: Callable[[Tensor], object], code: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        graph_from_module(_Model(function), (3, 8, 8))
    assert caught.value.code == code
    assert {"what", "where", "why", "try"} <= set(caught.value.parts())
    assert caught.value.exit_status == 4


def test_the_error_names_module_and_operator() -> None:
    with pytest.raises(UnsupportedError) as caught:
        graph_from_module(_Nested(), (3, 8, 8))
    assert caught.value.where == "odd"
    assert "cumsum" in caught.value.what


def test_a_wrong_graph_is_noticed() -> None:
    model = _Model(lambda x: x)
    graph = graph_from_module(model, (3, 8, 8))
    with torch.no_grad():
        assert check_against(graph, model) < 1e-5
        name = str(graph.gemms[0].bias)
        graph.set_constant(name, graph.constant(name) + 0.01)
        with pytest.raises(UnsupportedError, match="EV305"):
            check_against(graph, model)


@pytest.mark.parametrize(
    "wrap", [lambda x: {"logits": x}, lambda x: (x, x), lambda x: type("Out", (), {"logits": x})()]
)
def test_logits_are_found_in_what_a_model_returns(wrap: Callable[[Tensor], object]) -> None:
    graph = graph_from_module(_Model(wrap), (3, 8, 8))
    assert graph.forward(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
