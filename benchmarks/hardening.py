"""Hardened twins: the identical function in fp32, with channels as uneven as in large models.

The small models lack the outlier channels that make real vision transformers hard to quantize.
FQ-ViT (Lin et al., arXiv 2111.13824, figure 1) finds LayerNorm channels whose range is up to 40
times the median channel's; RepQ-ViT (Li et al., arXiv 2212.08254, figure 2) shows the same spread
behind the LayerNorms of DeiT-S. Here factors with such a tail (lognormal, 2 % of the channels x8)
are moved along pairs of constants whose product alone matters, so that the logits stay equal:

    LayerNorm's gamma and beta  <->  columns of every linear it feeds
    rows of q                   <->  rows of k (inverse)
    rows of v                   <->  columns of the projection behind the attention

A residual stream can't be rescaled per channel: the LayerNorms read all of its channels together.

    python benchmarks/hardening.py      # the spread of the embedded models and of their twins
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from edgevit.calibration.statistics.ranges import observe_ranges
from edgevit.data import open_images
from edgevit.graph.capture import graph_from_module
from edgevit.graph.channels import head_channels, input_head_channels
from edgevit.graph.layernorm import ln_of
from edgevit.graph.model import Gemm, Graph, Role
from edgevit.graph.verify import relative_error
from edgevit.progress import no_progress
from edgevit.zoo import load_model, reference_images

TOLERANCE, EXACT = 1e-4, 1e-10
"""Largest difference of a logit in float32 and in float64, relative to the largest logit."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How uneven the channels become.

    Args:
        sigma: Standard deviation of the factors' logarithms.
        outlier_share: Share of the channels that are outliers, at least one channel.
        outlier_factor: What an outlier is multiplied by beyond that.
    """

    sigma: float = 0.8
    outlier_share: float = 0.02
    outlier_factor: float = 8.0

    def draw(self, channels: int, generator: torch.Generator, *, two_sided: bool = False) -> Tensor:
        """Return float64 [channels]; two-sided: outliers are multiplied or divided, at random."""
        normal = torch.randn(channels, generator=generator, dtype=torch.float64)
        order = torch.randperm(channels, generator=generator)
        signs = torch.randint(0, 2, (channels,), generator=generator) * 2.0 - 1.0
        outliers = order[: max(1, round(self.outlier_share * channels))]
        power = torch.zeros(channels, dtype=torch.float64)
        power[outliers] = signs[outliers].double() if two_sided else 1.0
        return (self.sigma * normal).exp() * self.outlier_factor**power


def hardened(
    model: nn.Module,
    input_size: tuple[int, int, int],
    *,
    seed: int,
    fold_head: bool,
    attention: bool = True,
    spread: Spread | None = None,
) -> nn.Module:
    """Return a copy of `model` with the same logits and uneven channels.

    Args:
        model: A ViT, DeiT or Swin: images [B, 3, H, W] -> logits [B, classes].
        input_size: (3, H, W).
        seed: Seed of the factors; what is left out changes none of the other factors.
        fold_head: Whether the final norm and the head are a pair too. Tools that don't fold that
            pair lose most of their accuracy there, so a win with it is cheap.
        attention: Whether the pairs of q and k, and of v and its projection, are moved. RepQ-ViT
            and the other published methods fold LayerNorms only.
        spread: How uneven; None for the default.

    Raises:
        AssertionError: The logits changed by more than `EXACT` in float64 (a factor without its
            inverse), or by more than `TOLERANCE` in float32.
    """
    graph = graph_from_module(model, input_size)
    moved = _factors(graph, spread or Spread(), seed, fold_head, attention)
    exact, twin = copy.deepcopy(model).double(), copy.deepcopy(model).double()
    parameters = dict(twin.named_parameters())
    with torch.no_grad():
        for name, factor in moved.items():
            parameters[name].mul_(factor)
    images = torch.randn(8, *input_size, generator=torch.Generator().manual_seed(0))
    _check(exact, twin, images.double(), EXACT)
    _check(model, twin.float(), images, TOLERANCE)
    return twin


def _factors(
    graph: Graph, spread: Spread, seed: int, fold_head: bool, attention: bool
) -> dict[str, Tensor]:
    """Return parameter name -> float64 factor that broadcasts to it.

    Found on the graph, applied to the module's own parameters: the graph's constants may hold
    more, such as the scale of the scores.
    """
    generator = torch.Generator().manual_seed(seed)
    moved, folded = _Moved(graph), set()
    pairs = moved if attention else _Moved(graph)  # drawn all the same
    for gemm in graph.gemms:
        feed = ln_of(graph, gemm)
        if feed is not None and feed.ln not in folded:
            folded.add(feed.ln)
            factor = spread.draw(len(graph.constant(feed.weight)), generator)
            if fold_head or gemm.left.role is not Role.HEAD_IN:
                moved.multiply(feed.weight, factor)
                moved.multiply(feed.bias, factor)
                for linear in feed.linears:
                    moved.multiply(str(graph.gemm(linear).weight), 1 / factor)
        if gemm.kind == "qk":
            found = head_channels(graph, gemm.left), head_channels(graph, gemm.right)
            pairs.between_rows(found, spread, generator)
        if gemm.kind == "pv":
            pairs.rows_to_columns(gemm, spread, generator)
    return moved.by_parameter()


class _Moved:
    """Collects what each constant is multiplied by."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.factors: dict[str, Tensor] = {}

    def multiply(self, constant: str, factor: Tensor) -> None:
        self.factors[constant] = self.factors.get(constant, torch.ones(())) * factor

    def between_rows(self, found: tuple, spread: Spread, generator: torch.Generator) -> None:
        if None not in found:
            (q, q_rows), (k, k_rows) = found
            factor = spread.draw(q_rows.numel(), generator, two_sided=True)
            self._rows(q, q_rows, factor)
            self._rows(k, k_rows, 1 / factor)

    def rows_to_columns(self, gemm: Gemm, spread: Spread, generator: torch.Generator) -> None:
        graph = self.graph
        source, reader = head_channels(graph, gemm.right), input_head_channels(graph, gemm)
        if source is not None and reader is not None:
            factor = spread.draw(source[1].numel(), generator)
            self._rows(*source, factor)
            weight = str(graph.gemm(reader[0]).weight)
            columns = torch.ones(graph.constant(weight).shape[1], dtype=torch.float64)  # [in]
            columns[reader[1].reshape(-1)] = 1 / factor
            self.multiply(weight, columns)

    def _rows(self, linear: str, rows: Tensor, factor: Tensor) -> None:
        """Multiply the output rows [H, D] of a linear by factor [H * D]."""
        gemm = self.graph.gemm(linear)
        whole = torch.ones(len(self.graph.constant(str(gemm.weight))), dtype=torch.float64)
        whole[rows.reshape(-1)] = factor  # [out]
        self.multiply(str(gemm.weight), whole[:, None])
        self.multiply(str(gemm.bias), whole)

    def by_parameter(self) -> dict[str, Tensor]:
        constants = [n for n in self.graph.module.graph.nodes if n.op == "get_attr"]
        names = {str(node.target): node.meta["fqn"] for node in constants}
        return {names[constant]: factor for constant, factor in self.factors.items()}


