"""Exports models for every TensorRT device: conformance, and agreement with the simulation.

    python benchmarks/tensorrt_export.py --data imagenet_sample --models deit_s,vit_b,swin_t,swin_b

Every model is calibrated once; what each device is offered is the same for the main variant. Graphs
run in ONNX Runtime on the CPU as they are written (`edgevit.targets.tensorrt.parity`). Models
without embedded weights are built untrained; images are real.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from rows import add_row

from edgevit import api
from edgevit.artefact import Artefact, Pixels
from edgevit.calibration.run import Run
from edgevit.calibration.variants import variant_of
from edgevit.data import open_images
from edgevit.quantizers.simulation import QuantizedGraph
from edgevit.quantizers.spec import Placement
from edgevit.targets.conformance import Facts, Level, check_onnx
from edgevit.targets.onnx_builder import whole_model
from edgevit.targets.profiles import PROFILES
from edgevit.targets.tensorrt.parity import AsWritten
from edgevit.targets.tensorrt.target import TENSORRT_TARGETS, TensorRTTarget, precision_of
from edgevit.zoo import EMBEDDED_MODELS, reference_images

BATCH = 8


def measure(data: str, model: str, bits: int, method: str, num_images: int) -> None:
    embedded = model in EMBEDDED_MODELS
    calibration = str(reference_images("calibration")) if embedded else data
    artefact = api.quantize(
        model,
        calibration,
        bits=bits,
        method=method,
        num_calib=8,
        pretrained=embedded,
        target="tensorrt",
    )
    source = str(reference_images("test")) if embedded else data
    pixels = pixels_of(source, artefact, num_images)
    calib = pixels_of(calibration, artefact, 8)
    known: dict[str, dict[str, Any]] = {}
    made: dict[str, QuantizedGraph] = {}
    for profile in PROFILES:
        target = TENSORRT_TARGETS[profile]
        for name, quantized in forms(artefact, target, calib, made).items():
            lowered = target.lower(quantized)
            onnx = whole_model(lowered.onnx, lowered.tensors)
            digest = hashlib.sha256(onnx).hexdigest()
            if digest not in known:
                known[digest] = agreement(artefact, quantized, onnx, pixels)
            found = check_onnx(onnx, target.profile, facts=Facts(asked=precision_of(quantized)))
            add_row(
                "tensorrt_export",
                {
                    "model": model,
                    "bits": bits,
                    "method": method,
                    "device": profile,
                    "variant": name,
                    "products": len(lowered.layers),
                    "quantized": len(quantized.layers),
                    **{level.name.lower(): len(found.of_level(level)) for level in Level},
                    **known[digest],
                },
            )


def pixels_of(source: str, artefact: Artefact, num: int) -> Pixels:
    """Return `num` images as uint8 [N, H, W, 3]."""
    subset = open_images(source).subset(num, 1)
    return np.concatenate([p for p, _, _ in subset.batches(artefact.model.preprocessing, 32)])


def forms(
    artefact: Artefact, target: TensorRTTarget, calib: Pixels, made: dict[str, QuantizedGraph]
) -> dict[str, QuantizedGraph]:
    """Return the main form and the variants for a device; `made` keeps those of earlier ones."""
    import torch

    main = artefact.quantized
    placement = target.place(
        main.graph, weight_bits=main.placement.weight_bits, act_bits=main.placement.act_bits
    )
    if placement.options != main.placement.options:
        raise ValueError(f"{target.name} is offered other grids than tensorrt")
    images = torch.from_numpy(artefact.model.preprocessing.normalize(calib))
    found = {"int8": replace(main, placement=placement)}
    for name, offered in target.variants(main.graph, placement).items():
        if name not in made:
            made[name] = variant(main, offered, images)
        found[name] = replace(made[name], placement=offered)
    return found


def variant(main: QuantizedGraph, offered: Placement, images: Any) -> QuantizedGraph:
    """Return the main form with the grids of a variant."""
    return variant_of(main, offered, Run(graph=main.graph, placement=offered, images=images))


def agreement(
    artefact: Artefact, quantized: QuantizedGraph, onnx: bytes, pixels: Pixels
) -> dict[str, Any]:
    """Run graph and simulation on the same images; return how well they agree."""
    from edgevit.artefact import logits_of

    preprocessing = artefact.model.preprocessing
    session = AsWritten(onnx)
    parts = [pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH)]
    engine = np.concatenate([session.run(preprocessing.normalize(part)) for part in parts])
    simulated = logits_of(quantized.forward, preprocessing, pixels)
    return {
        "images": len(pixels),
        "agreement_percent": 100 * float((engine.argmax(1) == simulated.argmax(1)).mean()),
        "smallest_cosine": float(cosines(engine, simulated).min()),
        "onnx_mb": len(onnx) / 1e6,
    }


def cosines(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the cosine between the logits of each image, [N]."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    cosine: npt.NDArray[np.float64] = (x * y).sum(1) / (
        np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    )
    return cosine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="images at 224 for the full-size models")
    parser.add_argument("--models", default="vit_cifar10,swin_cifar10,deit_s,vit_b,swin_t,swin_b")
    parser.add_argument("--bits", default="8")
    parser.add_argument("--method", default="minmax")
    parser.add_argument("--num-images", type=int, default=64)
    options = parser.parse_args()
    for model in options.models.split(","):
        for bits in options.bits.split(","):
            measure(options.data, model, int(bits), options.method, options.num_images)


if __name__ == "__main__":
    main()
