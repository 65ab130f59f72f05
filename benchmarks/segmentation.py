"""A SegFormer-B0 trained on a small dense task, then quantized: mIoU of the engine against fp32.

    python benchmarks/segmentation.py train --data DATA --cache FOLDER
    python benchmarks/segmentation.py measure --data DATA --cache FOLDER --bits 8,6

The first takes twenty minutes of a core that is free and keeps the weights in FOLDER, which is no
part of the repository; the second adds a row to results/segmentation.csv for every width.
Source: Xie et al., SegFormer (arXiv:2105.15203); here trained from nothing, 64 x 64 pixels.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rows import add_row
from scenes import CLASSES, SIDE, Material, material, scenes
from torch import Tensor, nn
from transformers import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)

from edgevit import api

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


def measure(options: argparse.Namespace) -> None:
    """Add a row for every width: the engine's and fp32's mean IoU on the same test scenes."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_scenes(material(options.data, "train"), CALIBRATION_SEED, 64, folder / "calibration")
        write_scenes(material(options.data, "test"), TEST_SEED, options.num, folder / "test")
        for bits in map(int, options.bits.split(",")):
            add_row("segmentation", row(options, bits, folder))


def write_scenes(source: Material, seed: int, count: int, folder: Path) -> None:
    """Write images/N.png and masks/N.png."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index, scene in enumerate(itertools.islice(scenes(source, seed), count)):
        for name, values in zip(("images", "masks"), scene, strict=True):
            Image.fromarray(values).save(folder / name / f"{index:04}.png")


def row(options: argparse.Namespace, bits: int, folder: Path) -> dict[str, Any]:
    artefact = api.quantize(
        str(options.cache / "model"),
        folder / "calibration" / "images",
        bits=bits,
        method=options.method,
        seed=options.seed,
    )
    bundle = artefact.save(folder / f"bundle{bits}")
    images, masks = folder / "test" / "images", folder / "test" / "masks"
    report = api.validate(bundle, images, masks=masks, rounds=10, threads=1)
    rows = {one["label"]: one for one in report["task"]["metrics"]}
    against_fp32, logits = rows["mean IoU against fp32"], report["task"]["outputs"]["logits"]
    return {
        "model": "segformer_b0 (64 x 64, trained here)",
        "classes": len(CLASSES),
        "method": options.method,
        "weight_bits": bits,
        "act_bits": bits,
        "num_calib": artefact.recipe.num_calib,
        "seed": options.seed,
        "images": report["num_images"],
        "miou_fp32": rows["mean IoU"]["fp32"],
        "miou_engine": rows["mean IoU"]["engine"],
        "drop_points": report["drop_points"]["value"],
        "drop_low": report["drop_points"]["low"],
        "drop_high": report["drop_points"]["high"],
        "miou_to_fp32": against_fp32["engine"],
        "pixels_as_fp32": rows["pixels of the same class as fp32"]["engine"],
        "sqnr_db": logits["sqnr_db"],
        "cosine": logits["cosine"],
        "engine_to_simulation_db": report["self_check"]["outputs"]["logits"]["sqnr_db"],
        "verdict": report["verdict"],
    }


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
    parser.add_argument("--bits", default="8,6", help="widths to measure")
    parser.add_argument("--method", default="edgevit")
    parser.add_argument("--num", type=int, default=1000, help="test scenes")
    parser.add_argument("--seed", type=int, default=0, help="of the quantization")
    options = parser.parse_args()
    torch.set_num_threads(1)
    {"train": train, "measure": measure}[options.step](options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
