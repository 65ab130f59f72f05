"""Small models of three libraries, built once and captured once per test run."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from edgevit.graph.capture import graph_from_module
from edgevit.graph.model import Graph


def timm_vit() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=5
    )


def timm_swin() -> nn.Module:
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        img_size=32,
        patch_size=4,
        embed_dim=16,
        depths=(2, 2),
        num_heads=(2, 4),
        window_size=4,
        num_classes=5,
    )


def timm_distilled() -> nn.Module:
    from timm.models.deit import VisionTransformerDistilled

    return VisionTransformerDistilled(
        img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, num_classes=5
    )


def timm_hybrid() -> nn.Module:
    """A ViT behind a stem of overlapping convolutions, which stay convolutions."""
    from timm.models.vision_transformer import VisionTransformer
    from timm.models.vision_transformer_hybrid import HybridEmbed

    stem = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
    )
    return VisionTransformer(
        img_size=32,
        patch_size=2,
        embed_dim=32,
        depth=1,
        num_heads=2,
        num_classes=5,
        embed_layer=partial(HybridEmbed, backbone=stem),
    )


def torchvision_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=32,
        mlp_dim=64,
        num_classes=5,
    )


def torchvision_swin() -> nn.Module:
    from torchvision.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        patch_size=[4, 4],
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[4, 4],
        num_classes=5,
    )


def transformers_vit(attention: str = "sdpa") -> nn.Module:
    import transformers

    config = transformers.ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        attn_implementation=attention,
    )
    return transformers.ViTForImageClassification(config)


def transformers_swin(attention: str = "eager") -> nn.Module:
    import transformers

    config = transformers.SwinConfig(
        image_size=32,
        patch_size=4,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        attn_implementation=attention,
    )
    return transformers.SwinForImageClassification(config)


SMALL: dict[str, Callable[[], nn.Module]] = {
    "timm_vit": timm_vit,
    "timm_swin": timm_swin,
    "timm_distilled": timm_distilled,
    "timm_hybrid": timm_hybrid,
    "torchvision_vit": torchvision_vit,
    "torchvision_swin": torchvision_swin,
    "transformers_vit": transformers_vit,
    "transformers_vit_eager": lambda: transformers_vit("eager"),
    "transformers_swin": transformers_swin,
    "transformers_swin_sdpa": lambda: transformers_swin("sdpa"),
}


def randomise(model: nn.Module) -> nn.Module:
    """Give every parameter a value that matters: fresh biases and position biases are zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@lru_cache
def captured(name: str) -> tuple[nn.Module, Graph]:
    torch.manual_seed(0)
    model = randomise(SMALL[name]())
    return model, graph_from_module(model, (3, 32, 32))


def logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        output = model(images)
    return output if isinstance(output, Tensor) else output.logits
