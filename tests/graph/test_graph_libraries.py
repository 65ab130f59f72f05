"""Models of three libraries at full resolution (224, windows of 7), reduced in depth only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from small_models import logits, randomise
from torch import nn

from edgevit.graph.capture import graph_from_module
from edgevit.graph.multiply_adds import multiply_adds
from edgevit.graph.verify import relative_error
from edgevit.zoo import load_model
from edgevit.zoo.checkpoints import CHECKPOINTS


def _timm(name: str, **options: object) -> nn.Module:
    import timm

    return timm.create_model(name, **options)


def _torchvision_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(224, 16, num_layers=2, num_heads=12, hidden_dim=768, mlp_dim=3072)


def _torchvision_swin() -> nn.Module:
    from torchvision.models.swin_transformer import SwinTransformer

    return SwinTransformer([4, 4], 96, [2, 2], [3, 6], [7, 7])


def _transformers(kind: str, attention: str) -> nn.Module:
    import transformers

    if kind == "swin":
        config = transformers.SwinConfig(
            depths=[2, 2], num_heads=[3, 6], attn_implementation=attention
        )
        return transformers.SwinForImageClassification(config)
    options = {"num_hidden_layers": 2, "attn_implementation": attention}
    if kind == "deit":
        config = transformers.DeiTConfig(**options)
        return transformers.DeiTForImageClassificationWithTeacher(config)
    return transformers.ViTForImageClassification(transformers.ViTConfig(**options))


SWIN = {"depths": (2, 2), "num_heads": (3, 6)}
MODELS: dict[str, tuple[Callable[[], nn.Module], int, int, int]] = {
    # name: (builder, attention blocks, ln_out, head_in)
    "timm deit_small": (lambda: _timm("deit_small_patch16_224", depth=2), 2, 4, 1),
    "timm deit_tiny_distilled": (
        lambda: _timm("deit_tiny_distilled_patch16_224", depth=2),
        2,
        4,
        2,
    ),
    "timm vit_base": (lambda: _timm("vit_base_patch16_224", depth=2), 2, 4, 1),
    "timm swin_tiny": (lambda: _timm("swin_tiny_patch4_window7_224", **SWIN), 4, 9, 1),
    "torchvision vit": (_torchvision_vit, 2, 4, 1),
    "torchvision swin": (_torchvision_swin, 4, 9, 1),
    "transformers vit sdpa": (lambda: _transformers("vit", "sdpa"), 2, 8, 1),
    "transformers deit eager": (lambda: _transformers("deit", "eager"), 2, 8, 2),
    "transformers swin eager": (lambda: _transformers("swin", "eager"), 4, 17, 1),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_at_full_resolution(name: str) -> None:
    builder, blocks, layernorms, heads = MODELS[name]
    torch.manual_seed(0)
    model = randomise(builder())
    graph = graph_from_module(model, (3, 224, 224), check=False)
    for batch in (1, 7):
        images = torch.randn(batch, 3, 224, 224)
        assert relative_error(graph.forward(images), logits(model, images)) < 1e-4
    counts = Counter(site.role.value for site in graph.sites)
    per_block = ("query", "key", "softmax_out", "value", "attn_out", "gelu_out")
    assert {counts[role] for role in per_block} == {blocks}
    assert (counts["patch_in"], counts["ln_out"], counts["head_in"]) == (1, layernorms, heads)


@pytest.mark.parametrize(
    ("name", "blocks", "layernorms", "giga"),
    [("deit_s", 12, 24, 4.6), ("vit_b", 12, 24, 17.6), ("swin_t", 12, 27, 4.5)],
)
def test_full_models(name: str, blocks: int, layernorms: int, giga: float) -> None:
    """Their multiply-adds, rounded, are the figures of the literature."""
    loaded = load_model(name, pretrained=False)
    model = randomise(loaded.model)
    graph = graph_from_module(model, loaded.preprocessing.input_size)  # it compares the logits
    counts = Counter(site.role.value for site in graph.sites)
    for role in ("query", "key", "softmax_out", "value", "attn_out", "gelu_out"):
        assert counts[role] == blocks
    assert (counts["patch_in"], counts["ln_out"], counts["head_in"]) == (1, layernorms, 1)
    assert CHECKPOINTS[name].flops == giga * 1e9
    assert round(multiply_adds(graph) / 1e9, 1) == giga
