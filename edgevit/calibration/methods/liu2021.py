"""Liu et al.: steps that keep each layer's output correlated with the float32 one.

Source: Liu et al., "Post-training quantization for vision transformer" (NeurIPS 2021, arXiv
2106.14156), section 3.2. In execution order, with inputs that the layers before it have
already rounded, a layer's weight and activation steps are searched in turn in [0.5, 1.2] of the
steps that cover everything; the score is the Pearson correlation of each image's output, minus
for attention scores a ranking loss that keeps their order; then the bias takes the mean error.
One symmetric step per tensor, for weights too (eq. 8-9). Departures: few candidates, coarse to
fine, judged on the first images only; 32 images unless asked, the paper has 100 to 1000; and the
ranking loss is a mean over drawn pairs, because the sum of eq. 13 grows with the attention map and
would drown a correlation, which is at most 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from edgevit.calibration.run import Method, Run
from edgevit.calibration.search.parallel import SearchChoices, activation_grid, rewritten
from edgevit.calibration.search.sequential import Layer, Operands, walk
from edgevit.calibration.search.shared_grids import GridChooser
from edgevit.calibration.statistics.fisher import Statistics
from edgevit.graph.model import Gemm, Graph
from edgevit.graph.operators import aten
from edgevit.graph.shapes import args_of
from edgevit.quantizers.quantized_graph import (
    Grid,
    IntegerLinear,
    IntegerMatmul,
    QuantizedGraph,
    integer_linear,
)
from edgevit.quantizers.uniform import SMALLEST_SCALE, UniformGrid

CHOICES = SearchChoices(activations="minmax", weights="minmax", symmetric_activations=True)
LOWEST, HIGHEST = 0.5, 1.2  # of the step that covers everything
GAMMA, THETA = 0.1, 0.2  # weight and margin of the ranking loss
ROUNDS = 3  # the paper allows 20; the search stops earlier when nothing changes
JUDGED_IMAGES = 16
PAIRS = 64  # of one row of attention scores
_COARSE, _HALVINGS = 8, 2

AnyGrid = TypeVar("AnyGrid", bound=Grid)

Score = Callable[[float, float], float]
"""(share of the left step, share of the right step) -> what is maximised."""


def calibrate(run: Run) -> QuantizedGraph:
    """Return the quantized graph."""
    ranges = rewritten(run, CHOICES)
    quantized = run.quantized()
    grids = GridChooser(
        run.graph, lambda site: activation_grid(run.placement, site, ranges, Statistics(), CHOICES)
    )

    def decide(gemm: Gemm, fp32: Operands, simulated: Operands, output: Tensor) -> Layer:
        judged = _Judged.first(JUDGED_IMAGES, run, simulated, output)
        left = grids.proposed(gemm.left)
        if gemm.weight is None:
            return _matmul(run, gemm, left, grids.choose(gemm.right), judged)
        layer = _linear(run, gemm, left, judged, fixed=gemm.left in grids)
        grids.keep(gemm.left, layer.grid)
        error = layer(simulated.left) - output  # [..., out]
        return replace(layer, bias=layer.bias - error.reshape(-1, error.shape[-1]).mean(0))

    walk(run, quantized, decide, "layers")
    return quantized


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """The data that candidates are judged on: operands of the quantized stream, float32 output."""

    left: Tensor
    right: Tensor | None
    output: Tensor
    images: int

    @staticmethod
    def first(wanted: int, run: Run, simulated: Operands, output: Tensor) -> _Judged:
        """Keep the first images; the first axis is images times something (windows)."""
        total = len(run.images_at_once)
        images = min(wanted, total)

        def cut(x: Tensor) -> Tensor:
            return x[: len(x) // total * images]

        right = None if simulated.right is None else cut(simulated.right)
        return _Judged(left=cut(simulated.left), right=right, output=cut(output), images=images)


def _linear(run: Run, gemm: Gemm, left: Grid, judged: _Judged, *, fixed: bool) -> IntegerLinear:
    """Return a linear in integers; `fixed` if another layer has decided the input's grid."""
    weight, bias = run.graph.weight(gemm), run.graph.bias(gemm)
    spec = run.placement.options[gemm.right.name][0]
    top = (weight.abs().amax() / (spec.qmax + 0.5)).clamp_min(SMALLEST_SCALE)
    right = UniformGrid.symmetric(spec, top.expand(len(weight)))  # [out], all equal

    def score(x_share: float, w_share: float) -> float:
        x = scale_grid(left, x_share).fake_quantize(judged.left)
        w = scale_grid(right, w_share).fake_quantize(weight)
        found = torch.nn.functional.linear(x, w, bias)
        return pearson(judged.output, found, judged.images)

    x_share, w_share = alternate(score, fixed_left=fixed)
    return integer_linear(scale_grid(left, x_share), scale_grid(right, w_share), weight, bias)


