"""A SegFormer-B0 trained on a small dense task, then quantized: mIoU of the engine against fp32.

    python benchmarks/segmentation.py train --data DATA --cache FOLDER
    python benchmarks/segmentation.py measure --data DATA --cache FOLDER --bits 8,6

The first takes some twenty minutes of one core and keeps the weights in FOLDER, which is no part of
the repository; the second adds a row to results/segmentation.csv for every width.
Source: Xie et al., SegFormer (arXiv:2105.15203); here trained from nothing, 64 x 64 pixels.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scenes import CLASSES, SIDE, Material, material, scenes
from torch import Tensor, nn
from transformers import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRAIN_SEED, TEST_SEED, CALIBRATION_SEED = 1, 2, 3


def batches(source: Material, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images float32 [B, 3, 64, 64], masks int64 [B, 64, 64]) without end."""
    stream = scenes(source, TRAIN_SEED)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    while True:
        pixels, masks = zip(*itertools.islice(stream, size), strict=True)
        images = (torch.from_numpy(np.stack(pixels)).float() / 255 - mean) / std  # [B, H, W, 3]
        yield images.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(np.stack(masks)).long()


def train(options: argparse.Namespace) -> None:
    """Train from random weights and save model and processor as transformers does."""
    torch.manual_seed(0)
    names = dict(enumerate(CLASSES))
    config = SegformerConfig(id2label=names, label2id={v: k for k, v in names.items()})
    config.image_size = SIDE
    model = SegformerForSemanticSegmentation(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, options.steps)
    started = time.monotonic()
    stream = batches(material(options.data, "train"), options.batch)
    for step, (images, masks) in enumerate(itertools.islice(stream, options.steps), 1):
        logits = model(pixel_values=images).logits  # [B, classes, H/4, W/4]
        logits = nn.functional.interpolate(logits, size=(SIDE, SIDE), mode="bilinear")
        loss = nn.functional.cross_entropy(logits, masks)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"{step} {loss.item():.3f} {time.monotonic() - started:.0f} s", flush=True)
        if step % 500 == 0 or step == options.steps:
            save(model, options.cache / "model")


def save(model: SegformerForSemanticSegmentation, folder: Path) -> None:
    """Write config.json, the weights and preprocessor_config.json."""
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    SegformerImageProcessor(size=size, image_mean=MEAN, image_std=STD).save_pretrained(folder)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("train", "measure"))
    parser.add_argument("--data", type=Path, required=True, help="photos/ and cifar10.tar.gz")
    parser.add_argument("--cache", type=Path, required=True, help="where the weights are kept")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=6e-4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
