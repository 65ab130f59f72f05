"""Methods that look at every layer on its own, all inputs being float32 ones.

Stages: ranges -> exact rewrites (LayerNorms, heads) -> statistics -> grids -> bias correction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from edgevit.calibration.rewrites.bias import correct_biases
from edgevit.calibration.rewrites.channels import equalize_channels
from edgevit.calibration.rewrites.heads import common_step, equalize_heads
from edgevit.calibration.rewrites.layernorm import fold_layernorms
from edgevit.calibration.rewrites.rotation import rotate_where_it_pays
from edgevit.calibration.run import Calibrator, Run
from edgevit.calibration.search import activation_grids, weight_scales
from edgevit.calibration.search.head_steps import head_steps
from edgevit.calibration.search.missing_grids import missing_notes
from edgevit.calibration.search.shared_grids import GridChooser
from edgevit.calibration.statistics.fisher import Statistics
from edgevit.calibration.statistics.histogram import Histogram
from edgevit.calibration.statistics.ranges import Ranges
from edgevit.graph.model import Gemm, Site
from edgevit.graph.sites import Role
from edgevit.quantizers.codebook import CodebookGrid
from edgevit.quantizers.quantized_graph import (
    Grid,
    IntegerMatmul,
    Layer,
    QuantizedGraph,
    integer_linear,
)
from edgevit.quantizers.spec import GridSpec, Placement
from edgevit.quantizers.twin import TwinGrid
from edgevit.quantizers.uniform import UniformGrid

PILOT_IMAGES = 8  # enough to see which channels are wide
FREE_HEADS_BITS = 8
"""From this width on q and k heads are balanced, which costs nothing at run time."""


@dataclass(frozen=True, kw_only=True)
class SearchChoices:
    """The choices by which such methods differ.

    Args:
        activations: How activation grids are chosen.
        weights: How weight scales are chosen.
        per_tensor_weights: One scale per tensor (three for a fused qkv), not per channel; the
            patch embedding keeps one per channel, as in PTQ4ViT's configuration.
        symmetric_activations: Zero points in the middle of the code range.
        twin: Use twin grids where the target offers them and they have less error.
        codebook: Use codebooks likewise.
        codebook_share: Share of the elements of all activations that may be looked up in tables.
        kinds: Further kinds of grid to use likewise.
        rotate_streams: Rotate residual streams, and the values of heads, where that pays.
        fold_layernorms: Reparameterise LayerNorms (RepQ-ViT).
        equalize_channels: Even out the channels of q, k and v inside each head.
        equalize_heads: One step per attention head instead of one per tensor.
        correct_biases: Move mean errors into the biases.
        exact_heads: Search the steps of q and k head by head on the product itself; heads then
            have steps of their own at every width.
    """

    activations: Literal["minmax", "percentile", "mse", "fisher"]
    weights: Literal["minmax", "percentile", "mse", "gram"]
    per_tensor_weights: bool = False
    symmetric_activations: bool = False
    twin: bool = False
    codebook: bool = False
    codebook_share: float = 1.0
    kinds: tuple[str, ...] = ()
    rotate_streams: bool = False
    fold_layernorms: bool = False
    equalize_channels: bool = False
    equalize_heads: bool = True
    correct_biases: bool = False
    exact_heads: bool = False

    @property
    def needs_gradient(self) -> bool:
        """Return whether it needs the Fisher pass (a backward pass through the model)."""
        return self.activations == "fisher" or self.weights == "gram"

    @property
    def uneven_kinds(self) -> frozenset[str]:
        """Kinds of grid that it uses where they are offered and have less error than uniform."""
        twins = TwinGrid.kinds if self.twin else ()
        codebooks = CodebookGrid.kinds if self.codebook else ()
        return frozenset((*twins, *codebooks, *self.kinds))


def parallel(choices: SearchChoices) -> Calibrator:
    """Return the calibrator that makes these choices."""
    return lambda run: calibrate_parallel(run, choices)


def calibrate_parallel(run: Run, choices: SearchChoices) -> QuantizedGraph:
    """Return the quantized graph."""
    steps: dict[str, Tensor] = {}
    ranges = rewritten(run, choices, steps)
    statistics = Statistics()
    if choices.activations != "minmax" or choices.weights == "gram":
        statistics = run.statistics(ranges, weighted=choices.needs_gradient)
    quantized = run.quantized()
    _choose_grids(quantized, ranges, statistics, choices, run, steps)
    if choices.twin:
        quantized.notes += missing_notes(
            run.graph,
            run.placement,
            statistics,
            lambda site: left_grid(quantized.layers[site.gemm]),
            must_save=OPERATORS_MUST_SAVE,
            everywhere=True,
        )
    if choices.correct_biases:
        correct_biases(quantized, run.images_at_once, run.progress)
    return quantized


def rewritten(run: Run, choices: SearchChoices, steps: dict[str, Tensor] | None = None) -> Ranges:
    """Apply the exact rewrites asked for to the run's graph; return the ranges of its sites.

    Args:
        steps: Gets site -> float32 [], the step of q or k where `choices.exact_heads` found one.
    """
    if choices.rotate_streams:
        rotate_where_it_pays(replace(run, images=run.images[:PILOT_IMAGES]))
    if choices.equalize_channels:
        equalize_channels(replace(run, images=run.images[:PILOT_IMAGES]))
    ranges, placement = run.observe(), run.placement
    if choices.fold_layernorms:
        bits = {"weight_bits": placement.weight_bits, "act_bits": placement.act_bits}
        fold_layernorms(run.graph, ranges, sites=run.sites, **bits)
    if choices.equalize_heads:
        per_head = head_steps(run, ranges) if choices.exact_heads and steps is not None else {}
        balanced = placement.act_bits >= FREE_HEADS_BITS and not per_head
        equalize_heads(run.graph, ranges, run.sites, balanced=balanced, steps=per_head)
        if steps is not None:
            steps |= {name: common_step(value) for name, value in per_head.items()}
    return {name: value for name, value in ranges.items() if name in run.sites}


def left_grid(layer: Layer) -> Grid:
    """Return the grid of the tensor that a layer in integers reads first."""
    if layer.has_integer_sums:
        return layer.grids[0]
    raise TypeError(f"{type(layer).__name__} is no layer in integers")


@torch.no_grad()
def _choose_grids(
    quantized: QuantizedGraph,
    ranges: Ranges,
    statistics: Statistics,
    choices: SearchChoices,
    run: Run,
    steps: dict[str, Tensor],
) -> None:
    gemms = [g for g in quantized.graph.gemms if g.left.name in ranges]
    grids = GridChooser(
        run.graph, lambda site: activation_grid(run.placement, site, ranges, statistics, choices)
    )
    for done, gemm in enumerate(gemms, 1):
        if gemm.kind == "qk" and gemm.left.name in steps:
            quantized.layers[gemm.name] = _from_steps(run.placement, gemm, steps)
            continue
        left = grids.grid(gemm.left)
        if gemm.weight is not None:
            weight, bias = run.graph.weight(gemm), run.graph.bias(gemm)
            weight_grid = _weight_grid(quantized, gemm, weight, left, statistics, choices)
            quantized.layers[gemm.name] = integer_linear(left, weight_grid, weight, bias)
        elif gemm.right.name in ranges:
            right = grids.choose(gemm.right)
            quantized.layers[gemm.name] = IntegerMatmul(left=left, right=right)
        run.progress("grids", done, len(gemms))


def _from_steps(placement: Placement, gemm: Gemm, steps: dict[str, Tensor]) -> IntegerMatmul:
    left, right = (
        UniformGrid.symmetric(_symmetric(placement.options[site.name]), steps[site.name])
        for site in (gemm.left, gemm.right)
    )
    return IntegerMatmul(left=left, right=right)


def _symmetric(options: tuple[GridSpec, ...]) -> GridSpec:
    return next(spec for spec in options if spec.fixed_zero_point is not None)


def activation_grid(
    placement: Placement, site: Site, ranges: Ranges, statistics: Statistics, choices: SearchChoices
) -> Grid:
    """Return the grid of one activation."""
    spec = _pick_uniform(placement.options[site.name], choices)
    empty = Histogram(
        low=float(ranges[site.name].low.min()), high=float(ranges[site.name].high.max())
    )
    histogram = statistics.histograms.get(site.name, empty)
    if choices.activations == "minmax":
        return activation_grids.minmax_grid(spec, histogram)
    if choices.activations == "percentile":
        return activation_grids.percentile_grid(spec, histogram)
    grid: Grid = activation_grids.search_grid(spec, histogram)
    limit = (1 - OPERATORS_MUST_SAVE) * activation_grids.error(grid, histogram)
    for other in _uneven(placement.options[site.name], histogram, choices):
        error = activation_grids.error(other, histogram)
        if error < limit:
            grid, limit = other, error
    return grid


OPERATORS_MUST_SAVE = 0.1
"""Share of the error that must be saved by what takes more operators at run time, such as an
uneven grid in place of a uniform one."""


def _uneven(
    options: tuple[GridSpec, ...], histogram: Histogram, choices: SearchChoices
) -> Iterator[Grid]:
    """Yield the best grid of each uneven kind that is offered and wanted."""
    for spec in options:
        if spec.kind in choices.uneven_kinds:
            yield activation_grids.search_grid(spec, histogram)


def _pick_uniform(options: tuple[GridSpec, ...], choices: SearchChoices) -> GridSpec:
    """Return the first uniform grid offered, symmetric if the method wants and it is offered."""
    uniform = [spec for spec in options if spec.kind in UniformGrid.kinds]
    wanted = [spec for spec in uniform if spec.symmetric == choices.symmetric_activations]
    return (wanted or uniform)[0]


def _weight_grid(
    quantized: QuantizedGraph,
    gemm: Gemm,
    weight: Tensor,
    left: Grid,
    statistics: Statistics,
    choices: SearchChoices,
) -> UniformGrid:
    spec = quantized.placement.options[gemm.right.name][0]
    if choices.weights == "minmax":
        return UniformGrid.symmetric(spec, weight_scales.minmax_scale(weight, spec))
    if choices.weights == "percentile":
        percentiles = activation_grids.PERCENTILES
        scale = weight_scales.percentile_scale(weight, spec, percentiles)
        return UniformGrid.symmetric(spec, scale)
    gram = _noisy_gram(gemm, left, statistics) if choices.weights == "gram" else None
    if choices.per_tensor_weights and gemm.left.role is Role.PATCH_IN:
        return UniformGrid.symmetric(spec, weight_scales.scan_scale(weight, spec, gram))
    if choices.per_tensor_weights:
        groups = 3 if weight.shape[0] == 3 * weight.shape[1] else 1
        rows = statistics.rows.get(gemm.name)
        scale = weight_scales.search_shared_scale(weight, spec, gram, rows, groups)
        return UniformGrid.symmetric(spec, scale)
    return UniformGrid.symmetric(spec, weight_scales.search_scale(weight, spec, gram))


def _noisy_gram(gemm: Gemm, left: Grid, statistics: Statistics) -> Tensor:
    """Return X^T X plus what the input's rounding adds to its diagonal: tokens * step^2 / 12."""
    gram = statistics.grams.pop(gemm.name)
    tokens = sum(float(part.sum()) for part in statistics.importance[gemm.name])
    noise = float(left.unit) ** 2 / 12 * tokens
    gram.diagonal().add_(noise)
    return gram