def _matmul(run: Run, gemm: Gemm, left: Grid, right: Grid, judged: _Judged) -> IntegerMatmul:
    """Return a product of attention in integers; scores have the ranking loss as well."""
    unit = None
    if gemm.kind == "qk":  # models divide q or the scores by sqrt(D); the margin is meant before
        unit = score_unit(run.graph, gemm) * judged.left.shape[-1] ** 0.5
    pairs = draw_pairs(judged.output.shape[-1], PAIRS, run.seed)

    def score(left_share: float, right_share: float) -> float:
        a = scale_grid(left, left_share).fake_quantize(judged.left)
        b = scale_grid(right, right_share).fake_quantize(_present(judged.right))
        found = torch.matmul(a, b)  # [..., M, N]
        value = pearson(judged.output, found, judged.images)
        if unit is None:
            return value
        return value - GAMMA * ranking_loss(judged.output * unit, found * unit, pairs)

    left_share, right_share = alternate(score)
    return IntegerMatmul(left=scale_grid(left, left_share), right=scale_grid(right, right_share))


def _present(x: Tensor | None) -> Tensor:
    if x is None:
        raise ValueError("a product of two activations has two operands")
    return x


def scale_grid(grid: AnyGrid, share: float) -> AnyGrid:
    """Return the grid with `share` times its step; the zero point stays."""
    return replace(grid, scale=grid.scale * share)


def alternate(score: Score, *, fixed_left: bool = False) -> tuple[float, float]:
    """Return the best (left share, right share) found by searching them in turn.

    Starts at (1, 1) and only ever improves on it. The right one (the weight) goes first, as in
    the paper; ends when a round changes nothing, or after `ROUNDS`.
    """
    left = right = 1.0
    best = score(left, right)
    for _ in range(ROUNDS):
        before = (left, right)
        right, best = _line(lambda share: score(left, share), right, best)  # noqa: B023
        if not fixed_left:
            left, best = _line(lambda share: score(share, right), left, best)  # noqa: B023
        if fixed_left or (left, right) == before:
            break
    return left, right


def _line(score: Callable[[float], float], share: float, best: float) -> tuple[float, float]:
    """Return the best share in [0.5, 1.2] and its score: even steps, then halves around it."""
    width = (HIGHEST - LOWEST) / (_COARSE - 1)
    candidates = [LOWEST + width * at for at in range(_COARSE)]
    for _ in range(_HALVINGS + 1):
        for candidate in candidates:
            found = score(candidate)
            if found > best:
                share, best = candidate, found
        width /= 2
        candidates = [min(max(share + step, LOWEST), HIGHEST) for step in (-width, width)]
    return share, best


def pearson(expected: Tensor, found: Tensor, images: int) -> float:
    """Return the mean over images of Pearson's correlation of two outputs (eq. 10-11).

    An output that does not vary has no correlation: two such outputs count as equal (1), one
    alone as unrelated (0), so that a step which rounds everything to zero never wins.

    Args:
        expected, found: float32, first axis images times something.
    """
    a, b = (x.reshape(images, -1).double() for x in (expected, found))  # [B, T]
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    flat_a, flat_b = (x.square().mean(1) <= 1e-20 for x in (a, b))  # [B]
    norms = (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-30)
    correlation = (a * b).sum(1) / norms
    correlation = torch.where(flat_a | flat_b, (flat_a & flat_b).double(), correlation)
    return float(correlation.mean())


def draw_pairs(size: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return int64 (i [P], j [P]) with i < j < size: all pairs, or `count` of them by the seed."""
    i, j = torch.triu_indices(size, size, offset=1)
    if len(i) > count:
        order = torch.randperm(len(i), generator=torch.Generator().manual_seed(seed))[:count]
        i, j = i[order], j[order]
    return i, j


def ranking_loss(expected: Tensor, found: Tensor, pairs: tuple[Tensor, Tensor]) -> float:
    """Return the mean of max(0, theta - (a'_i - a'_j) sign(a_i - a_j)) over rows and pairs.

    Source: eq. 12-13, with a mean in place of the sum.

    Args:
        expected, found: float32 [..., M, N], attention scores a = q k^T and a', before any
            division by sqrt(D).
        pairs: i and j, int64 [P] each.
    """
    i, j = pairs
    if len(i) == 0:
        return 0.0
    order = (expected[..., i] - expected[..., j]).sign()  # [..., M, P]
    gap = (found[..., i] - found[..., j]) * order
    return float((THETA - gap).clamp_min_(0).mean())


def score_unit(graph: Graph, gemm: Gemm) -> Tensor:
    """Return what the graph multiplies scores by before softmax, float32 [] or [1, H, 1, 1]."""
    node = next(n for n in graph.module.graph.nodes if n.name == gemm.name)
    unit = torch.ones(())
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.target not in {aten.mul.Tensor, aten.div.Tensor}:
            break
        other = args_of(node)[1]
        if not isinstance(other, (int, float)):
            if other.op != "get_attr":
                break
            other = graph.constant(str(other.target))
        unit = unit * other if node.target is aten.mul.Tensor else unit / other
    return unit


LIU2021 = Method(
    name="liu2021",
    summary="Pearson correlation of each layer's output, ranking loss, bias correction",
    source="Liu et al., NeurIPS 2021, arXiv 2106.14156",
    calibrate=calibrate,
    cost="2 forward passes, and every layer 20 to 70 times on 16 images",
    takes_long=True,
    order=60,
)
