"""Finds LayerNorms that feed nothing but linears, so that their affine can be rescaled with them.

This is what RepQ-ViT's scale reparameterisation (Li et al., arXiv 2212.08254, section 3.2) needs:
x' = (x - shift) / factor on the LayerNorm's output, undone in weights and biases of its readers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.fx import GraphModule, Node

from edgevit.graph.operators import aten
from edgevit.graph.shapes import args_of
from edgevit.graph.tracing import MOVING, channel_numbers, readers_of, run_layout, sources_of

if TYPE_CHECKING:
    from edgevit.graph.model import Graph
    from edgevit.graph.roles import Gemm


@dataclass(frozen=True, kw_only=True)
class LayerNormFeed:
    """A LayerNorm whose affine can be rescaled together with the columns of what it feeds.

    Args:
        ln: fx node name of the LayerNorm.
        weight, bias: Constant names of its affine, [C] each.
        linears: fx node names of all linears it feeds; nothing else reads its output.
    """

    ln: str
    weight: str
    bias: str
    linears: tuple[str, ...]


def ln_of(graph: Graph, gemm: Gemm) -> LayerNormFeed | None:
    """Return the LayerNorm that feeds a linear and only linears, with channels in order.

    Roll, window and token selection and a mean over tokens may stand in between; a pad may not
    (its zeros would need the shift). None when there is no such LayerNorm.
    """
    if gemm.kind != "linear":
        return None
    nodes = {node.name: node for node in graph.module.graph.nodes}
    sources = sources_of(nodes[gemm.left.producer], MOVING)
    ln = sources.pop()
    if sources or ln.target is not aten.layer_norm.default or len(args_of(ln)) < 4:
        return None
    weight, bias = args_of(ln)[2:4]
    if weight is None or bias is None or len(args_of(ln)[1]) != 1:
        return None
    linears = _linears(graph.module, ln)
    if linears is None:
        return None
    return LayerNormFeed(ln=ln.name, weight=weight.target, bias=bias.target, linears=linears)


def _linears(module: GraphModule, ln: Node) -> tuple[str, ...] | None:
    """Return the linears that read a LayerNorm's channels in order, None if anything else does."""
    values = {ln: channel_numbers(ln)}
    wanted = torch.arange(values[ln].shape[-1])
    readers = list(readers_of(ln, MOVING))
    for reader, tensor in readers:
        if reader.target is not aten.linear.default or args_of(reader)[0] is not tensor:
            return None
        arrived = run_layout(module, tensor, values)
        if arrived is None or arrived.shape[-1:] != wanted.shape or (arrived != wanted).any():
            return None
    position = {node: at for at, node in enumerate(module.graph.nodes)}
    return tuple(r.name for r, _ in sorted(readers, key=lambda pair: position[pair[0]]))