@torch.no_grad()
def _check(model: nn.Module, twin: nn.Module, images: Tensor, tolerance: float) -> None:
    error = relative_error(twin(images), model(images))
    assert error <= tolerance, f"the twin's logits differ by {error:.1e}"


def channel_spread(graph: Graph, images: Tensor) -> list[float]:
    """Return for every LayerNorm that feeds linears its widest channel over its median one."""
    ranges = observe_ranges(graph, images, 32, no_progress)
    sites = {f.ln: g.left.name for g in graph.gemms if (f := ln_of(graph, g)) is not None}
    widths = [ranges[site].high - ranges[site].low for site in sites.values()]  # [C] each
    return [float(width.max() / width.median()) for width in widths]


def main() -> None:
    for name in ("vit_cifar10", "swin_cifar10"):
        loaded = load_model(name)
        size, normalize = loaded.preprocessing.input_size, loaded.preprocessing.normalize
        calibration = open_images(reference_images("calibration")).subset(32, 0)
        pixels, _, _ = next(iter(calibration.batches(loaded.preprocessing, 32)))
        images = torch.from_numpy(normalize(pixels))
        twin = hardened(loaded.model, size, seed=0, fold_head=True)
        for label, model in (("plain", loaded.model), ("hardened", twin)):
            found = channel_spread(graph_from_module(model, size), images)
            print(
                f"{name} {label}: widest over median channel of LayerNorm outputs, "
                f"{np.min(found):.1f} to {np.max(found):.1f}, median {np.median(found):.1f}"
            )


if __name__ == "__main__":
    main()
