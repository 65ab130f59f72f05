"""Walks a graph in execution order with the float32 stream and the quantized one side by side.

Both streams are halves of one batch, so every operator between the products treats them alike. A
layer is decided when the walk reaches it, with the input it will really get: what comes out of
the layers before it, already in integers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from edgevit.calibration.run import Run
from edgevit.graph.interpret import run_part
from edgevit.graph.model import Gemm
from edgevit.quantizers.quantized_graph import (
    IntegerLinear,
    IntegerMatmul,
    QuantizedGraph,
    float_product,
)

Layer = IntegerLinear | IntegerMatmul


@dataclass(frozen=True, kw_only=True)
class Operands:
    """Operands of a product: left [..., M, K], right [..., K, N], or None for a linear."""

    left: Tensor
    right: Tensor | None


Decide = Callable[[Gemm, Operands, Operands, Tensor], Layer]
"""(gemm, float32 operands, operands of the quantized stream, float32 output) -> the layer."""


@torch.no_grad()
def walk(run: Run, quantized: QuantizedGraph, decide: Decide, stage: str) -> None:
    """Fill `quantized.layers` in execution order.

    Args:
        decide: Called once for every product whose operands all have a grid on offer.
        stage: Name for the progress bar.
    """
    images, count = run.images_at_once, len(run.gemms)
    start = next(n.name for n in run.graph.module.graph.nodes if n.op == "placeholder")
    walk_part(run, quantized, decide, (start, None), (images, images), stage, count)


@torch.no_grad()
def walk_part(
    run: Run,
    quantized: QuantizedGraph,
    decide: Decide,
    ends: tuple[str, str | None],
    streams: tuple[Tensor, Tensor],
    stage: str = "",
    count: int = 0,
) -> None:
    """Fill `quantized.layers` for a stretch of the graph that one tensor enters and one leaves.

    Args:
        decide: Called once for every product whose operands all have a grid on offer.
        ends: fx names of what enters and what leaves, None for the logits.
        streams: What enters in float32 and in the quantized stream, [B, ...] each.
        stage, count: Name and number of products for the progress bar; 0 shows none.
    """
    names = {gemm.name for gemm in run.gemms}
    done = 0

    def step(gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
        nonlocal done
        (fp32, simulated), output = _halves(left, right), None
        fp32_output = float_product(run.graph, gemm, fp32.left, fp32.right)
        if gemm.name not in names:
            output = float_product(run.graph, gemm, simulated.left, simulated.right)
        else:
            layer = decide(gemm, fp32, simulated, fp32_output)
            quantized.layers[gemm.name] = layer
            output = quantized.compute(gemm, simulated.left, simulated.right)
            done += 1
            if count:
                run.progress(stage, done, count)
        return torch.cat([fp32_output, output])

    run_part(run.graph, ends[0], torch.cat(streams), ends[1], gemm=step)


def _halves(left: Tensor, right: Tensor | None) -> tuple[Operands, Operands]:
    lefts = left.chunk(2)
    rights = (None, None) if right is None else right.chunk(2)
    return (
        Operands(left=lefts[0], right=rights[0]),
        Operands(left=lefts[1], right=rights[1]),
    )
