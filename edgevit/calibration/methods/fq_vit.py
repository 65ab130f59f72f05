"""FQ-ViT: power-of-two factors for LayerNorm channels and a log2 softmax.

Source: Lin et al., "FQ-ViT: Post-training quantization for fully quantized vision transformer"
(IJCAI 2022, arXiv 2111.13824) and its official code: ranges are plain minima and maxima, weights
symmetric per row, activations asymmetric.

What differs from the paper: there the whole network runs in integers, the power-of-two factors
(PTF) are put on the LayerNorm's *input*, whose statistics are then summed with shifts, and the
softmax itself is an integer program (Log-Int-Softmax). Here LayerNorm and softmax run
in float32 on every target, so that neither has anything to gain. What carries over is done: the
factors 2^alpha, alpha in 0 to 3, are put on the LayerNorm's *output*, chosen channel by channel
by squared error as in the paper and folded without any rounding into LayerNorm and the linears
behind it, the head's as well; the softmax's output has the paper's log2 grid with s = 1. It has
the width asked for (the paper: always 4 bits) and its last code is zero (the paper's zero is one
more level). Published numbers of FQ-ViT are therefore not comparable.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgevit.calibration.rewrites.layernorm import foldable, reparameterize
from edgevit.calibration.run import Method, Run
from edgevit.calibration.search.shared_grids import GridChooser
from edgevit.calibration.search.weight_scales import minmax_scale
from edgevit.calibration.statistics.ranges import ChannelRange, batches
from edgevit.graph.interpret import run_graph
from edgevit.graph.layernorm import LayerNormFeed
from edgevit.graph.model import Gemm, Site
from edgevit.graph.sites import Role
from edgevit.quantizers.log import LogGrid
from edgevit.quantizers.quantized_graph import (
    QuantizedGraph,
    float_product,
    integer_linear,
    matmul_layer,
)
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.uniform import UniformGrid

MAX_ALPHA = 3  # the paper's K
Specs = dict[str, GridSpec]


@torch.no_grad()
def calibrate(run: Run) -> QuantizedGraph:
    """Return the quantized graph.

    Raises:
        UnsupportedError: The target has no log2 grid for the softmax (EV306).
    """
    specs = {s.name: _spec(run, s) for s in run.graph.sites if s.name in run.sites}
    ranges, quantized = run.observe(), run.quantized()
    folds = foldable(run.graph, run.sites)
    grids = GridChooser(run.graph, lambda site: _minmax(specs[site.name], ranges[site.name]))
    alphas = _alphas(run, folds, grids)
    for feed, linears in folds:
        site, factor = linears[0].left, torch.exp2(alphas[feed.ln].float())  # [C]
        grids.keep(site, finest(grids.grid(site)))
        reparameterize(run.graph, feed, linears, torch.zeros_like(factor), factor)
    for gemm in run.graph.gemms:
        if gemm.left.name not in specs:
            continue
        left = grids.grid(gemm.left)
        if gemm.weight is None:
            log2 = specs[gemm.left.name].kind in LogGrid.kinds
            soft = LogGrid(spec=specs[gemm.left.name], scale=torch.ones(())) if log2 else left
            quantized.layers[gemm.name] = matmul_layer(soft, grids.grid(gemm.right))
        else:
            weight, bias = run.graph.weight(gemm), run.graph.bias(gemm)
            spec = specs[gemm.right.name]
            rows = UniformGrid.symmetric(spec, minmax_scale(weight, spec))
            quantized.layers[gemm.name] = integer_linear(left, rows, weight, bias)
    return quantized


def _spec(run: Run, site: Site) -> GridSpec:
    """Return the paper's grid for a site."""
    if site.role is Role.WEIGHT:
        kind = "symmetric"
    else:
        kind = "log2" if site.role is Role.SOFTMAX_OUT else "asymmetric"
    what = f"fq-vit needs {kind} grids"
    return run.placement.require(site.name, lambda spec: spec.label() == kind, what)


def _minmax(spec: GridSpec, seen: ChannelRange) -> UniformGrid:
    """Return the grid that covers all that was seen (not used where the grid is log2)."""
    return UniformGrid.from_range(spec, float(seen.low.min()), float(seen.high.max()))


def finest(grid: UniformGrid) -> UniformGrid:
    """Return the grid of a channel with alpha = 0: 2^K times finer, with the same zero point."""
    scale = grid.scale / float(1 << MAX_ALPHA)
    return UniformGrid(spec=grid.spec, scale=scale, zero_point=grid.zero_point)


def alpha_errors(grid: UniformGrid, x: Tensor) -> Tensor:
    """Return [K + 1, C]: the squared error of channels of float32 x [..., C] for each alpha."""
    flat, fine = x.reshape(-1, x.shape[-1]), finest(grid)  # [T, C]
    factors = [float(1 << alpha) for alpha in range(MAX_ALPHA + 1)]
    errors = [fine.fake_quantize(flat / f).mul_(f).sub_(flat).square_().sum(0) for f in factors]
    return torch.stack(errors)


def _alphas(
    run: Run,
    folds: list[tuple[LayerNormFeed, list[Gemm]]],
    grids: GridChooser[UniformGrid],
) -> dict[str, Tensor]:
    """Return LayerNorm -> the best alpha of each channel, [C], in one pass over the images."""
    first = {linears[0].name: feed.ln for feed, linears in folds}
    errors: dict[str, Tensor] = {}

    def look(gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
        if gemm.name in first:
            norm, found = first[gemm.name], alpha_errors(grids.grid(gemm.left), left)
            errors[norm] = errors[norm] + found if norm in errors else found
        return float_product(run.graph, gemm, left, right)

    done = 0
    for batch in batches(run.images, run.batch_size):
        run_graph(run.graph, batch, gemm=look)
        done += len(batch)
        run.progress("power-of-two factors", done, len(run.images))
    return {norm: error.argmin(0) for norm, error in errors.items()}


FQ_VIT = Method(
    name="fq-vit",
    summary="Power-of-two LayerNorm factors, log2 softmax, min-max ranges (LayerNorm in float)",
    source="Lin et al., IJCAI 2022, arXiv 2111.13824 (what carries over, see its module)",
    calibrate=calibrate,
    num_images=1000,
    cost="2 forward passes",
    needs="log2 and asymmetric grids: simulation only",
    order=50,
)
