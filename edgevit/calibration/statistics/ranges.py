"""First look at the calibration images: the range of every channel and head, in float32.

One forward pass; what it keeps is a few vectors per product, whatever the number of images.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from edgevit.graph.interpret import run_graph
from edgevit.graph.model import Gemm, Graph
from edgevit.progress import Progress
from edgevit.quantizers.quantized_graph import float_product


@dataclass(kw_only=True)
class ChannelRange:
    """Per-channel (or per-head) statistics of one operand, all float32 [C].

    Args:
        low, high: Extremes over everything seen.
        typical_low, typical_high: Means over images of each image's extremes: steadier than
            `low` and `high`, which one odd image sets.
        mean, mean_square: Moments over everything seen.
        images: How many images were seen.
    """

    low: Tensor
    high: Tensor
    typical_low: Tensor
    typical_high: Tensor
    mean: Tensor
    mean_square: Tensor
    images: int

    def merged(self, other: ChannelRange) -> ChannelRange:
        """Return the statistics of both sets of images together."""
        total = self.images + other.images
        share = other.images / total

        def mix(a: Tensor, b: Tensor) -> Tensor:
            return a + (b - a) * share

        return ChannelRange(
            low=torch.minimum(self.low, other.low),
            high=torch.maximum(self.high, other.high),
            typical_low=mix(self.typical_low, other.typical_low),
            typical_high=mix(self.typical_high, other.typical_high),
            mean=mix(self.mean, other.mean),
            mean_square=mix(self.mean_square, other.mean_square),
            images=total,
        )

    def rescaled(self, shift: Tensor, factor: Tensor) -> ChannelRange:
        """Return the statistics of (x - shift) / factor, factor > 0, both [C]."""

        def move(x: Tensor) -> Tensor:
            return (x - shift) / factor

        square = self.mean_square - 2 * shift * self.mean + shift * shift
        return ChannelRange(
            low=move(self.low),
            high=move(self.high),
            typical_low=move(self.typical_low),
            typical_high=move(self.typical_high),
            mean=move(self.mean),
            mean_square=square / (factor * factor),
            images=self.images,
        )

    def absmax(self) -> Tensor:
        """Return [C]: the typical largest magnitude."""
        return torch.maximum(self.typical_high, -self.typical_low)


def channel_range(x: Tensor, axis: int, images: int) -> ChannelRange:
    """Return the statistics of x along `axis`; x's first axis is images times something."""
    x = x.movedim(axis, -1)
    x = x.reshape(images, -1, x.shape[-1])  # [B, T, C]
    low, high = x.amin(1), x.amax(1)  # [B, C]
    return ChannelRange(
        low=low.amin(0),
        high=high.amax(0),
        typical_low=low.mean(0),
        typical_high=high.mean(0),
        mean=x.mean((0, 1)),
        mean_square=x.square().mean((0, 1)),
        images=images,
    )


Ranges = dict[str, ChannelRange]


def head_axis(gemm: Gemm, operand: Tensor) -> int:
    """Return the axis of heads of an attention operand [..., H, N, D], or its last axis."""
    return operand.ndim - 3 if gemm.kind in {"qk", "pv"} and operand.ndim >= 4 else -1


def batches(images: Tensor, size: int) -> Iterator[Tensor]:
    """Yield slices of images [N, 3, H, W] of at most `size`."""
    for start in range(0, len(images), size):
        yield images[start : start + size]


def images_per_batch(graph: Graph, image: Tensor, budget_bytes: int) -> int:
    """Return how many images fit the budget when every intermediate tensor is kept.

    The patches of convolutions are such tensors.

    Args:
        image: One image [1, 3, H, W], run once to see the sizes.
    """
    total = 0

    def count(name: str, value: Tensor) -> None:
        nonlocal total
        total += value.numel() * value.element_size()

    with torch.no_grad():
        run_graph(graph, image, observe=count)
    total += sum(_patch_bytes(graph))
    return max(1, min(64, budget_bytes // max(total, 1)))


def images_whose_patches_fit(graph: Graph, budget_bytes: int) -> int:
    """Return of how many images the patches of any one convolution fit the budget."""
    most = max(_patch_bytes(graph), default=0)
    return max(1, budget_bytes // most) if most else sys.maxsize


def _patch_bytes(graph: Graph) -> list[int]:
    """Return for each convolution the bytes that the patches of one image take."""
    taps = ((gemm.window, graph.weight(gemm).shape[1]) for gemm in graph.gemms if gemm.window)
    return [4 * math.prod(window.output) * length for window, length in taps]


@torch.no_grad()
def observe_ranges(graph: Graph, images: Tensor, batch_size: int, progress: Progress) -> Ranges:
    """Return site name -> range of every operand of every product, by channel or head."""
    ranges: Ranges = {}

    def see(site: str, value: ChannelRange) -> None:
        ranges[site] = ranges[site].merged(value) if site in ranges else value

    done = 0
    for batch in batches(images, batch_size):
        count = len(batch)

        def look(gemm: Gemm, left: Tensor, right: Tensor | None, count: int = count) -> Tensor:
            see(gemm.left.name, channel_range(left, head_axis(gemm, left), count))
            if right is not None:
                see(gemm.right.name, channel_range(right, head_axis(gemm, right), count))
            return float_product(graph, gemm, left, right)

        run_graph(graph, batch, gemm=look)
        done += count
        progress("ranges", done, len(images))
    return ranges
