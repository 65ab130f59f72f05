"""Passes one by one, on modules that contain just what each is about."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from small_models import randomise
from torch import Tensor, nn

from edgevit.graph.capture import graph_from_module
from edgevit.graph.channels import head_channels
from edgevit.graph.model import Graph, Role
from edgevit.graph.operators import aten

SIZE = (3, 8, 8)
TOKENS, WIDTH = 8, 24  # an image [B, 3, 8, 8] is read as 8 tokens of 24 channels


def _tokens(image: Tensor) -> Tensor:
    return image.permute(0, 2, 1, 3).flatten(2)  # [B, 8, 24]


def _targets(graph: Graph) -> Counter[object]:
    return Counter(n.target for n in graph.module.graph.nodes if n.op == "call_function")


class Attention(nn.Module):
    """Two heads of width 6; how the scores are made is up to the test."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(WIDTH, 36), nn.Linear(12, 5)

    def forward(self, image: Tensor) -> Tensor:
        q, k, v = self.qkv(_tokens(image)).reshape(-1, TOKENS, 3, 2, 6).permute(2, 0, 3, 1, 4)
        y = self.attend(q, k, v)  # [B, 2, 8, 6]
        return self.head(y.transpose(1, 2).flatten(2).mean(1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-1, -2)).softmax(-1) @ v


class ScaledScores(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ((q @ k.transpose(-1, -2)) / math.sqrt(6)).softmax(-1) @ v


class SplitScale(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        root = 6**-0.25
        return ((q * root) @ (k * root).transpose(-1, -2)).softmax(-1) @ v


class ParameterScale(Attention):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.3))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-1, -2) * self.scale).softmax(-1) @ v


