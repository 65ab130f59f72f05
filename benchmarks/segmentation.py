"""A SegFormer-B0 trained on a small dense task, then quantized: mIoU of the engine against fp32.

    python benchmarks/segmentation.py train --data DATA --cache FOLDER
    python benchmarks/segmentation.py train --data DATA --cache FOLDER --groups --steps 500
    python benchmarks/segmentation.py measure --data DATA --cache FOLDER --groups

The first trains from nothing on five kinds of objects, some twenty minutes of one core; the second
goes on from there and tells vehicles from animals only, which so few scenes teach better.
Weights are kept in FOLDER, which is no part of the repository; `measure` adds a row to
results/segmentation.csv for every width. Source: Xie et al., SegFormer (arXiv:2105.15203).
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rows import add_row
from scenes import CLASSES, GROUPS, SIDE, Material, Pixels, material, scenes
from torch import Tensor, nn
from transformers import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)

from edgevit import api

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRAIN_SEED, TEST_SEED, CALIBRATION_SEED = 1, 2, 3


def batches(source: Material, size: int, groups: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images float32 [B, 3, 64, 64], masks int64 [B, 64, 64]) without end."""
    stream = scenes(source, TRAIN_SEED + groups, groups=groups)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    while True:
        pixels, masks = zip(*itertools.islice(stream, size), strict=True)
        images = (torch.from_numpy(np.stack(pixels)).float() / 255 - mean) / std  # [B, H, W, 3]
        yield images.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(np.stack(masks)).long()


def train(options: argparse.Namespace) -> None:
    """Train and save model and processor as transformers does."""
    torch.manual_seed(0)
    model = start(options).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, options.steps)
    started = time.monotonic()
    stream = batches(material(options.data, "train"), options.batch, options.groups)
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
            save(model, folder_of(options))


def start(options: argparse.Namespace) -> SegformerForSemanticSegmentation:
    """Return a model with random weights, or one trained on the classes with a head for groups."""
    names = dict(enumerate(GROUPS if options.groups else CLASSES))
    labels = {"id2label": names, "label2id": {v: k for k, v in names.items()}}
    if options.groups:
        return SegformerForSemanticSegmentation.from_pretrained(
            options.cache / "classes", ignore_mismatched_sizes=True, **labels
        )
    config = SegformerConfig(**labels)
    config.image_size = SIDE
    return SegformerForSemanticSegmentation(config)


def folder_of(options: argparse.Namespace) -> Path:
    return Path(options.cache) / ("groups" if options.groups else "classes")


def save(model: SegformerForSemanticSegmentation, folder: Path) -> None:
    """Write config.json, the weights and preprocessor_config.json."""
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    SegformerImageProcessor(size=size, image_mean=MEAN, image_std=STD).save_pretrained(folder)


def measure(options: argparse.Namespace) -> None:
    """Add a row for every width: the engine's and fp32's mean IoU on the same test scenes."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for split, seed, count in (
            ("train", CALIBRATION_SEED, 64),
            ("test", TEST_SEED, options.num),
        ):
            stream = scenes(material(options.data, split), seed, groups=options.groups)
            write_scenes(itertools.islice(stream, count), folder / split)
        for bits in map(int, options.bits.split(",")):
            add_row("segmentation", row(options, bits, folder))


def write_scenes(stream: Iterable[tuple[Pixels, Pixels]], folder: Path) -> None:
    """Write images/N.png and masks/N.png."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index, scene in enumerate(stream):
        for name, values in zip(("images", "masks"), scene, strict=True):
            Image.fromarray(values).save(folder / name / f"{index:04}.png")


def row(options: argparse.Namespace, bits: int, folder: Path) -> dict[str, Any]:
    artefact = api.quantize(
        str(folder_of(options)),
        folder / "train" / "images",
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
        "classes": len(GROUPS if options.groups else CLASSES),
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
    parser.add_argument("--groups", action="store_true", help="vehicles and animals only")
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
