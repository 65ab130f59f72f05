"""GPTQ weights with activation grids of least squared error, in execution order.

Source: Frantar et al., "GPTQ: Accurate post-training quantization for generative pre-trained
transformers" (arXiv 2210.17323). The paper leaves activations in float; here they get the grids
of ``mse``, and H is taken from the quantized inputs, as in ERQ's comparison (arXiv 2407.06794).
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgevit.calibration.run import Method, Run
from edgevit.calibration.search.parallel import SearchChoices, activation_grid, rewritten
from edgevit.calibration.search.rounded_weight import round_weight
from edgevit.calibration.search.sequential import Layer, Operands, walk
from edgevit.calibration.search.shared_grids import GridChooser
from edgevit.graph.model import Gemm
from edgevit.quantizers.quantized_graph import IntegerLinear, IntegerMatmul, QuantizedGraph

CHOICES = SearchChoices(activations="mse", weights="mse")


def calibrate(run: Run) -> QuantizedGraph:
    """Return the quantized graph."""
    ranges = rewritten(run, CHOICES)
    statistics = run.statistics(ranges, weighted=False)
    quantized = run.quantized()
    grids = GridChooser(
        run.graph, lambda site: activation_grid(run.placement, site, ranges, statistics, CHOICES)
    )

    def decide(gemm: Gemm, fp32: Operands, simulated: Operands, output: Tensor) -> Layer:
        left = grids.grid(gemm.left)
        if gemm.weight is None:
            return IntegerMatmul(left=left, right=grids.grid(gemm.right))
        weight = run.graph.weight(gemm)  # [out, in]
        inputs = left.fake_quantize(simulated.left).reshape(-1, weight.shape[1])  # [T, in]
        spec = run.placement.options[gemm.right.name][0]
        grid, codes = round_weight(weight, spec, inputs.T @ inputs)
        return IntegerLinear(
            grid=left,
            weight_grid=grid,
            weight_codes=codes.to(torch.int8),
            bias=run.graph.bias(gemm),
        )

    walk(run, quantized, decide, "layers")
    return quantized


GPTQ = Method(
    name="gptq",
    summary="GPTQ weights, activation grids of least squared error",
    source="Frantar et al., ICLR 2023, arXiv 2210.17323",
    calibrate=calibrate,
    cost="4 forward passes",
    order=20,
)
