"""EdgeViT's default: everything a calibration of minutes can do, in integers from layer to layer.

1. Residual streams are rotated where that pays (`edgevit.calibration.rewrites.rotation`), LayerNorm
   outputs reparameterised with a migration exponent (RepQ-ViT, arXiv 2212.08254), the channels of
   q, k and v evened out, and heads brought to one range; all of it is exact.
2. Activation grids come from Fisher-weighted histograms (PTQ4ViT's objective, arXiv 2111.12293);
   codebooks are used where they save most for the time they cost.
3. In execution order, every layer with the input the quantized layers before it produce: the
   weight is refitted by ridge regression (ERQ, arXiv 2407.06794), its scales are searched on the
   Gram matrix, it is rounded by GPTQ (arXiv 2210.17323), and the bias takes the mean error
   (arXiv 1906.04721).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgevit.calibration.rewrites.regression import moments, refit
from edgevit.calibration.run import Method, Run
from edgevit.calibration.search.affordable import (
    affordable_grids,
    offers_codebook,
    without_twins,
)
from edgevit.calibration.search.missing_grids import missing_notes
from edgevit.calibration.search.parallel import (
    OPERATORS_MUST_SAVE,
    SearchChoices,
    activation_grid,
    rewritten,
)
from edgevit.calibration.search.rounded_weight import round_weight
from edgevit.calibration.search.sequential import Decide, Layer, Operands, walk
from edgevit.calibration.search.shared_grids import GridChooser
from edgevit.calibration.statistics.fisher import Statistics
from edgevit.calibration.statistics.ranges import Ranges
from edgevit.graph.model import Gemm, Site
from edgevit.quantizers.quantized_graph import Grid, IntegerLinear, IntegerMatmul, QuantizedGraph
from edgevit.quantizers.spec import Placement

CHOICES = SearchChoices(
    activations="fisher",
    weights="gram",
    twin=True,
    codebook=True,
    codebook_share=0.5,
    rotate_streams=True,
    fold_layernorms=True,
    equalize_channels=True,
)


WITH_CODEBOOKS = replace(CHOICES, codebook_share=1.0)


def calibrate(run: Run) -> QuantizedGraph:
    """Return the quantized graph."""
    return _calibrate(run, CHOICES)


def calibrate_with_codebooks(run: Run) -> QuantizedGraph:
    """Return the quantized graph with codebook grids where the target offers them."""
    return _calibrate(run, WITH_CODEBOOKS)


def _calibrate(run: Run, choices: SearchChoices) -> QuantizedGraph:
    plan = plan_calibration(run, choices)
    walk(run, plan.quantized, plan.decide, "layers")
    return plan.quantized


@dataclass(frozen=True, kw_only=True)
class CalibrationPlan:
    """The graph before the first layer is decided, and the rule that decides layers.

    Args:
        quantized: The quantized graph, no layer quantized yet.
        decide: As for `edgevit.calibration.search.sequential.walk`.
        targets: Filled while layers are decided: gemm name -> the refitted weight [out, in].
    """

    quantized: QuantizedGraph
    decide: Decide
    targets: dict[str, Tensor]


def plan_calibration(run: Run, choices: SearchChoices) -> CalibrationPlan:
    """Rewrite the run's graph, gather statistics, and return how its layers are decided."""
    ranges = rewritten(run, choices)
    statistics = run.statistics(ranges, weighted=True, grams=False)
    quantized = run.quantized()
    targets: dict[str, Tensor] = {}
    grids = _grids(run, ranges, statistics, choices)
    quantized.notes += missing_notes(
        run.graph,
        _without_better(run.placement),
        statistics,
        grids.grid,
        must_save=OPERATORS_MUST_SAVE,
    )

    def decide(gemm: Gemm, fp32: Operands, simulated: Operands, output: Tensor) -> Layer:
        left = grids.grid(gemm.left)
        if gemm.weight is None:
            return IntegerMatmul(left=left, right=grids.grid(gemm.right))
        tokens = _tokens(statistics, gemm, output)
        layer, targets[gemm.name] = _linear(run, gemm, left, simulated.left, output, tokens)
        return layer

    return CalibrationPlan(quantized=quantized, decide=decide, targets=targets)


