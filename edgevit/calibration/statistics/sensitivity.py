"""Measures each quantized layer's cost: on its operands, its output, the whole model.

* SQNR of an operand: ``10 log10(sum x^2 / sum (x - x_hat)^2)`` over the calibration images.
* Fisher error: ``1/2 E sum g^2 (O_hat - O)^2`` with float32 inputs, in nats to second order (Yuan
  et al., PTQ4ViT, arXiv 2111.12293, section 3.3, with the gradient of `fisher`).
* On labelled images: the model with only that layer quantized, and with all but that layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from math import log10

import torch
from torch import Tensor

from edgevit.calibration.statistics.fisher import output_loss
from edgevit.calibration.statistics.ranges import batches
from edgevit.calibration.statistics.scores import class_scores_tensor
from edgevit.graph.interpret import run_outputs
from edgevit.graph.model import Gemm
from edgevit.progress import Progress
from edgevit.quantizers.quantized_graph import QuantizedGraph, float_product

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Called for each reading: batches of float32 [B, 3, H, W] and int64 labels [B]."""


@dataclass(kw_only=True)
class Noise:
    """Sums over the calibration images of one product.

    Args:
        signal, noise: Squared operand and squared rounding error, of [left, right].
        fisher: Importance-weighted squared error of the output, halved, per image.
    """

    signal: list[float] = field(default_factory=lambda: [0.0, 0.0])
    noise: list[float] = field(default_factory=lambda: [0.0, 0.0])
    fisher: float = 0.0

    def sqnr_db(self, operand: int) -> float | None:
        """Return the operand's SQNR in dB; None where nothing was lost (or nothing there)."""
        if self.noise[operand] <= 0 or self.signal[operand] <= 0:
            return None
        return 10 * log10(self.signal[operand] / self.noise[operand])


def layer_noise(
    quantized: QuantizedGraph,
    images: Tensor,
    *,
    batch_size: int,
    seed: int,
    progress: Progress,
) -> dict[str, Noise]:
    """Return gemm name -> noise of every quantized product, inputs being float32.

    Args:
        images: float32 [N, 3, H, W].
    """
    found = {name: Noise() for name in quantized.layers}
    generator, done = torch.Generator().manual_seed(seed), 0
    for batch in batches(images, batch_size):
        for gemm, left, right, output in _products(quantized, batch, generator):
            _add(quantized, found[gemm.name], gemm, left, right, output, len(images))
        done += len(batch)
        progress("layer errors", done, len(images))
    return found


def _products(
    quantized: QuantizedGraph, batch: Tensor, generator: torch.Generator
) -> list[tuple[Gemm, Tensor, Tensor | None, Tensor]]:
    """Return the float32 products of a batch; their outputs have gradients."""
    products = []

    def keep(gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
        output = float_product(quantized.graph, gemm, left, right)
        if gemm.name in quantized.layers:
            output.retain_grad()
            products.append((gemm, left, right, output))
        return output

    outputs = run_outputs(quantized.graph, batch.clone().requires_grad_(True), gemm=keep)
    output_loss(outputs, generator).backward()  # type: ignore[no-untyped-call]
    return products


@torch.no_grad()
def _add(
    quantized: QuantizedGraph,
    noise: Noise,
    gemm: Gemm,
    left: Tensor,
    right: Tensor | None,
    output: Tensor,
    images: int,
) -> None:
    layer = quantized.layers[gemm.name]
    operands = (left, quantized.graph.weight(gemm) if right is None else right)
    for at, (operand, found) in enumerate(zip(operands, layer.rounded(left, right), strict=True)):
        noise.signal[at] += float(operand.double().square().sum())
        noise.noise[at] += float((found - operand).double().square().sum())
    if output.grad is not None:
        error = quantized.compute(gemm, left, right) - output
        noise.fisher += float((output.grad * error).square().sum()) / (2 * images)


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Accuracy and divergence of the model on labelled images with some layers quantized.

    Args:
        top1: Percent of the images.
        kl: Mean KL to float32 in nats.
    """

    top1: float
    kl: float


def whole_effects(
    quantized: QuantizedGraph, labelled: Batches, progress: Progress
) -> dict[str, tuple[Effect, Effect]]:
    """Return gemm name -> (only that layer quantized, all but that layer quantized).

    The names "float32" and "quantized" hold the two ends: (nothing, everything) quantized, twice.
    """
    layers = quantized.layers
    variants = {"float32": ({}, {}), "quantized": (layers, layers)}
    for name, layer in layers.items():
        variants[name] = ({name: layer}, {n: la for n, la in layers.items() if n != name})
    sums = {name: torch.zeros(2, 2) for name in variants}  # [only or rest, (hits, KL)]
    count = 0
    for images, labels in labelled():
        exact = replace(quantized, layers={}).forward(images)  # [B, logits]
        expected = class_scores_tensor(exact).log_softmax(1)  # [B, classes]
        count += len(images)
        for done, (name, pair) in enumerate(variants.items(), 1):
            for at, chosen in enumerate(pair):
                logits = replace(quantized, layers=chosen).forward(images)
                sums[name][at] += _scores(logits, labels, expected)
            progress(f"accuracy, to image {count}", done, len(variants))
    return {
        name: (_effect(values[0], count), _effect(values[1], count))
        for name, values in sums.items()
    }


def _scores(logits: Tensor, labels: Tensor, expected: Tensor) -> Tensor:
    """Return [2]: number of right predictions, summed KL."""
    found = class_scores_tensor(logits).log_softmax(1)
    divergence = (expected.exp() * (expected - found)).sum()
    return torch.stack([(found.argmax(1) == labels).sum().float(), divergence])


def _effect(values: Tensor, count: int) -> Effect:
    hits, divergence = (float(value) / max(count, 1) for value in values)
    return Effect(top1=100 * hits, kl=max(divergence, 0.0))
