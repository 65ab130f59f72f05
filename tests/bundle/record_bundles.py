"""Writes small bundles into a folder, to be kept and opened by every later version.

    python tests/bundle/record_bundles.py FOLDER

Those under `recorded/COMMIT` were written with the package of that commit on the import path.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgevit import api

SIDE, CLASSES = 16, 5
PREPROCESSING = {
    "input_size": [3, SIDE, SIDE],
    "resize_size": SIDE,
    "interpolation": "bicubic",
    "crop_pct": 1.0,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}


def vit() -> nn.Module:
    """One block: every kind of product, in the fewest bytes."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=SIDE, patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=CLASSES
    )


def swin() -> nn.Module:
    """Two blocks, the second with shifted windows."""
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        img_size=SIDE,
        patch_size=2,
        window_size=4,
        embed_dim=8,
        depths=(2,),
        num_heads=(2,),
        num_classes=CLASSES,
    )


BUNDLES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "vit_twins_w4a4_cpu": (vit, {"bits": 4, "method": "ptq4vit"}),
    "vit_codebooks_w4a4_cpu": (vit, {"bits": 4, "method": "edgevit-codebook"}),
    "swin_w8a8_cpu": (swin, {"bits": 8}),
    "vit_w8a8_jetson": (vit, {"bits": 8, "target": "jetson-orin-nano"}),
}


def built(model: Callable[[], nn.Module]) -> nn.Module:
    """Return the model with values that matter everywhere: fresh biases are zero."""
    torch.manual_seed(0)
    made = model().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.4 * torch.randn(parameter.shape)
    return made


def main(folder: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3)).astype(np.uint8)
    with tempfile.TemporaryDirectory() as scratch:
        np.savez(Path(scratch) / "noise.npz", images=images)
        for name, (model, options) in BUNDLES.items():
            artefact = api.quantize(
                built(model),
                Path(scratch) / "noise.npz",
                num_calib=4,
                preprocessing=PREPROCESSING,
                **options,
            )
            artefact.save(folder / name)
            print(name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
