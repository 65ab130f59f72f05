"""What calibration without images of the task costs, on a real DeiT-Tiny and 400 real images.

    python benchmarks/calibration_images.py --bits W6A6,W8A8,W4A8,W4A4 --seeds 0,1

Calibrates `deit_t` with its weights on images of several origins and measures the simulation, which
computes the same integers as the engine, on `imagenet_sample/`. The data lie in $EDGEVIT_DATA or
beside the checkout in shared/data; without them it prints SKIPPED. Rows that are there are kept.
"""

from __future__ import annotations

import argparse
import re
import time
from typing import Any

import numpy as np
import torch
from methods import per_image
from real_data import IMAGENET, PHOTOS, WEIGHTS, is_missing
from rows import add_row, read_rows
from subjects import CACHE, save
from synthesised import psaq_images

from edgevit.calibration.methods import method_named
from edgevit.calibration.run import calibrate
from edgevit.data import labels_for, open_images
from edgevit.data.photographs import photographs
from edgevit.graph.capture import graph_from_module
from edgevit.runner.measure.paired import drop_points
from edgevit.targets.cpu.target import CpuTarget
from edgevit.verbs.artefact import tensor_of
from edgevit.zoo import LoadedModel, load_model

NAME = "calibration_images"
NUM = 32
NUM_SYNTHESISED = 16
STEPS = 40
"""Of synthesis; the paper takes 32 images and 500 steps, which is hours here."""
BATCH = 25


def main() -> None:
    """Measure the cells that are not in results/calibration_images.csv yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", default="W6A6,W8A8,W4A8,W4A4")
    parser.add_argument("--origins", default="photos,shipped,psaq,shipped+psaq")
    parser.add_argument("--seeds", default="0")
    options = parser.parse_args()
    if is_missing(WEIGHTS, IMAGENET, PHOTOS):
        return
    done = {(row["origin"], row["bits"], row["seed"]) for row in read_rows(NAME)}
    loaded = load_model("deit_t", weights=WEIGHTS)
    graph = CpuTarget().prepare(graph_from_module(loaded.model, loaded.preprocessing.input_size))
    pixels, labels = test_images(loaded)
    fp32 = logits_of(graph.forward, loaded, pixels)
    for seed in options.seeds.split(","):
        for bits in options.bits.split(","):
            for origin in options.origins.split(","):
                if (origin, bits, seed) not in done:
                    found = cell(loaded, graph, origin, bits, int(seed), pixels, labels, fp32)
                    add_row(NAME, found)


def cell(
    loaded: LoadedModel,
    graph: Any,
    origin: str,
    bits: str,
    seed: int,
    pixels: Any,
    labels: Any,
    fp32: Any,
) -> dict[str, Any]:
    """Calibrate once and return the row."""
    match = re.fullmatch(r"W(\d)A(\d)", bits)
    assert match, bits
    weight_bits, act_bits = map(int, match.groups())
    images = calibration_images(loaded, origin, seed)
    placement = CpuTarget().place(graph, weight_bits=weight_bits, act_bits=act_bits)
    start = time.monotonic()
    quantized = calibrate(graph, placement, images, method_named("edgevit"), seed=seed)
    calibrated = time.monotonic()
    logits = logits_of(quantized.forward, loaded, pixels)
    measured = per_image(fp32, logits, labels)
    right, was = measured["right"], measured["fp32_right"]
    drop = drop_points(int((was & ~right).sum()), int((right & ~was).sum()), len(right))
    return {
        "model": "deit_t (real)",
        "method": "edgevit",
        "origin": origin,
        "bits": bits,
        "seed": seed,
        "calibration_images": len(images),
        "images": len(right),
        "fp32_top1": 100 * was.mean(),
        "top1": 100 * right.mean(),
        "drop": drop.value,
        "drop_low": drop.low,
        "drop_high": drop.high,
        "agreement": 100 * measured["agrees"].mean(),
        "kl": float(measured["kl"].mean()),
        "calibration_s": calibrated - start,
    }


def calibration_images(loaded: LoadedModel, origin: str, seed: int) -> torch.Tensor:
    """Return float32 [32, 3, H, W] (of psaq 16) from one origin, or 16 of each of two."""
    origins = origin.split("+")
    each = NUM // len(origins)
    return torch.cat([_of_one_origin(loaded, one, each, seed) for one in origins])


def _of_one_origin(loaded: LoadedModel, origin: str, num: int, seed: int) -> torch.Tensor:
    if origin == "psaq":
        return synthesised(loaded, seed)[:num]
    images = photographs() if origin == "shipped" else open_images(PHOTOS)
    (batch, _, _), *_ = images.subset(num, seed).batches(loaded.preprocessing, num)
    return tensor_of(loaded.preprocessing.normalize(batch))


def synthesised(loaded: LoadedModel, seed: int) -> torch.Tensor:
    """Return float32 [16, 3, H, W] synthesised from the model, made once and kept."""
    path = CACHE / f"psaq-{loaded.weights_sha256[:12]}-{STEPS}-{seed}.npz"
    if not path.exists():
        save(path, images=psaq_images(loaded, num=NUM_SYNTHESISED, steps=STEPS, seed=seed).numpy())
    return torch.from_numpy(np.load(path)["images"])


def test_images(loaded: LoadedModel) -> tuple[Any, Any]:
    """Return pixels uint8 [400, H, W, 3] and labels int64 [400]."""
    images = open_images(IMAGENET)
    labelled = labels_for(loaded.classes, images, loaded.num_classes)
    parts = list(labelled.batches(loaded.preprocessing, 100))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


test_images.__test__ = False  # type: ignore[attr-defined]


@torch.no_grad()
def logits_of(forward: Any, loaded: LoadedModel, pixels: Any) -> Any:
    """Return float32 [N, classes]."""
    starts = range(0, len(pixels), BATCH)
    normalize = loaded.preprocessing.normalize
    parts = [forward(tensor_of(normalize(pixels[i : i + BATCH]))).numpy() for i in starts]
    return np.concatenate(parts)


if __name__ == "__main__":
    main()
