"""RepQ-ViT: quantize LayerNorm outputs channel by channel, then move that into the weights.

Source: Li et al., "RepQ-ViT: Scale reparameterization for post-training quantization of vision
transformers" (ICCV 2023, arXiv 2212.08254) and its official code.

1. One pass through the images, each layer fed by the quantized layers before it. LayerNorm outputs
   get a grid per channel, all other tensors one grid, weights one per row; all asymmetric, the
   best of three percentiles. The softmax has a log-sqrt2 grid (section 3.3).
2. Scales and zero points of the channels become their means; LayerNorm and the next linear take
   up the difference (section 3.2). The head keeps one grid, as in the official code.
3. The weights so changed are calibrated again.

One departure: the mean zero point is rounded. The official code keeps its fraction inside the
clamp, where codes are no longer whole numbers and a k-bit grid has up to 2^k + 1 values. Two of
the grids run on no integer engine here; `repq-vit-int` is what is left of the method without them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgevit.calibration.rewrites.layernorm import foldable, reparameterize
from edgevit.calibration.run import Calibrator, Method, Run
from edgevit.calibration.search.percentiles import (
    ChannelGrid,
    channel_grid,
    tensor_grid,
    weight_grid,
)
from edgevit.graph.interpret import run_graph
from edgevit.graph.model import Gemm, Site
from edgevit.graph.sharing import shared_grid_sites
from edgevit.graph.sites import Role
from edgevit.quantizers.quantized_graph import (
    Grid,
    QuantizedGraph,
    float_product,
    integer_linear,
    matmul_layer,
)
from edgevit.quantizers.spec import GridSpec

Specs = dict[str, GridSpec]


@dataclass(kw_only=True)
class SeenGrids:
    """The grids that the pass over the images fixes.

    Args:
        tensors: Site -> its grid; layers that read one tensor share the first one's.
        channels: LayerNorm -> the grids of its channels.
    """

    tensors: dict[str, Grid] = field(default_factory=dict)
    channels: dict[str, ChannelGrid] = field(default_factory=dict)


def repq(*, paper: bool) -> Calibrator:
    """Return the calibrator, with the paper's grids or with those offered first."""
    return lambda run: calibrate(run, paper_specs(run) if paper else first_specs(run))


def first_specs(run: Run) -> Specs:
    """Return site -> the grid its target likes best."""
    return {name: offered[0] for name, offered in run.placement.options.items()}


def paper_specs(run: Run) -> Specs:
    """Return site -> the paper's grid.

    Raises:
        UnsupportedError: The target does not offer one of them (EV306).
    """
    sites = [site for site in run.graph.sites if site.name in run.sites]
    return {site.name: _paper_spec(run, site) for site in sites}


def _paper_spec(run: Run, site: Site) -> GridSpec:
    kind = "log-sqrt2" if site.role is Role.SOFTMAX_OUT else "asymmetric"
    what = f"repq-vit needs {kind} grids (repq-vit-int does without)"
    return run.placement.require(site.name, lambda spec: spec.label() == kind, what)


@torch.no_grad()
def calibrate(run: Run, specs: Specs) -> QuantizedGraph:
    """Return the quantized graph, every site on a grid of its specification."""
    leader, quantized = shared_grid_sites(run.graph), run.quantized()
    folds = [(f, ls) for f, ls in foldable(run.graph, run.sites) if not _feeds_head(ls)]
    norms = {linear.name: feed.ln for feed, linears in folds for linear in linears}
    seen = _look(run, specs, leader, norms)
    for feed, linears in folds:
        site = leader[linears[0].left.name]
        grid, shift, factor = seen.channels[feed.ln].layerwise(specs[site])
        seen.tensors[site] = grid
        reparameterize(run.graph, feed, linears, shift, factor)
    for gemm in run.gemms:
        left = seen.tensors[leader[gemm.left.name]]
        if gemm.weight is None:
            right = seen.tensors[leader[gemm.right.name]]
            quantized.layers[gemm.name] = matmul_layer(left, right)
        else:
            weight, bias = run.graph.weight(gemm), run.graph.bias(gemm)
            rows = weight_grid(specs[gemm.right.name], weight)
            quantized.layers[gemm.name] = integer_linear(left, rows, weight, bias)
    return quantized


def _feeds_head(linears: list[Gemm]) -> bool:
    return any(linear.left.role is Role.HEAD_IN for linear in linears)


def _look(run: Run, specs: Specs, leader: dict[str, str], norms: dict[str, str]) -> SeenGrids:
    """Fix all activation grids in one pass in which every layer decided is quantized.

    Args:
        norms: Gemm name -> the LayerNorm that feeds it, where channels get their own grids.
    """
    seen, wanted = SeenGrids(), [gemm.name for gemm in run.gemms]

    def rounded(site: Site, x: Tensor) -> Tensor:
        name = leader[site.name]
        if name not in seen.tensors:
            seen.tensors[name] = tensor_grid(specs[name], x)
        return seen.tensors[name].fake_quantize(x)

    def normalised(gemm: Gemm, x: Tensor) -> Tensor:
        norm = norms[gemm.name]
        if norm not in seen.channels:
            seen.channels[norm] = channel_grid(specs[leader[gemm.left.name]].bits, x)
        return seen.channels[norm].fake_quantize(x)

    def product(gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
        if gemm.name not in wanted:
            return float_product(run.graph, gemm, left, right)
        left = normalised(gemm, left) if gemm.name in norms else rounded(gemm.left, left)
        run.progress("layers", wanted.index(gemm.name) + 1, len(wanted))
        if gemm.weight is None:
            return torch.matmul(left, left if right is None else rounded(gemm.right, right))
        weight = run.graph.weight(gemm)
        weight = weight_grid(specs[gemm.right.name], weight).fake_quantize(weight)
        return torch.nn.functional.linear(left, weight, run.graph.bias(gemm))

    run_graph(run.graph, run.images_at_once, gemm=product)
    return seen


REPQ_VIT = Method(
    name="repq-vit",
    summary="LayerNorm reparameterisation, log-sqrt2 softmax, asymmetric weights, percentiles",
    source="Li et al., ICCV 2023, arXiv 2212.08254 (zero points rounded)",
    calibrate=repq(paper=True),
    cost="1 forward pass",
    needs="log-sqrt2 grids and asymmetric weights: simulation only",
    order=40,
)
REPQ_VIT_INT = Method(
    name="repq-vit-int",
    summary="The deployable subset of repq-vit: uniform softmax, symmetric weights, q, k and v",
    source="Li et al., ICCV 2023, arXiv 2212.08254, without the grids no engine runs",
    calibrate=repq(paper=False),
    cost="1 forward pass",
    order=40,
)
