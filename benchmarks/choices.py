"""Choices inside a published method, each measured beside the other way, image by image.

    python benchmarks/choices.py --model vit_cifar10 --data cifar10.tar.gz::test --num-images 1000
    python benchmarks/choices.py --model deit_t --weights deit_tiny.safetensors \
        --data imagenet_sample --calib photos

The engine is measured. The first choice of a method is what the method does; the row of another
says how it compares with it on the same images: ratio of KL, difference of top-1, both paired.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import methods
import numpy as np
import torch
from paired import Found, ratio_of_means
from rows import add_row
from subjects import Subject, in_batches, subject

from edgevit.calibration.methods import METHODS, apq_vit
from edgevit.calibration.methods.noisyquant import noisy
from edgevit.calibration.run import Calibrator, Run, calibrate
from edgevit.data import open_images
from edgevit.quantizers.quantized_graph import IntegerMatmul, QuantizedGraph
from edgevit.runner.engines.onnxruntime.session import EngineSession
from edgevit.runner.measure.statistics import drop_points
from edgevit.targets.onnx.builder import whole_model
from edgevit.targets.registry import target_named
from edgevit.zoo import reference_images

BATCH = 16
NUM_CALIB = 32


def _base(name: str) -> Calibrator:
    return METHODS[name].calibrate


CHOICES: dict[str, dict[str, Calibrator]] = {
    "apq-vit": {
        "softmax steps from 1.0 of the range": _base("apq-vit"),
        "softmax steps from 0.9 of the range": partial(
            apq_vit.calibrate, softmax_shares=(0.9, *apq_vit.SOFTMAX_SHARES)
        ),
    },
    "noisyquant": {
        "noise in LayerNorms and additions": _base("noisyquant"),
        "noise in LayerNorms": noisy(_base("mse"), additions=False),
        "no noise": _base("mse"),
    },
    "noisyquant+ptq4vit": {
        "noise in LayerNorms and additions": _base("noisyquant+ptq4vit"),
        "noise in LayerNorms": noisy(_base("ptq4vit"), additions=False),
        "no noise": _base("ptq4vit"),
    },
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", required=True, help="labelled test images")
    parser.add_argument("--calib", default=str(reference_images("calibration")))
    parser.add_argument("--num-images", type=int, help="test images, all if left out")
    parser.add_argument("--bits", default="4,6")
    parser.add_argument("--methods", default=",".join(CHOICES))
    parser.add_argument("--seeds", default="0", help="draws of calibration images")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    on = subject(
        options.model,
        "plain",
        options.data,
        options.num_images,
        options.threads,
        BATCH,
        weights=options.weights,
    )
    for seed in map(int, options.seeds.split(",")):
        images = calibration_images(on, options.calib, seed)
        for bits in map(int, options.bits.split(",")):
            for method in options.methods.split(","):
                for row in rows_of(method, on, images, bits, seed, options.threads):
                    add_row("choices", row)
    return 0


def calibration_images(on: Subject, folder: str, seed: int) -> torch.Tensor:
    """Return float32 [N, 3, H, W]."""
    parts = open_images(folder).subset(NUM_CALIB, seed).batches(on.preprocessing, 64)
    pixels = np.concatenate([part[0] for part in parts])  # [N, H, W, 3]
    return torch.from_numpy(on.preprocessing.normalize(pixels))


def rows_of(
    method: str, on: Subject, images: torch.Tensor, bits: int, seed: int, threads: int
) -> Iterator[dict[str, object]]:
    """Yield a row for every choice of a method."""
    first: Found | None = None
    for choice, calibrator in CHOICES[method].items():
        found, quantized = measured(calibrator, on, images, bits, seed, threads)
        first = found if first is None else first
        ratio = ratio_of_means(found["kl"], first["kl"])
        lost, won = first["right"] & ~found["right"], found["right"] & ~first["right"]
        less = drop_points(int(lost.sum()), int(won.sum()), len(lost))
        yield {
            "model": on.model,
            "method": method,
            "choice": choice,
            "bits": bits,
            "num_calib": len(images),
            "seed": seed,
            **methods.row(found, on),
            "kl_over_first": ratio.value,
            "kl_over_low": ratio.low,
            "kl_over_high": ratio.high,
            "top1_below_first": less.value,
            "below_low": less.low,
            "below_high": less.high,
            "clipped_softmax": clipped(quantized, images),
            "noise_additions": additions(quantized),
            "revision": methods.revision(),
        }


def measured(
    calibrator: Calibrator, on: Subject, images: torch.Tensor, bits: int, seed: int, threads: int
) -> tuple[Found, QuantizedGraph]:
    """Calibrate, run the engine on the test images; return per-image results and the graph."""
    target = target_named("cpu")
    placement = target.place(on.graph, weight_bits=bits, act_bits=bits)
    method = replace(METHODS["mse"], calibrate=calibrator)
    quantized = calibrate(on.graph, placement, images, method, seed=seed)
    lowered = target.lower(quantized)
    onnx = whole_model(lowered.onnx, lowered.tensors)
    engine = EngineSession(onnx, threads=1, session_config=lowered.session_config)
    logits = in_batches(
        engine.run, on.images.pixels, on.preprocessing, batch=BATCH, threads=threads
    )
    return methods.per_image(on.logits, logits, on.images.labels), quantized


def clipped(quantized: QuantizedGraph, images: torch.Tensor) -> str:
    """Return how many softmax grids end below 0.99 of the largest value seen, of how many."""
    run = Run(graph=quantized.graph, placement=quantized.placement, images=images)
    tops = run.observe()
    ends = [
        (float(tops[gemm.left.name].high.max()), layer.left.unit * layer.left.operand_range[1])
        for gemm in quantized.graph.gemms
        if gemm.kind == "pv" and isinstance(layer := quantized.layers.get(gemm.name), IntegerMatmul)
    ]
    return f"{sum(float(end) < 0.99 * top for top, end in ends)} of {len(ends)}"


def additions(quantized: QuantizedGraph) -> int:
    """Return how many additions of noise the engine computes."""
    return sum(
        node.op == "get_attr" and str(node.target).endswith("_noise")
        for node in quantized.graph.module.graph.nodes
    )


if __name__ == "__main__":
    sys.exit(main())
