"""Evens out the channels inside attention heads, at no run-time cost.

Channel d of q only ever meets channel d of k, and channel d of v only the columns of the projection
that read it, so a factor can move from one to the other without changing the function. q and k
share the spread evenly; v gives as much of its spread to the projection's weights as lowers the
expected rounding noise, as for LayerNorms (RepQ-ViT, arXiv 2212.08254; the migration between q and
k is that of SmoothQuant, arXiv 2211.10438, between two activations).
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgevit.calibration.rewrites.heads import scale_rows
from edgevit.calibration.rewrites.layernorm import EXPONENTS, rounding_noise
from edgevit.calibration.run import Run
from edgevit.calibration.statistics.ranges import Ranges, batches
from edgevit.graph.channels import head_channels, input_head_channels
from edgevit.graph.interpret import run_graph
from edgevit.graph.model import Gemm, Graph
from edgevit.quantizers.quantized_graph import float_product


def equalize_channels(run: Run) -> list[str]:
    """Rescale the channels of q, k and v; return the sites changed.

    Changes the run's graph (the function it computes stays the same).
    """
    ranges, tops, changed = run.observe(), output_tops(run), []
    for gemm in run.graph.gemms:
        if gemm.kind == "qk" and gemm in run.gemms:
            changed += _balance_scores(run.graph, gemm, tops)
        elif gemm.kind == "pv" and gemm.right.name in run.sites:
            changed += _even_values(run, gemm, tops, ranges)
    return changed


@torch.no_grad()
def output_tops(run: Run) -> dict[str, Tensor]:
    """Return linear -> float32 [out]: typical largest magnitude per output channel."""
    sums: dict[str, Tensor] = {}
    for batch in batches(run.images, run.batch_size):
        count = len(batch)

        def look(gemm: Gemm, left: Tensor, right: Tensor | None, count: int = count) -> Tensor:
            output = float_product(run.graph, gemm, left, right)
            if gemm.weight is not None:
                each = output.reshape(count, -1, output.shape[-1]).abs().amax(1)  # [B, out]
                sums[gemm.name] = sums.get(gemm.name, torch.zeros(())) + each.sum(0)
            return output

        run_graph(run.graph, batch, gemm=look)
    return {name: value / len(run.images) for name, value in sums.items()}


def _balance_scores(graph: Graph, gemm: Gemm, tops: dict[str, Tensor]) -> list[str]:
    query, key = head_channels(graph, gemm.left), head_channels(graph, gemm.right)
    if query is None or key is None or query[1].shape != key[1].shape:
        return []
    factor = (_at(tops, key) / _at(tops, query)).sqrt()  # [H, D]
    scale_rows(graph, query[0], query[1], factor)
    scale_rows(graph, key[0], key[1], 1 / factor)
    return [gemm.left.name, gemm.right.name]


def _even_values(run: Run, gemm: Gemm, tops: dict[str, Tensor], ranges: Ranges) -> list[str]:
    source = head_channels(run.graph, gemm.right)
    readers = input_head_channels(run.graph, gemm)
    if source is None or readers is None or source[1].shape != readers[1].shape:
        return []
    reader = run.graph.gemm(readers[0])
    if reader.left.name not in ranges:
        return []
    top = _at(tops, source)  # [H, D]
    spread = top / top.log().mean().exp()
    seen, weight = ranges[reader.left.name], run.graph.weight(reader)
    noises = []
    for exponent in EXPONENTS:
        columns = _columns(readers[1], spread**exponent, weight.shape[1])  # [in]
        width = _columns(readers[1], 2 * top, weight.shape[1])
        bits = (run.placement.weight_bits, run.placement.act_bits)
        noises.append(rounding_noise(seen, weight, width, torch.zeros(()), columns, *bits))
    factor = spread ** EXPONENTS[noises.index(min(noises))]  # [H, D]
    scale_rows(run.graph, source[0], source[1], 1 / factor)
    columns = _columns(readers[1], factor, weight.shape[1])
    run.graph.set_weight(reader, weight * columns)
    return [gemm.right.name]


def _at(tops: dict[str, Tensor], channels: tuple[str, Tensor]) -> Tensor:
    return tops[channels[0]][channels[1]].clamp_min(1e-6)  # [H, D]


def _columns(index: Tensor, values: Tensor, count: int) -> Tensor:
    """Return [count] with `values` [H, D] at `index` [H, D] and 1 elsewhere."""
    columns = torch.ones(count)
    columns[index.reshape(-1)] = values.reshape(-1)
    return columns
