"""Embeddings of the engine against those of fp32: do images find the same neighbours?

    python benchmarks/embedding.py --data DATA

adds rows to results/embedding.csv: the pooled features of the embedded ViT on CIFAR-10 test images
(accuracy of a vote among the 20 nearest other images), and those of a real DeiT-Tiny on the 400
ImageNet images, one a class, so that only the neighbours themselves can be compared.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from rows import add_row

from edgevit import api
from edgevit.zoo import reference_images

MODELS = ("vit_cifar10", "deit_t")


def measure(options: argparse.Namespace, model: str, bits: tuple[int, int]) -> dict[str, Any]:
    """Quantize the tower and return the row of one width."""
    is_deit = model == "deit_t"
    calibration = options.data / "photos" if is_deit else reference_images("calibration")
    data = options.data / "imagenet_sample" if is_deit else f"{options.data}/cifar10.tar.gz::test"
    artefact = api.quantize(
        model,
        calibration,
        task="embed",
        weights=options.data / "deit_tiny.safetensors" if is_deit else None,
        weight_bits=bits[0],
        act_bits=bits[1],
        method=options.method,
        seed=options.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        bundle = artefact.save(Path(folder) / "bundle")
        num = None if is_deit else options.num
        report = api.validate(bundle, data, num=num, rounds=5, threads=1)
    return row(options, artefact, bits, report)


def row(
    options: argparse.Namespace, artefact: Any, bits: tuple[int, int], report: dict[str, Any]
) -> dict[str, Any]:
    found = {one["label"]: one for one in report["task"]["metrics"]}
    accuracy = found.get("k-NN accuracy", {})
    same, output = found["same nearest image as fp32"], report["task"]["outputs"]["embedding"]
    return {
        "model": report["model"],
        "method": options.method,
        "weight_bits": bits[0],
        "act_bits": bits[1],
        "num_calib": artefact.recipe.num_calib,
        "seed": options.seed,
        "images": report["num_images"],
        "knn_fp32": accuracy.get("fp32", ""),
        "knn_engine": accuracy.get("engine", ""),
        "change_points": accuracy.get("change", ""),
        "change_low": accuracy.get("low", ""),
        "change_high": accuracy.get("high", ""),
        "same_vote": found.get("same vote as fp32", {}).get("engine", ""),
        "same_nearest": same["engine"],
        "same_nearest_low": same["low"],
        "same_nearest_high": same["high"],
        "of_20_nearest": found["of the 20 nearest also fp32's"]["engine"],
        "cosine": output["cosine"],
        "sqnr_db": output["sqnr_db"],
        "engine_to_simulation_db": report["self_check"]["outputs"]["embedding"]["sqnr_db"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of all test data")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--bits", default="8,6,4/8", help="weights/activations")
    parser.add_argument("--method", default="edgevit")
    parser.add_argument("--num", type=int, default=2000, help="CIFAR-10 test images")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for model in options.models.split(","):
        for text in options.bits.split(","):
            weight, _, act = text.partition("/")
            add_row("embedding", measure(options, model, (int(weight), int(act or weight))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
