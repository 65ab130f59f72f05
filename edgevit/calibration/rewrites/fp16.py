"""The last step of calibration for a float16 body: float16 scales, and what has to stay float32.

Residual streams of large transformers hold a few values far above all others, and float16 ends at
65,504. One pass over the calibration images sees which tensors come near it: they stay in float32,
as an island with casts around it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from edgevit.calibration.statistics.ranges import batches
from edgevit.graph.interpret import run_graph
from edgevit.graph.model import Graph
from edgevit.graph.operators import LAYOUT
from edgevit.progress import Progress
from edgevit.quantizers.fp16 import round_constants
from edgevit.quantizers.fp16_range import HALF_MAX
from edgevit.quantizers.quantized_graph import Layer, QuantizedGraph

SAFE = HALF_MAX / 4
"""Larger values than the calibration images' will come: four times as large is still a number."""


@torch.no_grad()
def with_half_body(
    quantized: QuantizedGraph, images: Tensor, batch_size: int, progress: Progress
) -> QuantizedGraph:
    """Return the graph as a device with a float16 body runs it.

    Args:
        quantized: Its graph belongs to the caller's run and is changed in place.
        images: float32 [N, 3, H, W].
        batch_size: Images at a time.
    """
    round_constants(quantized.graph)
    layers = {name: layer.in_float16() for name, layer in quantized.layers.items()}
    shift = scale_shift(quantized.layers, layers)
    quantized = replace(quantized, layers=layers, scale_shift=shift)
    largest = largest_values(quantized, images, batch_size, progress)
    wide = wide_nodes(quantized.graph, largest)
    notes = list(quantized.notes)
    if wide:
        notes.append(f"{len(wide)} tensors stay in float32: they reached {_top(largest):,.0f}")
    return replace(quantized, notes=notes, float32_nodes=wide)


def scale_shift(before: Mapping[str, Layer], after: Mapping[str, Layer]) -> float:
    """Return the largest relative change of an activation's scale, floating point grids left out.

    Args:
        before, after: The same layers by name, as calibrated and in float16.
    """
    shifts = [
        abs(float(new.scale / old.scale) - 1)
        for name, layer in after.items()
        for old, new in zip(before[name].input_grids, layer.input_grids, strict=True)
        if new.has_integer_sums
    ]
    return max(shifts, default=0.0)


def largest_values(
    quantized: QuantizedGraph, images: Tensor, batch_size: int, progress: Progress
) -> dict[str, float]:
    """Return fx name -> largest magnitude of its output over all images."""
    largest: dict[str, float] = {}

    def observe(name: str, value: Tensor) -> None:
        top = float(value.abs().amax()) if value.numel() else 0.0
        largest[name] = max(top, largest.get(name, 0.0))

    done = 0
    for batch in batches(images, batch_size):
        run_graph(
            quantized.graph,
            batch,
            gemm=quantized.compute,
            conv=quantized.convolve,
            observe=observe,
        )
        done += len(batch)
        progress("float16 ranges", done, len(images))
    return largest


def wide_nodes(graph: Graph, largest: dict[str, float]) -> frozenset[str]:
    """Return the nodes that stay in float32; moving values about does not change their type."""
    wide: set[str] = set()
    for node in graph.module.graph.nodes:
        moved = node.target in LAYOUT and any(s.name in wide for s in node.all_input_nodes)
        if moved or largest.get(node.name, 0.0) > SAFE:
            wide.add(node.name)
    return frozenset(wide)


def _top(largest: dict[str, float]) -> float:
    return max(largest.values(), default=0.0)
