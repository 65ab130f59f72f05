"""Gives every attention head its own step at no run-time cost, by rescaling weight rows.

A per-head grid on q, k or v equals a per-tensor grid on operands whose heads were first brought
to one range. The rows of the linear that makes head h are multiplied by a factor; what v gained is
divided out of the columns of the layer behind the attention. For q and k there are two forms:
*balanced* multiplies q by what it divides k by, so that both have the same range in each head and
nothing has to be undone; *equal* brings all heads to one range and divides the scores by what that
took, one multiplication per head at run time.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from edgevit.calibration.statistics.ranges import Ranges
from edgevit.graph.channels import head_channels, input_head_channels
from edgevit.graph.model import Gemm, Graph, Site
from edgevit.graph.rewrite import multiply_output


def equalize_heads(
    graph: Graph,
    ranges: Ranges,
    sites: set[str],
    *,
    balanced: bool = False,
    steps: Mapping[str, Tensor] | None = None,
) -> list[str]:
    """Rescale the heads of q, k and v; return the sites changed.

    Changes the graph (the function it computes stays the same) and `ranges`.

    Args:
        sites: Names of the sites that will be quantized.
        balanced: Use the free form for q and k.
        steps: Site -> float32 [H] of q and k: heads get one step rather than one range. Not with
            `balanced`.
    """
    changed: list[str] = []
    for gemm in list(graph.gemms):
        if gemm.kind == "qk" and {gemm.left.name, gemm.right.name} <= sites:
            changed += _equalize_scores(graph, gemm, ranges, balanced, steps or {})
        elif gemm.kind == "pv" and gemm.right.name in sites:
            changed += _equalize_values(graph, gemm, ranges)
    return changed


def _factors(ranges: Ranges, site: Site) -> Tensor:
    """Return [H]: what brings every head to the geometric mean of the heads' ranges."""
    top = ranges[site.name].absmax().clamp_min(1e-6)
    return top.log().mean().exp() / top


def common_step(steps: Tensor) -> Tensor:
    """Return float32 []: the step all heads have once theirs, [H], have been brought to one."""
    return steps.log().mean().exp()


def _equalize_scores(
    graph: Graph, gemm: Gemm, ranges: Ranges, balanced: bool, steps: Mapping[str, Tensor]
) -> list[str]:
    found = [(site, head_channels(graph, site)) for site in (gemm.left, gemm.right)]
    sources = [(site, source) for site, source in found if source is not None]
    sources = [(s, source) for s, source in sources if len(ranges[s.name].low) == len(source[1])]
    heads = max((len(source[1]) for _, source in sources), default=0)  # one key may serve them all
    sources = [(s, source) for s, source in sources if len(source[1]) == heads]
    if balanced and len(sources) < 2:
        return []
    tops = [ranges[site.name].absmax().clamp_min(1e-6) for site, _ in sources]  # [H] each
    factors = [
        common_step(steps[site.name]) / steps[site.name]
        if site.name in steps
        else _factors(ranges, site)
        for site, _ in sources
    ]
    if balanced:
        factors = [(tops[1] / tops[0]).sqrt(), (tops[0] / tops[1]).sqrt()]
    undo = torch.ones(())
    for (site, source), factor in zip(sources, factors, strict=True):
        scale_rows(graph, source[0], source[1], factor)
        ranges[site.name] = ranges[site.name].rescaled(torch.zeros(()), 1 / factor)
        undo = undo / factor
    if sources and not balanced:
        multiply_output(graph, gemm.name, undo.reshape(1, -1, 1, 1))  # [1, H, 1, 1]
    return [site.name for site, _ in sources]


def _equalize_values(graph: Graph, gemm: Gemm, ranges: Ranges) -> list[str]:
    source, readers = head_channels(graph, gemm.right), input_head_channels(graph, gemm)
    if source is None or readers is None or len(ranges[gemm.right.name].low) != len(source[1]):
        return []
    factor = _factors(ranges, gemm.right)  # [H]
    scale_rows(graph, source[0], source[1], factor)
    ranges[gemm.right.name] = ranges[gemm.right.name].rescaled(torch.zeros(()), 1 / factor)
    reader = next(g for g in graph.gemms if g.name == readers[0])
    columns = torch.ones(graph.weight(reader).shape[1])  # [in]
    columns[readers[1].reshape(-1)] = factor[:, None].expand(readers[1].shape).reshape(-1)
    graph.set_weight(reader, graph.weight(reader) / columns)
    if reader.left.name in ranges:
        moved = ranges[reader.left.name]
        ranges[reader.left.name] = moved.rescaled(torch.zeros(()), 1 / columns)
    return [gemm.right.name]


def scale_rows(graph: Graph, linear: str, channels: Tensor, factor: Tensor) -> None:
    """Multiply the output rows `channels` [H, D] of a linear by `factor` [H] or [H, D]."""
    gemm = next(g for g in graph.gemms if g.name == linear)
    rows = torch.ones(graph.weight(gemm).shape[0])  # [out]
    each = factor if factor.ndim == 2 else factor[:, None].expand(channels.shape)  # [H, D]
    rows[channels.reshape(-1)] = each.reshape(-1)
    graph.set_weight(gemm, graph.weight(gemm) * rows[:, None])
    graph.set_bias(gemm, graph.bias(gemm) * rows)
