"""Rotates the residual stream, so that no channel of it stands out and LayerNorms feed even noise.

With Q orthogonal, writers become Q W and readers W Q^T: the function stays the same, outlier
channels spread over all of them, and nothing is left to do at run time (QuaRot, arXiv 2404.00456;
for vision transformers GLF-Q's offline Hadamard). Those rotate behind RMSNorm, into which every
LayerNorm has to be rewritten first. Here Q also keeps the vector of ones, Q 1 = 1. Such a matrix
keeps each token's mean and its variance, so that LayerNorm(Q x) = Q LayerNorm(x) up to the affine:
LayerNorms stay what engines have fast kernels for, and streams whose LayerNorm reads several
tokens side by side (Swin's patch merging) can be rotated too. A stream is rotated where that lowers
the rounding noise to be expected of the linears behind its LayerNorms.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from edgevit.calibration.rewrites.layernorm import best_fold, foldable
from edgevit.calibration.run import Run
from edgevit.graph.model import Gemm, Graph
from edgevit.graph.stream import Stream, find_streams


def rotate_where_it_pays(run: Run) -> list[Stream]:
    """Rotate the streams of the run's graph whose readers gain; return them.

    Changes the graph's constants; the function it computes stays the same.
    """
    streams = find_streams(run.graph)
    if not streams:
        return []
    turned = replace(run, graph=run.graph.clone())
    for stream in streams:
        rotate(turned.graph, stream, mean_keeping_rotation(stream.channels, run.seed))
    before, after = _noises(run), _noises(turned)
    chosen = [stream for stream in streams if _mean_ratio(stream, before, after) < 1]
    for stream in chosen:
        rotate(run.graph, stream, mean_keeping_rotation(stream.channels, run.seed))
    return chosen


def _noises(run: Run) -> dict[str, float]:
    """Return LayerNorm -> rounding noise to be expected behind it once its channels are folded."""
    ranges, placement = run.observe(), run.placement
    bits = (placement.weight_bits, placement.act_bits)
    pairs = foldable(run.graph, run.sites)
    return {feed.ln: best_fold(run.graph, gemms, ranges, *bits)[2] for feed, gemms in pairs}


def _mean_ratio(stream: Stream, before: dict[str, float], after: dict[str, float]) -> float:
    """Return the geometric mean, over the LayerNorms of a stream, of after / before."""
    norms = [feed.ln for feed in stream.feeds if feed.ln in before]
    if not norms or min(before[ln] for ln in norms) <= 0:
        return math.inf
    logs = [math.log(after[ln] / before[ln]) for ln in norms]
    return math.exp(sum(logs) / len(logs))


def mean_keeping_rotation(channels: int, seed: int) -> Tensor:
    """Return an orthogonal float64 Q [C, C] with Q 1 = 1 that mixes all other directions.

    Vectors are written in cosines (the DCT-II basis, of which the first is constant and every other
    has mean zero), the other cosines get random signs and other places, and are added up again.
    """
    generator = torch.Generator().manual_seed(seed)
    at = torch.arange(channels, dtype=torch.float64)
    basis = torch.cos(torch.pi / channels * (at + 0.5) * at[:, None])  # [C, C], a cosine per row
    basis *= math.sqrt(2 / channels)
    basis[0] /= math.sqrt(2)
    order = torch.cat([torch.zeros(1), 1 + torch.randperm(channels - 1, generator=generator)])
    signs = torch.randint(0, 2, (channels,), generator=generator) * 2.0 - 1.0
    signs[0] = 1
    return basis[order.long()].T @ (signs.double()[:, None] * basis)


def rotate(graph: Graph, stream: Stream, rotation: Tensor) -> None:
    """Rotate a stream by float64 [C, C], an orthogonal Q with Q 1 = 1.

    Changes the graph's constants; the function it computes stays the same. LayerNorms that read
    the stream leave their affine to the linears behind them.
    """
    for feed in stream.feeds:
        _give_affine_away(graph, feed.weight, feed.bias, [graph.gemm(n) for n in feed.linears])
    for name in stream.writers:
        gemm = graph.gemm(name)
        graph.set_weight(gemm, _turned(graph.weight(gemm).T, rotation).T)
        graph.set_bias(gemm, _turned(graph.bias(gemm), rotation))
    for table in stream.tables:
        graph.set_constant(table, _turned(graph.constant(table), rotation))
    readers = [*stream.readers, *(name for feed in stream.feeds for name in feed.linears)]
    for name in dict.fromkeys(readers):
        gemm = graph.gemm(name)
        graph.set_weight(gemm, _turned(graph.weight(gemm), rotation))


def _turned(rows: Tensor, rotation: Tensor) -> Tensor:
    """Return x Q^T for every run of C numbers x along the last axis of float32 [..., r C]."""
    runs = rows.double().reshape(*rows.shape[:-1], -1, len(rotation))
    return (runs @ rotation.T).reshape(rows.shape).float()


def _give_affine_away(graph: Graph, weight: str, bias: str, linears: list[Gemm]) -> None:
    gamma, beta = graph.constant(weight), graph.constant(bias)
    for linear in linears:
        columns = graph.weight(linear)
        graph.set_bias(linear, graph.bias(linear) + columns @ beta)
        graph.set_weight(linear, columns * gamma)
    graph.set_constant(weight, torch.ones_like(gamma))
    graph.set_constant(bias, torch.zeros_like(beta))