def _without_better(placement: Placement) -> Placement:
    """Return the placement without twin grids that are missing where a codebook is offered."""
    missing = {
        site: grid
        for site, grid in placement.missing.items()
        if not offers_codebook(placement, site)
    }
    return replace(placement, missing=missing)


def _grids(
    run: Run, ranges: Ranges, statistics: Statistics, choices: SearchChoices
) -> GridChooser[Grid]:
    """Return the grids of all activations, codebooks only as far as their share goes."""

    def choose(site: Site, codebook: bool) -> Grid:
        own = without_twins(run.placement, site, replace(choices, codebook=codebook))
        return activation_grid(run.placement, site, ranges, statistics, own)

    if choices.codebook_share >= 1:
        return GridChooser(run.graph, lambda site: choose(site, True))
    grids: GridChooser[Grid] = GridChooser(run.graph, lambda site: choose(site, False))
    for site, grid in affordable_grids(run, ranges, statistics, choices, choose):
        grids.keep(site, grid)
    return grids


def _tokens(statistics: Statistics, gemm: Gemm, output: Tensor) -> Tensor:
    """Return [T]: how much each token of the walked images matters, mean 1."""
    count = output.numel() // output.shape[-1]
    tokens = torch.cat(statistics.importance[gemm.name])[:count]
    return tokens / tokens.mean().clamp_min(1e-30)


def _linear(
    run: Run, gemm: Gemm, left: Grid, x: Tensor, output: Tensor, tokens: Tensor
) -> tuple[IntegerLinear, Tensor]:
    """Return a linear in integers and its refitted weight.

    Args:
        x: Its input in the quantized stream, [..., in].
        output: Its float32 output [..., out].
        tokens: Weight of each token, [T].
    """
    weight, bias = run.graph.weight(gemm), run.graph.bias(gemm)  # [out, in], [out]
    inputs = left.fake_quantize(x).reshape(-1, weight.shape[1])  # [T, in]
    wanted = output.reshape(-1, weight.shape[0])  # [T, out]
    errors = wanted - torch.nn.functional.linear(inputs, weight, bias)  # [T, out]
    half = len(inputs) // 2
    first = moments(inputs[:half], errors[:half], tokens[:half])
    second = moments(inputs[half:], errors[half:], tokens[half:])
    target = refit(weight, (first, second))
    spec = run.placement.options[gemm.right.name][0]
    grid, codes = round_weight(target, spec, first.plus(second).gram)
    total = tokens.sum().clamp_min(1e-12)
    value = grid.dequantize(codes)
    new_bias = tokens @ (wanted - inputs @ value.T) / total  # [out]
    layer = IntegerLinear(
        grid=left,
        weight_grid=grid,
        weight_codes=codes.to(torch.int8),
        bias=new_bias,
    )
    return layer, target


EDGEVIT = Method(
    name="edgevit",
    summary="Rotations, Fisher-weighted grids, codebooks where they pay, ridge, GPTQ and bias",
    source="this project: arXiv 2111.12293, 2212.08254, 2407.06794 and 2210.17323 together",
    calibrate=calibrate,
    cost="6 forward passes, 1 backward pass, and the search for levels",
    order=0,
)

EDGEVIT_CODEBOOK = Method(
    name="edgevit-codebook",
    summary="edgevit with 2^k levels anywhere: more accurate below 8 bits, slower on the device",
    source="edgevit's, and Lloyd 1982 and Max 1960 for the levels",
    calibrate=calibrate_with_codebooks,
    needs="codebook grids where offered, else those of edgevit",
    cost=EDGEVIT.cost,
    order=0,
)
