"""Hardened twins: the same function, channels with a heavy tail, nothing else touched."""

import functools
import math

import hardening
import pytest
import torch
from hardening import Spread, channel_spread, hardened

from edgevit.graph.capture import graph_from_module
from edgevit.graph.verify import relative_error

SIZE = (3, 32, 32)


def build(name):
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    if name == "vit":
        model = VisionTransformer(
            img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=4, num_classes=10
        )
    else:
        model = SwinTransformer(
            img_size=32,
            patch_size=4,
            window_size=4,
            embed_dim=48,
            depths=(2, 2),
            num_heads=(2, 4),
            num_classes=10,
        )
    for parameter in model.parameters():  # nothing is 0 or 1 by accident
        torch.nn.init.normal_(parameter, std=0.1) if parameter.ndim == 1 else None
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.normal_(module.weight, mean=1.0, std=0.1)
    torch.nn.init.normal_(model.get_classifier().weight, std=0.5)
    return model.eval()


@pytest.fixture(scope="module", autouse=True)
def _capture_once():
    """Hardening reads a model's graph and leaves it as it is: capture each model once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardening, "graph_from_module", functools.cache(graph_from_module))
        yield


@pytest.fixture(scope="module", params=["vit", "swin"])
def model(request):
    return build(request.param)


@pytest.fixture(scope="module")
def twin(model):
    return hardened(model, SIZE, seed=0, fold_head=True)


def test_logits_stay_equal(model, twin, images):
    with torch.no_grad():
        wanted, found = model(images), twin(images)
    assert wanted.std() > 0.1
    assert relative_error(found, wanted) < 1e-4


def test_channels_have_a_heavy_tail(model, twin, images):
    plain, hard = (channel_spread(graph_from_module(m, SIZE), images) for m in (model, twin))
    assert len(plain) == len(hard) >= 5
    assert max(plain) < 3
    assert min(hard) > 5
    assert max(hard) < 200


def test_every_pair_is_moved_and_nothing_else(model, twin):
    after = dict(twin.named_parameters())
    for name, before in model.named_parameters():
        layer, _, kind = name.rpartition(".")
        fed_by_ln = layer.endswith(("qkv", "fc1", "reduction")) or layer in {"head", "head.fc"}
        after_v = layer.endswith("attn.proj")
        is_norm = "norm" in layer and "patch_embed" not in layer
        qkv_bias = layer.endswith("qkv") and kind == "bias"
        moves = is_norm or qkv_bias or (kind == "weight" and (fed_by_ln or after_v))
        assert (not torch.equal(before, after[name])) == moves, name


def test_q_and_k_are_moved_too(model):
    """Not only the columns that the LayerNorm in front asks for."""
    only_norms = Spread(sigma=0.0, outlier_factor=1.0)
    assert torch.equal(only_norms.draw(8, torch.Generator()), torch.ones(8, dtype=torch.float64))
    twin = hardened(model, SIZE, seed=3, fold_head=False)
    before, after = dict(model.named_parameters()), dict(twin.named_parameters())
    name = next(n for n in before if n.endswith("attn.qkv.bias"))
    q, k, v = (after[name] / before[name]).chunk(3)  # [C] each
    torch.testing.assert_close(q * k, torch.ones_like(q), rtol=1e-3, atol=0)
    for part in (q, k, v):
        assert part.max() / part.median() > 3


def test_the_head_is_left_alone_on_request(model, twin):
    without = dict(hardened(model, SIZE, seed=0, fold_head=False).named_parameters())
    norm, head = [n for n, _ in model.named_parameters() if n.startswith(("norm", "head"))][::2]
    before = dict(model.named_parameters())
    differing = [
        name for name, value in twin.named_parameters() if not torch.equal(value, without[name])
    ]
    assert head in differing
    assert norm in differing
    assert all(name.startswith(("norm", "head")) for name in differing)
    for name in differing:
        assert torch.equal(without[name], before[name])


def test_attention_is_left_alone_on_request(model, twin):
    """Then LayerNorms and what they feed are all that moves, by the same factors."""
    without = dict(
        hardened(model, SIZE, seed=0, fold_head=True, attention=False).named_parameters()
    )
    for name, before in model.named_parameters():
        if "attn.proj" in name or name.endswith("qkv.bias"):
            assert torch.equal(without[name], before), name
        elif not name.endswith("qkv.weight"):
            assert torch.equal(without[name], dict(twin.named_parameters())[name]), name


def test_the_seed_decides(model, twin):
    again = dict(hardened(model, SIZE, seed=0, fold_head=True).named_parameters())
    other = dict(hardened(model, SIZE, seed=1, fold_head=True).named_parameters())
    assert all(torch.equal(value, again[name]) for name, value in twin.named_parameters())
    assert any(not torch.equal(value, other[name]) for name, value in twin.named_parameters())


def test_factors_are_what_they_are_said_to_be():
    drawn = Spread().draw(50_000, torch.Generator().manual_seed(0)).log()
    bulk, outliers = drawn.median(), (drawn > 0.8 * 3.5).double().mean()
    assert abs(bulk) < 0.03
    assert drawn.mean().item() == pytest.approx(0.02 * math.log(8), abs=0.015)
    assert drawn.std().item() == pytest.approx((0.8**2 + 0.02 * 0.98 * 2.0794**2) ** 0.5, abs=0.01)
    assert 0.002 < outliers < 0.01
    two_sided = Spread(sigma=0.0).draw(50_000, torch.Generator().manual_seed(0), two_sided=True)
    assert sorted(set(two_sided.tolist())) == [1 / 8, 1.0, 8.0]


def test_a_twin_that_computes_something_else_is_refused(model, monkeypatch):
    right = hardening._Moved.by_parameter

    def wrong(self):
        found = right(self)
        found[next(iter(found))] *= 1.01
        return found

    monkeypatch.setattr(hardening._Moved, "by_parameter", wrong)
    with pytest.raises(AssertionError, match="differ"):
        hardened(model, SIZE, seed=0, fold_head=True)
