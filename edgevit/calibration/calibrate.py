"""Runs one method: from a canonical graph, a Placement and images to a QuantizedGraph.

Stages: ranges -> exact rewrites (LayerNorms, heads) -> statistics -> grids -> bias correction.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgevit.calibration import activation_search, weight_search
from edgevit.calibration.bias import correct_biases
from edgevit.calibration.fisher import Statistics, collect
from edgevit.calibration.heads import equalize_heads
from edgevit.calibration.histogram import Histogram
from edgevit.calibration.layernorm import fold_layernorms
from edgevit.calibration.methods import Method
from edgevit.calibration.observe import Ranges, images_per_batch, leaders, observe_ranges
from edgevit.calibration.progress import Progress, silent
from edgevit.graph.model import Gemm, Graph, Site
from edgevit.quantizers.simulation import Grid, IntegerMatmul, QuantizedGraph, integer_linear
from edgevit.quantizers.spec import GridSpec, Placement
from edgevit.quantizers.uniform import UniformGrid

FREE_HEADS_BITS = 8
"""From this width on q and k heads are balanced, which costs nothing at run time."""
MEMORY_BYTES = 1_500_000_000
"""What one streamed batch's activations may take; peak memory is about twice that."""


def calibrate(
    graph: Graph,
    placement: Placement,
    images: Tensor,
    method: Method,
    *,
    seed: int = 0,
    memory_bytes: int = MEMORY_BYTES,
    progress: Progress = silent,
) -> QuantizedGraph:
    """Return the quantized graph; `graph` itself is left as it was.

    Args:
        images: float32 [N, 3, H, W], normalised as the model wants them.
        seed: Seed of the labels drawn for the Fisher weights.
        memory_bytes: Bound on the activations kept at one time.
    """
    graph = graph.clone()
    sites = set(placement.options)
    batch = images_per_batch(graph, images[:1], memory_bytes // 3)
    ranges = observe_ranges(graph, images, batch, progress)
    if method.fold_layernorms:
        bits = {"weight_bits": placement.weight_bits, "act_bits": placement.act_bits}
        fold_layernorms(graph, ranges, sites=sites, **bits)
    if method.equalize_heads:
        equalize_heads(graph, ranges, sites, balanced=placement.act_bits >= FREE_HEADS_BITS)
    ranges = {name: value for name, value in ranges.items() if name in sites}
    statistics = Statistics()
    if method.activations != "minmax" or method.weights == "gram":
        statistics = collect(
            graph,
            images,
            ranges,
            batch_size=batch,
            seed=seed,
            weighted=method.needs_gradient,
            progress=progress,
        )
    quantized = QuantizedGraph(graph=graph, placement=placement, notes=list(placement.notes))
    _choose_grids(quantized, ranges, statistics, method, progress)
    if method.correct_biases:
        correct_biases(quantized, images[: _images_at_once(batch)], progress)
    return quantized


def _images_at_once(batch: int) -> int:
    """Images for the bias pass: only a few tensors live there at a time, not all of them."""
    return max(32, min(64, batch))


@torch.no_grad()
def _choose_grids(
    quantized: QuantizedGraph,
    ranges: Ranges,
    statistics: Statistics,
    method: Method,
    progress: Progress,
) -> None:
    gemms = [g for g in quantized.graph.gemms if g.left.name in ranges]
    leader, chosen = leaders(quantized.graph), {}
    for done, gemm in enumerate(gemms, 1):
        shared = leader[gemm.left.name]
        if shared not in chosen:
            chosen[shared] = _activation_grid(quantized, gemm.left, ranges, statistics, method)
        left = chosen[shared]
        if gemm.weight is not None:
            weight = quantized.graph.constant(gemm.weight)
            weight_grid = _weight_grid(quantized, gemm, weight, left, statistics, method)
            bias = None if gemm.bias is None else quantized.graph.constant(gemm.bias)
            quantized.layers[gemm.name] = integer_linear(left, weight_grid, weight, bias)
        elif gemm.right.name in ranges:
            right = _activation_grid(quantized, gemm.right, ranges, statistics, method)
            quantized.layers[gemm.name] = IntegerMatmul(left=left, right=right)
        progress("grids", done, len(gemms))


def _activation_grid(
    quantized: QuantizedGraph, site: Site, ranges: Ranges, statistics: Statistics, method: Method
) -> Grid:
    spec = _pick_uniform(quantized.placement.options[site.name], method)
    empty = Histogram(
        low=float(ranges[site.name].low.min()), high=float(ranges[site.name].high.max())
    )
    histogram = statistics.histograms.get(site.name, empty)
    if method.activations == "minmax":
        return activation_search.minmax_grid(spec, histogram)
    if method.activations == "percentile":
        return activation_search.percentile_grid(spec, histogram)
    grid = activation_search.searched_grid(spec, histogram)
    twin = _offered_twin(quantized, site) if method.twin else None
    if twin is None:
        return grid
    other = activation_search.searched_grid(twin, histogram)
    found = [activation_search.error(g, histogram) for g in (grid, other)]
    return other if found[1] < TWIN_MUST_SAVE * found[0] else grid


TWIN_MUST_SAVE = 0.9
"""A twin grid costs a few more operations at run time: it has to have at most 0.9 of the error."""


def _offered_twin(quantized: QuantizedGraph, site: Site) -> GridSpec | None:
    options = quantized.placement.options[site.name]
    return next((spec for spec in options if spec.kind != "uniform"), None)


def _pick_uniform(options: tuple[GridSpec, ...], method: Method) -> GridSpec:
    """Return the first uniform grid offered, symmetric if the method wants and it is offered."""
    uniform = [spec for spec in options if spec.kind == "uniform"]
    wanted = [spec for spec in uniform if spec.symmetric == method.symmetric_activations]
    return (wanted or uniform)[0]


def _weight_grid(
    quantized: QuantizedGraph,
    gemm: Gemm,
    weight: Tensor,
    left: Grid,
    statistics: Statistics,
    method: Method,
) -> UniformGrid:
    spec = quantized.placement.options[gemm.right.name][0]
    if method.weights == "minmax":
        return UniformGrid.symmetric(spec, weight_search.minmax_scale(weight, spec))
    if method.weights == "percentile":
        percentiles = activation_search.PERCENTILES
        scale = weight_search.percentile_scale(weight, spec, percentiles)
        return UniformGrid.symmetric(spec, scale)
    gram = _noisy_gram(gemm, left, statistics) if method.weights == "gram" else None
    if method.per_tensor_weights:
        groups = 3 if weight.shape[0] == 3 * weight.shape[1] else 1
        rows = statistics.rows.get(gemm.name)
        scale = weight_search.shared_scale(weight, spec, gram, rows, groups)
        return UniformGrid.symmetric(spec, scale)
    return UniformGrid.symmetric(spec, weight_search.searched_scale(weight, spec, gram))


def _noisy_gram(gemm: Gemm, left: Grid, statistics: Statistics) -> Tensor:
    """Return X^T X plus what the input's rounding adds to its diagonal: tokens * step^2 / 12."""
    gram = statistics.grams.pop(gemm.name)
    noise = float(left.unit) ** 2 / 12 * statistics.tokens[gemm.name]
    gram.diagonal().add_(noise)
    return gram
