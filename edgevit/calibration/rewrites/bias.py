"""Bias correction: moves each layer's mean quantization error into its bias.

Source: Nagel et al., "Data-free quantization through weight equalization and bias correction"
(arXiv 1906.04721), section 4.2, in its empirical form and in the order of execution: a layer's
error is measured with everything before it already quantized and corrected, so that errors do
not pile up. One float32 run and one run of the integer simulation are all it costs.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from edgevit.graph.interpret import run_graph
from edgevit.graph.model import Gemm
from edgevit.progress import Progress
from edgevit.quantizers.integer import rescale
from edgevit.quantizers.quantized_graph import QuantizedGraph, float_product, is_integer_linear


@torch.no_grad()
def correct_biases(quantized: QuantizedGraph, images: Tensor, progress: Progress) -> None:
    """Correct the bias of every quantized linear of `quantized` in place.

    Args:
        images: float32 [N, 3, H, W], all run at once: their largest activation must fit memory.
    """
    means = _mean_outputs(quantized, images)
    linears, done = sum(map(is_integer_linear, quantized.layers.values())), 0

    def correct(gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
        nonlocal done
        layer = quantized.layers.get(gemm.name)
        if not is_integer_linear(layer):
            return quantized.compute(gemm, left, right)
        product = rescale(layer.sums(left), layer.scale)  # [..., out]
        mean = product.reshape(-1, product.shape[-1]).mean(0) + layer.bias  # [out]
        corrected = layer.bias - (mean - means[gemm.name])
        quantized.graph.set_bias(gemm, corrected)
        quantized.layers[gemm.name] = replace(layer, bias=corrected)
        done += 1
        progress("bias correction", done, linears)
        return product + corrected

    run_graph(quantized.graph, images, gemm=correct)


def _mean_outputs(quantized: QuantizedGraph, images: Tensor) -> dict[str, Tensor]:
    """Return gemm name -> float32 [out], the mean output of every quantized linear in float."""
    means: dict[str, Tensor] = {}

    def look(gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
        output = float_product(quantized.graph, gemm, left, right)
        if is_integer_linear(quantized.layers.get(gemm.name)):
            means[gemm.name] = output.reshape(-1, output.shape[-1]).mean(0)
        return output

    run_graph(quantized.graph, images, gemm=look)
    return means
