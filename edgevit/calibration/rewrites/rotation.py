"""Rotates residual streams and the values of attention heads, so that no channel stands out.

With Q orthogonal, writers become Q W and readers W Q^T: the function stays the same, outlier
channels spread over all of them, and nothing is left to do at run time (QuaRot, arXiv 2404.00456;
for vision transformers GLF-Q's offline Hadamard). Those rotate behind RMSNorm, into which every
LayerNorm has to be rewritten first. Here Q also keeps the vector of ones, Q 1 = 1. Such a matrix
keeps each token's mean and its variance, so that LayerNorm(Q x) = Q LayerNorm(x) up to the affine:
LayerNorms stay what engines have fast kernels for, and streams whose LayerNorm reads several
tokens side by side (Swin's patch merging) can be rotated too. The channels of v within a head meet
nothing but the columns of the projection behind P V, which turn back. A stream or an attention is
rotated where that lowers the rounding noise to be expected of the linears that read it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgevit.calibration.rewrites.layernorm import best_fold, foldable, undo
from edgevit.calibration.run import Run
from edgevit.graph.channels import head_channels, input_head_channels
from edgevit.graph.model import Gemm, Graph
from edgevit.graph.stream import Stream, find_streams


@dataclass(frozen=True, kw_only=True)
class Values:
    """The values of one attention, from the linear that makes them to the one that reads P V.

    Args:
        writer: fx node name of the linear in front.
        rows: int64 [H, D], its output channels in each head.
        reader: fx node name of the linear behind.
        columns: int64 [H, D], its input channels in each head.
    """

    writer: str
    rows: Tensor
    reader: str
    columns: Tensor

    @property
    def channels(self) -> int:
        """D."""
        return int(self.rows.shape[1])


def rotate_where_it_pays(run: Run) -> list[Stream | Values]:
    """Rotate the streams and values of the run's graph whose readers gain; return them.

    Changes the graph's constants; the function it computes stays the same.
    """
    found: list[Stream | Values] = [*find_streams(run.graph), *find_values(run.graph)]
    if not found:
        return []
    turned = replace(run, graph=run.graph.clone())
    for each in found:
        rotate(turned.graph, each, mean_keeping_rotation(each.channels, run.seed))
    before, after = _noises(run), _noises(turned)
    chosen = [each for each in found if _mean_ratio(each, before, after) < 1]
    for each in chosen:
        rotate(run.graph, each, mean_keeping_rotation(each.channels, run.seed))
    return chosen


def find_values(graph: Graph) -> list[Values]:
    """Return the values of every attention whose heads' channels only the projection mixes."""
    found = []
    for gemm in graph.gemms:
        if gemm.kind != "pv":
            continue
        source, behind = head_channels(graph, gemm.right), input_head_channels(graph, gemm)
        if source is not None and behind is not None and source[1].shape == behind[1].shape:
            (writer, rows), (reader, columns) = source, behind
            found.append(Values(writer=writer, rows=rows, reader=reader, columns=columns))
    return found


def _noises(run: Run) -> dict[str, float]:
    """Return linear -> rounding noise to be expected of it once its channels are evened out.

    Of linears behind one LayerNorm it is that of all, under each of their names.
    """
    ranges, placement = run.observe(), run.placement
    bits = (placement.weight_bits, placement.act_bits)
    groups = [gemms for _, gemms in foldable(run.graph, run.sites)]
    readers = [run.graph.gemm(values.reader) for values in find_values(run.graph)]
    groups += [[gemm] for gemm in readers if gemm.left.name in run.sites]
    noises = [best_fold(run.graph, gemms, ranges, *bits)[2] for gemms in groups]
    return {gemm.name: noise for gemms, noise in zip(groups, noises, strict=True) for gemm in gemms}


def _mean_ratio(
    turned: Stream | Values, before: dict[str, float], after: dict[str, float]
) -> float:
    """Return the geometric mean, over the linears that read it, of after / before."""
    readers = (
        [turned.reader] if isinstance(turned, Values) else [f.linears[0] for f in turned.feeds]
    )
    known = [name for name in readers if before.get(name, 0) > 0]
    if not known:
        return math.inf
    logs = [math.log(after[name] / before[name]) for name in known]
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


def rotate(graph: Graph, turned: Stream | Values, rotation: Tensor) -> None:
    """Rotate a stream, or the values in every head, by float64 [C, C], Q with Q 1 = 1.

    Changes the graph's constants; the function it computes stays the same. LayerNorms that read
    a stream leave their affine to the linears behind them.
    """
    if isinstance(turned, Values):
        _rotate_values(graph, turned, rotation)
    else:
        _rotate_stream(graph, turned, rotation)


def _rotate_stream(graph: Graph, stream: Stream, rotation: Tensor) -> None:
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


def _rotate_values(graph: Graph, values: Values, rotation: Tensor) -> None:
    writer, reader = graph.gemm(values.writer), graph.gemm(values.reader)
    rows, columns = values.rows.reshape(-1), values.columns.reshape(-1)
    weight, bias = graph.weight(writer).clone(), graph.bias(writer).clone()
    weight[rows] = _turned(weight[rows].T, rotation).T
    bias[rows] = _turned(bias[rows], rotation)
    graph.set_weight(writer, weight)
    graph.set_bias(writer, bias)
    behind = graph.weight(reader).clone()
    behind[:, columns] = _turned(behind[:, columns], rotation)
    graph.set_weight(reader, behind)


def _turned(rows: Tensor, rotation: Tensor) -> Tensor:
    """Return x Q^T for every run of C numbers x along the last axis of float32 [..., r C]."""
    runs = rows.double().reshape(*rows.shape[:-1], -1, len(rotation))
    return (runs @ rotation.T).reshape(rows.shape).float()


def _give_affine_away(graph: Graph, weight: str, bias: str, linears: list[Gemm]) -> None:
    gamma, beta = graph.constant(weight), graph.constant(bias)
    undo(graph, linears, beta, gamma)
    graph.set_constant(weight, torch.ones_like(gamma))
    graph.set_constant(bias, torch.zeros_like(beta))
