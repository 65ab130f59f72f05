"""Finds places for a constant in front of quantized linears, adds it there and undoes it.

A LayerNorm's beta takes it at no cost; anywhere else it is one addition on the tensor in front of
its rounding. Either way the float32 graph goes on computing what it did, and the integer layers
compute ``Q(X + N) W^T + b - W N`` with their rounded weights (Liu et al., arXiv 2211.16056).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from edgevit.graph.layernorm import LayerNormFeed, ln_of
from edgevit.graph.model import Gemm, Graph, Role
from edgevit.graph.operators import aten
from edgevit.graph.rewrite import add_constant, call
from edgevit.graph.sharing import shared_grid_sites
from edgevit.quantizers.quantized_graph import IntegerLinear, QuantizedGraph, is_integer_linear


@dataclass(frozen=True, kw_only=True)
class Place:
    """A tensor that linears in integers read, all of them on one grid.

    Args:
        gemms: fx node names of the linears.
        role: Where the tensor comes from.
        norm: The LayerNorm whose beta takes a constant; None where it takes an addition.
    """

    gemms: tuple[str, ...]
    role: Role
    norm: LayerNormFeed | None


def places(quantized: QuantizedGraph) -> Iterator[Place]:
    """Yield every place in execution order; each linear in integers stands in one at most.

    The image has none: its products are left alone in the official code, and its rounding to 8
    bits is the least of all errors. Nor has what a convolution reads: a pixel is under many taps.
    """
    leader = shared_grid_sites(quantized.graph)
    readers: dict[str, list[Gemm]] = {}
    for gemm in quantized.graph.gemms:
        in_integers = is_integer_linear(quantized.layers.get(gemm.name))
        if in_integers and gemm.left.role is not Role.PATCH_IN and gemm.window is None:
            readers.setdefault(leader[gemm.left.name], []).append(gemm)
    seen: set[str] = set()
    for gemms in readers.values():
        norm = _whole_feed(quantized, gemms[0])
        names = tuple(gemm.name for gemm in gemms) if norm is None else norm.linears
        if seen.isdisjoint(names) and _on_one_grid(quantized, names):
            seen.update(names)
            yield Place(gemms=names, role=gemms[0].left.role, norm=norm)


def _whole_feed(quantized: QuantizedGraph, gemm: Gemm) -> LayerNormFeed | None:
    """Return the LayerNorm in front if all that it feeds is in integers and on one grid."""
    norm = ln_of(quantized.graph, gemm)
    return norm if norm is not None and _on_one_grid(quantized, norm.linears) else None


def _on_one_grid(quantized: QuantizedGraph, names: tuple[str, ...]) -> bool:
    layers = [quantized.layers.get(name) for name in names]
    grids = [layer.grid.to_dict() for layer in layers if is_integer_linear(layer)]
    return len(grids) == len(layers) and all(grid == grids[0] for grid in grids)


def linear_in_integers(quantized: QuantizedGraph, name: str) -> IntegerLinear:
    """Return the layer of a linear; ValueError if it is none in integers."""
    layer = quantized.layers[name]
    if not is_integer_linear(layer):
        raise ValueError(f"{name}: not a linear in integers")
    return layer


def add_noise(quantized: QuantizedGraph, place: Place, noise: Tensor) -> None:
    """Add a constant, float32 [in], in front of a place and take it back behind its linears."""
    graph = quantized.graph
    if place.norm is not None:
        graph.set_constant(place.norm.bias, graph.constant(place.norm.bias) + noise)
    else:
        _add_in_front(graph, place.gemms, noise)
    for name in place.gemms:
        layer, gemm = linear_in_integers(quantized, name), graph.gemm(name)
        quantized.layers[name] = replace(layer, bias=layer.bias - layer.weight_values() @ noise)
        graph.set_bias(gemm, graph.bias(gemm) - graph.weight(gemm) @ noise)


def _add_in_front(graph: Graph, names: tuple[str, ...], noise: Tensor) -> None:
    """Let linears that read one tensor read that tensor plus a constant [in]."""
    linears = [node for node in graph.module.graph.nodes if node.name in names]
    constant = add_constant(graph.module, f"{linears[0].name}_noise", noise)
    source = linears[0].args[0]
    with graph.module.graph.inserting_before(linears[0]):
        added = call(linears[0], aten.add.Tensor, source, constant)
    for linear in linears:
        linear.replace_input_with(source, added)
    graph.refresh()
