"""One forward and backward pass: how much each element of each product matters to the output.

Source: Yuan et al., PTQ4ViT (arXiv 2111.12293), section 3.3: the loss grows by about
``1/2 dO^T diag(g^2) dO``. The official code takes g from a loss that is identically zero in its
default mode; here g is the gradient of ``-log p(y)`` with y drawn from the model's own
prediction, which makes E[g^2] the diagonal of the true Fisher information. Each image is
normalised by the norm of its logit gradient, so that confident images count as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgevit.calibration.statistics.histogram import Histogram
from edgevit.calibration.statistics.ranges import Ranges, batches
from edgevit.calibration.statistics.scores import class_scores_tensor
from edgevit.data.tasks import LOGITS
from edgevit.graph.interpret import run_outputs
from edgevit.graph.model import Gemm, Graph
from edgevit.graph.sharing import shared_grid_sites
from edgevit.progress import Progress
from edgevit.quantizers.quantized_graph import float_product


@dataclass(kw_only=True)
class Statistics:
    """Statistics of the operands of every product, as calibration needs them.

    Args:
        histograms: Site name -> histogram, weighted by the effect on the loss (or by 1); sites
            that read the same tensor share one.
        grams: Gemm name -> float32 [in, in], sum over tokens of importance * x x^T.
        rows: Gemm name -> float32 [out], importance of each output channel.
        importance: Gemm name -> float32 [T_batch] per batch, importance of each token in order.
    """

    histograms: dict[str, Histogram] = field(default_factory=dict)
    grams: dict[str, Tensor] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)
    importance: dict[str, list[Tensor]] = field(default_factory=dict)


@dataclass(kw_only=True)
class ProductStatistics:
    """One product in float32 with what the backward pass left at its output."""

    gemm: Gemm
    left: Tensor
    right: Tensor | None
    output: Tensor


def collect(
    graph: Graph,
    images: Tensor,
    ranges: Ranges,
    *,
    batch_size: int,
    seed: int,
    weighted: bool,
    progress: Progress,
    grams: bool = True,
) -> Statistics:
    """Stream the images once and return the statistics.

    Args:
        images: float32 [N, 3, H, W].
        weighted: Weight by Fisher information (needs a backward pass), else count evenly.
        grams: Make the Gram matrices too, which cost about as much as the forward pass.
    """
    generator = torch.Generator().manual_seed(seed)
    statistics = Statistics(histograms=_empty_histograms(graph, ranges))
    done = 0
    for batch in batches(images, batch_size):
        products = forward_backward(graph, batch, ranges, generator, weighted)
        while products:  # freed one by one, and all of them before the next batch
            _add(graph, statistics, products.pop(), grams)
        done += len(batch)
        progress("statistics", done, len(images))
    return statistics


def _empty_histograms(graph: Graph, ranges: Ranges) -> dict[str, Histogram]:
    histograms: dict[str, Histogram] = {}
    for site, leader in shared_grid_sites(graph).items():
        if site in ranges and leader not in histograms:
            low, high = float(ranges[site].low.min()), float(ranges[site].high.max())
            histograms[leader] = Histogram(low=low, high=high)
        if site in ranges:
            histograms[site] = histograms[leader]
    return histograms


def forward_backward(
    graph: Graph, batch: Tensor, ranges: Ranges, generator: torch.Generator, weighted: bool
) -> list[ProductStatistics]:
    """Run one batch [B, 3, H, W] and return the products whose left site is in `ranges`.

    Args:
        weighted: Also run backward from `output_loss`, so that every output has its gradient.
    """
    products: list[ProductStatistics] = []

    def keep(gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
        output = float_product(graph, gemm, left, right)
        if gemm.left.name not in ranges:
            return output
        if weighted:
            output.retain_grad()
        products.append(ProductStatistics(gemm=gemm, left=left, right=right, output=output))
        return output

    with torch.set_grad_enabled(weighted):
        outputs = run_outputs(graph, batch.clone().requires_grad_(weighted), gemm=keep)
        if weighted:
            output_loss(outputs, generator).backward()  # type: ignore[no-untyped-call]
    return products


def output_loss(outputs: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
    """Return the loss whose squared gradient says how much the outputs [B, ...] matter.

    Logits have their `sampled_loss`. Any other output has its product with random normal numbers,
    each image divided by the norms of both: in the mean over the draws the squared gradient is
    that of the relative squared error (Gauss-Newton), as labels drawn from a normal distribution
    around the output give it.
    """
    losses = [
        sampled_loss(value, generator)
        if name == LOGITS and value.ndim == 2
        else _drawn_error(value, generator)
        for name, value in outputs.items()
    ]
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def _drawn_error(output: Tensor, generator: torch.Generator) -> Tensor:
    values = output.reshape(len(output), -1)  # [B, elements]
    noise = torch.randn(values.shape, generator=generator).to(values.device)
    norms = noise.norm(dim=1) * values.detach().norm(dim=1)
    loss: Tensor = ((values * noise).sum(1) / norms.clamp_min(1e-6)).sum()
    return loss


def sampled_loss(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Return sum over images of -log p(y) / |p - e_y|, y drawn from p: logits [B, classes]."""
    scores = class_scores_tensor(logits)  # [B, classes]
    probabilities = scores.detach().softmax(1)
    labels = torch.multinomial(probabilities.cpu(), 1, generator=generator)  # [B, 1]
    labels = labels.to(logits.device)
    slope = probabilities.scatter_add(1, labels, -torch.ones_like(labels, dtype=logits.dtype))
    norm = slope.norm(dim=1).clamp_min(1e-6)  # [B]
    loss: Tensor = -(scores.log_softmax(1).gather(1, labels)[:, 0] / norm).sum()
    return loss