class Causal(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


class BooleanMask(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = torch.ones(TOKENS, TOKENS, dtype=torch.bool)
        mask[:, 5:] = False
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.2)


class NoMask(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = torch.ones(q.shape[0], 1, TOKENS, TOKENS, dtype=torch.bool)
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class FilledMask(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        hidden = torch.arange(TOKENS) > 5
        return (q @ k.transpose(-1, -2)).masked_fill(hidden, -50.0).softmax(-1) @ v


@pytest.mark.parametrize(
    ("model", "added"),
    [
        (Attention, 0),
        (ScaledScores, 0),
        (SplitScale, 0),
        (ParameterScale, 0),
        (Causal, 1),
        (BooleanMask, 1),
        (NoMask, 0),
    ],
)
def test_attention_takes_one_form(model: type[nn.Module], added: int) -> None:
    graph = graph_from_module(randomise(model()), SIZE)
    assert [g.kind for g in graph.gemms] == ["linear", "qk", "pv", "linear"]
    targets = _targets(graph)
    assert targets[aten.add.Tensor] == added
    assert not {aten.mul.Tensor, aten.div.Tensor} & set(targets)
    for site in (graph.gemms[1].left, graph.gemms[1].right, graph.gemms[2].right):
        assert head_channels(graph, site) is not None


def test_a_finite_fill_is_exact() -> None:
    graph = graph_from_module(randomise(FilledMask()), SIZE)
    assert _targets(graph)[aten.add.Tensor] == 1
    assert [g.kind for g in graph.gemms] == ["linear", "qk", "pv", "linear"]


class SharedQuery(Attention):
    """q is read a second time: its scale can't be folded into the linear."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ((q * 0.5) @ k.transpose(-1, -2)).softmax(-1) @ v + q


class NormedQuery(Attention):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ((self.norm(q) * 0.5) @ k.transpose(-1, -2)).softmax(-1) @ v


@pytest.mark.parametrize("model", [SharedQuery, NormedQuery])
def test_a_scale_that_can_not_be_folded_stays_on_q(model: type[nn.Module]) -> None:
    graph = graph_from_module(randomise(model()), SIZE)
    (scale,) = (n for n in graph.module.graph.nodes if n.target is aten.mul.Tensor)
    qk = next(g for g in graph.gemms if g.kind == "qk")
    assert qk.left.producer == scale.name
    assert scale.args[1] == 0.5
    assert head_channels(graph, qk.left) is None
    assert head_channels(graph, qk.right) is not None


class Tokens(nn.Module):
    """Class and register tokens around the patches, position added before or after."""

    def __init__(self, late: bool) -> None:
        super().__init__()
        self.late = late
        self.first = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.last = nn.Parameter(torch.randn(1, 2, WIDTH))
        self.position = nn.Parameter(torch.randn(1, TOKENS + 3 * late, WIDTH))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, image: Tensor) -> Tensor:
        x, batch = _tokens(image), image.shape[0]
        x = x if self.late else x + self.position
        x = torch.cat([self.first.expand(batch, -1, -1), x, self.last.repeat(batch, 1, 1)], 1)
        x = x + self.position if self.late else x
        return self.head(x).flatten(1)


@pytest.mark.parametrize("late", [True, False])
def test_tokens_become_one_pad_and_one_constant(late: bool) -> None:
    graph = graph_from_module(Tokens(late), SIZE)
    targets = _targets(graph)
    assert targets[aten.constant_pad_nd.default] == targets[aten.add.Tensor] == 1
    assert aten.cat.default not in targets
    (pad,) = (n for n in graph.module.graph.nodes if n.target is aten.constant_pad_nd.default)
    assert pad.args[1:] == ([0, 0, 1, 2], 0.0)


class Patches(nn.Module):
    def __init__(self, bias: bool = True, **options: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 6, 4, bias=bias, **options)
        self.head = nn.Linear(6, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.proj(image).flatten(2).transpose(1, 2)).mean(1)


@pytest.mark.parametrize("bias", [True, False])
def test_patch_embedding_becomes_a_linear(bias: bool) -> None:
    graph = graph_from_module(Patches(bias, stride=4), SIZE)
    assert graph.gemms[0].module == "proj"
    assert graph.gemms[0].left.role is Role.PATCH_IN
    assert graph.constant(str(graph.gemms[0].weight)).shape == (6, 48)
    assert _targets(graph)[aten.permute.default] == 1  # nothing behind the linear


def test_an_overlapping_convolution_stays() -> None:
    graph = graph_from_module(Patches(stride=2, padding=1), SIZE)
    assert _targets(graph)[aten.conv2d.default] == 1
    assert [(g.module, g.kind) for g in graph.gemms] == [("proj", "conv"), ("head", "linear")]


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 5)
        self.gamma = nn.Parameter(torch.randn(WIDTH))

    def forward(self, image: Tensor) -> Tensor:
        x = _tokens(image)
        return self.head(x + self.gamma * self.fc(x)).mean(1)


def test_layer_scale_is_folded() -> None:
    graph = graph_from_module(LayerScale(), SIZE)
    assert aten.mul.Tensor not in _targets(graph)
    assert graph.gemms[-1].left.role is Role.HEAD_IN


class Tied(nn.Module):
    """One linear used twice, one without a bias, a product with a plain matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH, bias=False)
        self.matrix = nn.Parameter(torch.randn(WIDTH, 5))

    def forward(self, image: Tensor) -> Tensor:
        return (self.fc(self.fc(_tokens(image)).relu()) @ self.matrix).mean(1)


def test_tied_weights_are_parted_and_biases_added() -> None:
    graph = graph_from_module(Tied(), SIZE)
    assert [g.module for g in graph.gemms] == ["fc", "fc.2", "matrix"]
    assert len({g.weight for g in graph.gemms}) == len({g.bias for g in graph.gemms}) == 3
    roles = [g.left.role for g in graph.gemms]
    assert roles == [Role.PATCH_IN, Role.LINEAR_IN, Role.HEAD_IN]


class Moves(nn.Module):
    """Every other way to move elements."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(WIDTH, 12), nn.Linear(24, 5)
        self.register_buffer("order", torch.tensor([3, 1, 2, 0]))

    def forward(self, image: Tensor) -> Tensor:
        x = self.fc(_tokens(image))  # [B, 8, 12]
        a, b = x.chunk(2, 1)  # [B, 4, 12] each
        c, d = a.unflatten(2, (3, 4)).split([1, 2], dim=2)  # [B, 4, 1 and 2, 4]
        e = torch.cat([d.flatten(2), c.squeeze(2)], -1)  # [B, 4, 12]
        f = b[:, self.order].movedim(1, 2).mT.contiguous()  # [B, 4, 12]
        g = torch.stack([e, f.roll(1, 1)], 1).swapaxes(1, 2).flatten(2)  # [B, 4, 24]
        g = nn.functional.pad(g, (0, 0, 1, 0))[:, 1:].narrow(1, 1, 3)  # [B, 3, 24]
        return self.head(nn.functional.adaptive_avg_pool1d(g.transpose(1, 2), 1)[..., 0])


def test_every_other_way_to_move_elements() -> None:
    graph = graph_from_module(Moves(), SIZE)
    assert [g.module for g in graph.gemms] == ["fc", "head"]


class HalfRotated(nn.Module):
    """Joins a part that is turned with the part that is not: where all is turned, with nothing."""

    def __init__(self, kept: int) -> None:
        super().__init__()
        self.kept, self.head = kept, nn.Linear(WIDTH, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = _tokens(image)
        turned, rest = x[..., self.kept :] * 0.5, x[..., : self.kept]
        return self.head(torch.cat([rest[..., :0], torch.cat([turned, rest], -1)], -1).mean(1))


@pytest.mark.parametrize(("kept", "joins"), [(0, 0), (4, 1)])
def test_a_concatenation_with_nothing_is_none(kept, joins):
    model = HalfRotated(kept).eval()
    graph = graph_from_module(model, SIZE)
    assert _targets(graph)[aten.cat.default] == joins
    assert all(0 not in node.meta.get("shape", (1,)) for node in graph.module.graph.nodes)
    images = torch.randn(2, *SIZE)
    torch.testing.assert_close(graph.forward(images), model(images))


@pytest.mark.parametrize("options", [{"add_zero_attn": True}, {"add_bias_kv": True}])
def test_a_constant_for_every_head_of_every_image(options: dict[str, bool]) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(WIDTH, 3, batch_first=True, **options)

        def forward(self, image: Tensor) -> Tensor:
            tokens = _tokens(image)
            return self.attention(tokens, tokens, tokens)[0].mean(1)

    graph_from_module(randomise(Odd()), SIZE)  # compared with the model there
