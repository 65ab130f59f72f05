"""A small transformer with two named outputs, for the tests of all that carries them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

SIDE = 16
PREPROCESSING = {
    "input_size": (3, SIDE, SIDE),
    "crop_pct": 1.0,
    "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
}
SHAPES = {"tokens": (4, 16), "pooled": (16,)}


class Tower(nn.Module):
    """Tokens [B, 4, 16] and their mean [B, 16]; what is beside them is no output."""

    edgevit_preprocessing = PREPROCESSING

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = VisionTransformer(
            img_size=SIDE, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=5
        )

    def forward(self, x: Tensor) -> dict[str, object]:
        tokens = self.body.forward_features(x)[:, 1:]
        return {"tokens": tokens, "pooled": tokens.mean(1), "count": 4, "none": None}


def write_images(folder, count=6, kinds=("a", "b")):
    """Write so many pictures of noise into each of the class folders."""
    generator = np.random.default_rng(0)
    for kind in kinds:
        (folder / kind).mkdir(parents=True)
        for at in range(count):
            pixels = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{at}.png")
    return folder
