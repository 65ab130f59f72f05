"""Layer by layer: does the engine compute the simulation's integers?

    python benchmarks/parity.py --data imagenet_sample --models deit_s,vit_b,swin_t --bits 8,6
    python benchmarks/parity.py --data imagenet_sample --families 10 --method minmax

Models without embedded weights are built untrained; images are real. `--families` takes that many
at random of the families of the coverage run that are none of ViT, DeiT and Swin. With --check no
row is added: what is measured has to be what the committed rows say, all but date, processor and
command.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

from family_list import family_models
from family_networks import build
from family_steps import preprocessing_for
from rows import add_row, read_rows
from torch import nn

from edgevit import api
from edgevit.data import Preprocessing, open_images
from edgevit.targets.cpu.parity import integer_layer_parity
from edgevit.zoo import EMBEDDED_MODELS, reference_images

KNOWN = ("ViT", "DeiT", "Swin")  # families that all was built on


def measure(data: str, model: str, bits: int, method: str, num_images: int) -> dict[str, Any]:
    embedded = model in EMBEDDED_MODELS
    calibration = str(reference_images("calibration")) if embedded else data
    network, prepared = subject(model)
    artefact = api.quantize(
        network,
        calibration,
        bits=bits,
        method=method,
        num_calib=8,
        pretrained=embedded,
        preprocessing=prepared,
    )
    preprocessing = artefact.model.preprocessing
    source = str(reference_images("test")) if embedded else data
    subset = open_images(source).subset(num_images, 1)
    pixels, _, _ = next(iter(subset.batches(preprocessing, num_images)))
    rows = integer_layer_parity(artefact.quantized, preprocessing.normalize(pixels))
    for row in rows:
        if not row.is_exact:
            print("  differs:", row)
    return {
        "model": model,
        "method": method,
        "bits": bits,
        "images": num_images,
        "layers": len(rows),
        "exact_layers": sum(row.is_exact for row in rows),
        "codes": sum(row.codes for row in rows),
        "wrong_codes": sum(row.wrong_codes for row in rows),
        "sums": sum(row.sums for row in rows),
        "wrong_sums": sum(row.wrong_sums for row in rows),
        "wrong_outputs": sum(row.wrong_outputs for row in rows),
        "kernels": "+".join(sorted({row.kernel for row in rows})),
    }


def subject(model: str) -> tuple[str | nn.Module, Preprocessing | None]:
    """Return a family's network and the preprocessing it has none of, else the model's name."""
    for family in family_models():
        if family.name == model:
            network, size = build(family)
            return network, preprocessing_for(size)
    return model, None


def drawn(count: int) -> list[str]:
    """Return names of models of the coverage run that are none of ViT, DeiT and Swin."""
    others = [m for m in family_models() if not m.family.startswith(KNOWN)]
    return [model.name for model in random.Random(0).sample(others, count)]


def differences(found: dict[str, Any]) -> list[str]:
    """Return what a measured row has otherwise than the committed one of its model and method."""
    which = ("model", "method", "bits", "images")
    known = [r for r in read_rows("parity") if all(r[key] == str(found[key]) for key in which)]
    if not known:
        return ["there is no such row"]
    row = known[-1]
    return [f"{key}: {v}, not {row[key]}" for key, v in found.items() if str(v) != row[key]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="images at 224 for the full-size models")
    parser.add_argument("--models", default="vit_cifar10,swin_cifar10,deit_s,vit_b,swin_t")
    parser.add_argument("--families", type=int, default=0, help="that many, instead of --models")
    parser.add_argument("--bits", default="8,6")
    parser.add_argument("--method", default="edgevit")
    parser.add_argument("--num-images", type=int, default=4)
    parser.add_argument("--check", action="store_true", help="compare with the committed rows")
    options = parser.parse_args()
    wrong = 0
    for model in drawn(options.families) or options.models.split(","):
        for bits in options.bits.split(","):
            row = measure(options.data, model, int(bits), options.method, options.num_images)
            if not options.check:
                add_row("parity", row)
                continue
            found = differences(row)
            wrong += len(found)
            print(model, options.method, bits, "; ".join(found) or "the same", flush=True)
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
