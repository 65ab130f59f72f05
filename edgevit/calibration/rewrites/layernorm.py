"""Moves the spread between a LayerNorm's output channels into the next layer's weights.

Source: Li et al., "RepQ-ViT: Scale reparameterization for post-training quantization of vision
transformers" (arXiv 2212.08254), section 3.2. A LayerNorm's affine and the following linear
absorb any per-channel ``x' = (x - shift) / factor`` exactly; here the factor is RepQ's channel
width to a power a in [0, 1] (a = 1 is RepQ, as in SmoothQuant, arXiv 2211.10438, a < 1 leaves
part of the spread in the activation), chosen by the rounding noise expected of both operands.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgevit.calibration.statistics.ranges import ChannelRange, Ranges
from edgevit.graph.layernorm import LayerNormFeed, ln_of
from edgevit.graph.model import Gemm, Graph

EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def fold_layernorms(
    graph: Graph, ranges: Ranges, *, weight_bits: int, act_bits: int, sites: set[str]
) -> list[str]:
    """Reparameterise every LayerNorm that feeds only quantized linears; return their names.

    Changes the graph's constants (the function it computes stays the same) and `ranges`.

    Args:
        sites: Names of the input sites that will be quantized.
    """
    folded: list[str] = []
    for feed, linears in foldable(graph, sites):
        shift, factor, _ = best_fold(graph, linears, ranges, weight_bits, act_bits)
        reparameterize(graph, feed, linears, shift, factor)
        for linear in linears:
            ranges[linear.left.name] = ranges[linear.left.name].rescaled(shift, factor)
        folded.append(feed.ln)
    return folded


def foldable(graph: Graph, sites: set[str]) -> list[tuple[LayerNormFeed, list[Gemm]]]:
    """Return every LayerNorm that feeds only linears whose input site is in `sites`, with them."""
    found: dict[str, tuple[LayerNormFeed, list[Gemm]]] = {}
    for gemm in graph.gemms:
        feed = ln_of(graph, gemm) if gemm.left.name in sites else None
        if feed is None or feed.ln in found:
            continue
        linears = [g for g in graph.gemms if g.name in feed.linears]
        if all(linear.left.name in sites for linear in linears):
            found[feed.ln] = (feed, linears)
    return list(found.values())


def best_fold(
    graph: Graph, linears: list[Gemm], ranges: Ranges, weight_bits: int, act_bits: int
) -> tuple[Tensor, Tensor, float]:
    """Return the shift [C] and factor [C] with the least expected rounding noise, and that."""
    seen = ranges[linears[0].left.name]
    weight = torch.cat([graph.weight(g) for g in linears])  # [sum of out, C]
    width = (seen.typical_high - seen.typical_low).clamp_min(1e-6)  # [C]
    shift = (seen.typical_high + seen.typical_low) / 2  # [C]
    spread = width / width.log().mean().exp()  # [C], geometric mean 1
    factors = [spread**exponent for exponent in EXPONENTS]
    noises = [rounding_noise(seen, weight, width, shift, f, weight_bits, act_bits) for f in factors]
    return shift, factors[noises.index(min(noises))], min(noises)


def rounding_noise(
    seen: ChannelRange,
    weight: Tensor,
    width: Tensor,
    shift: Tensor,
    factor: Tensor,
    weight_bits: int,
    act_bits: int,
) -> float:
    """Return the expected squared output error per token, from step^2 / 12 of both grids."""
    moved, scaled = seen.rescaled(shift, factor), weight * factor
    act_step = float((width / factor).amax()) / float((1 << act_bits) - 1)
    act_noise = act_step**2 * float(scaled.square().sum())
    weight_step = scaled.abs().amax(1) / float(1 << (weight_bits - 1))  # [out]
    weight_noise = float(weight_step.square().sum()) * float(moved.mean_square.sum())
    return act_noise + weight_noise


def reparameterize(
    graph: Graph, feed: LayerNormFeed, linears: list[Gemm], shift: Tensor, factor: Tensor
) -> None:
    """Replace the LayerNorm's output x by (x - shift) / factor and undo it in the linears.

    Gamma / f, (beta - c) / f, W diag(f), b + W c (RepQ-ViT eq. 10-12 in this notation).

    Args:
        linears: All that read the LayerNorm; their constants change with it.
        shift, factor: float32 [C], c and f.
    """
    gamma, beta = graph.constant(feed.weight), graph.constant(feed.bias)
    graph.set_constant(feed.weight, gamma / factor)
    graph.set_constant(feed.bias, (beta - shift) / factor)
    undo(graph, linears, shift, factor)


def undo(graph: Graph, linears: list[Gemm], shift: Tensor, factor: Tensor) -> None:
    """Let linears read (x - shift) / factor in place of x; shift and factor float32 [C]."""
    for linear in linears:
        weight = graph.weight(linear)
        graph.set_bias(linear, graph.bias(linear) + weight @ shift)
        graph.set_weight(linear, weight * factor)