@torch.no_grad()
def _add(graph: Graph, statistics: Statistics, product: ProductStatistics, grams: bool) -> None:
    gemm = product.gemm
    gradient = product.output.grad
    importance = None if gradient is None else gradient.square()
    if product.right is None:
        tokens = _add_linear(graph, statistics, gemm, product.left, product.output, importance)
        if grams:
            x = product.left.reshape(-1, product.left.shape[-1])  # [T, in]
            _accumulate(statistics.grams, gemm.name, (x * tokens[:, None]).T @ x)  # [in, in]
        return
    left_weight = right_weight = None
    if importance is not None:  # of an operand that serves several heads the sum over them
        left_weight = importance @ product.right.square().transpose(-1, -2)  # [..., M, K]
        right_weight = product.left.square().transpose(-1, -2) @ importance  # [..., K, N]
        left_weight = left_weight.sum_to_size(product.left.shape)
        right_weight = right_weight.sum_to_size(product.right.shape)
    statistics.histograms[gemm.left.name].add(product.left, left_weight)
    statistics.histograms[gemm.right.name].add(product.right, right_weight)


def _add_linear(
    graph: Graph,
    statistics: Statistics,
    gemm: Gemm,
    x: Tensor,
    output: Tensor,
    importance: Tensor | None,
) -> Tensor:
    """Add what one linear saw; return the importance of each token, [T]."""
    x = x.reshape(-1, x.shape[-1])  # [T, in]
    if importance is None:
        weights, tokens = None, torch.ones(len(x))
        rows = torch.full((output.shape[-1],), float(len(x)))
    else:
        squares = importance.reshape(-1, output.shape[-1])  # [T, out]
        tokens, rows = squares.sum(1), squares.sum(0)  # [T], [out]
        weights = squares @ graph.weight(gemm).square()  # [T, in]
    statistics.histograms[gemm.left.name].add(x, weights)
    _accumulate(statistics.rows, gemm.name, rows)
    statistics.importance.setdefault(gemm.name, []).append(tokens)
    return tokens


def _accumulate(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    if name in sums:
        sums[name] += value
    else:
        sums[name] = value
