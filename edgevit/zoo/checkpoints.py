"""The short names and the exact checkpoints they mean.

These are the weights on which the post-training quantization literature for vision transformers
reports (PTQ4ViT, RepQ-ViT, ERQ, ...); the 32-bit top-1 accuracies of those papers identify them.

Sources: timm's pretrained configurations for input size, mean, std, interpolation and crop;
Touvron et al., DeiT (arXiv:2012.12877, Table 5), Liu et al., Swin (arXiv:2103.14030, Table 1) and
timm's model cards for the multiply-adds.
"""

from __future__ import annotations

from dataclasses import dataclass

INCEPTION = (0.5, 0.5, 0.5)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class CheckpointFormat:
    """One row of the table.

    Args:
        tag: timm model name with its pretrained tag.
        parameters: Number of parameters, buffers not counted.
        flops: Multiply-adds of one image, as the literature rounds them; for lists of models that
            nobody builds. `edgevit.graph.multiply_adds` counts those of a captured model.
        fp32_top1: ImageNet-1k top-1 in per cent of the 32-bit model as the literature reports it,
            None where this project has no figure to cite.
    """

    tag: str
    parameters: int
    flops: int
    fp32_top1: float | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    input_size: tuple[int, int, int] = (3, 224, 224)
    interpolation: str = "bicubic"
    crop_pct: float = 0.9


CHECKPOINTS: dict[str, CheckpointFormat] = {
    "vit_t": CheckpointFormat(
        tag="vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        parameters=5_717_416,
        flops=1_300_000_000,
        mean=INCEPTION,
        std=INCEPTION,
    ),
    "vit_s": CheckpointFormat(
        tag="vit_small_patch16_224.augreg_in21k_ft_in1k",
        parameters=22_050_664,
        flops=4_600_000_000,
        fp32_top1=81.39,
        mean=INCEPTION,
        std=INCEPTION,
    ),
    "vit_b": CheckpointFormat(
        tag="vit_base_patch16_224.augreg_in21k_ft_in1k",
        parameters=86_567_656,
        flops=17_600_000_000,
        fp32_top1=84.54,
        mean=INCEPTION,
        std=INCEPTION,
    ),
    "vit_l": CheckpointFormat(
        tag="vit_large_patch16_224.augreg_in21k_ft_in1k",
        parameters=304_326_632,
        flops=61_600_000_000,
        mean=INCEPTION,
        std=INCEPTION,
    ),
    "deit_t": CheckpointFormat(
        tag="deit_tiny_patch16_224.fb_in1k",
        parameters=5_717_416,
        flops=1_300_000_000,
        fp32_top1=72.21,
    ),
    "deit_s": CheckpointFormat(
        tag="deit_small_patch16_224.fb_in1k",
        parameters=22_050_664,
        flops=4_600_000_000,
        fp32_top1=79.85,
    ),
    "deit_b": CheckpointFormat(
        tag="deit_base_patch16_224.fb_in1k",
        parameters=86_567_656,
        flops=17_600_000_000,
        fp32_top1=81.80,
    ),
    "swin_t": CheckpointFormat(
        tag="swin_tiny_patch4_window7_224.ms_in1k",
        parameters=28_288_354,
        flops=4_500_000_000,
        fp32_top1=81.39,
    ),
    "swin_s": CheckpointFormat(
        tag="swin_small_patch4_window7_224.ms_in1k",
        parameters=49_606_258,
        flops=8_700_000_000,
        fp32_top1=83.23,
    ),
    "swin_b": CheckpointFormat(
        tag="swin_base_patch4_window7_224.ms_in22k_ft_in1k",
        parameters=87_768_224,
        flops=15_400_000_000,
        fp32_top1=85.27,
    ),
    "swin_l": CheckpointFormat(
        tag="swin_large_patch4_window7_224.ms_in22k_ft_in1k",
        parameters=196_532_476,
        flops=34_500_000_000,
    ),
}
