"""The widths of every product: those asked for all, and those asked for one layer."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from types import MappingProxyType

from edgevit.errors import UsageError
from edgevit.graph.model import Graph
from edgevit.graph.sharing import shared_grid_sites
from edgevit.quantizers.spec import check_bits

LayerBits = Mapping[str, tuple[int, int]]
"""Module path of a product -> (weight bits, activation bits)."""
NO_LAYER_BITS: LayerBits = MappingProxyType({})


def widths_of(
    graph: Graph, *, weight_bits: int, act_bits: int, layer_bits: LayerBits
) -> dict[str, tuple[int, int]]:
    """Return gemm name -> (weight bits, activation bits).

    Args:
        layer_bits: Overrides the other two; a product of two activations has no weight, its
            first number is not used.

    Raises:
        UsageError: A width that does not exist (EV201), a layer that does not exist (EV211), or
            two widths for one tensor (EV212).
    """
    common = check_bits(weight_bits, "--weight-bits"), check_bits(act_bits, "--act-bits")
    for name, pair in layer_bits.items():
        for bits in pair:
            check_bits(bits, f"layer_bits of {name}")
    _refuse_unknown(layer_bits, [gemm.module for gemm in graph.gemms])
    widths = {gemm.name: layer_bits.get(gemm.module, common) for gemm in graph.gemms}
    _refuse_split_tensors(graph, widths)
    return widths


def is_asked_in_float(module: str, float_layers: tuple[str, ...]) -> bool:
    """Return whether a product is to stay in float.

    Args:
        module: Its module path, such as "blocks.2.attn.qkv".
        float_layers: Paths of modules or of what holds them ("blocks.2" is the whole block, and
            not "blocks.20"); shell patterns are allowed.
    """
    return any(
        fnmatchcase(module, pattern) or fnmatchcase(module, f"{pattern}.*")
        for pattern in float_layers
    )


def refuse_unmatched(graph: Graph, float_layers: tuple[str, ...]) -> None:
    """Refuse a path of layers to leave in float that matches none.

    Raises:
        UsageError: There is one (EV219).
    """
    known = [gemm.module for gemm in graph.gemms]
    for pattern in float_layers:
        if not any(is_asked_in_float(name, (pattern,)) for name in known):
            near = _near(pattern, known)
            raise UsageError(
                "EV219",
                f"No layer is called {pattern!r}.",
                where="--float-layer",
                why=f"It matches none of the {len(known)} products of the model and no block of "
                f"them; the closest are {', '.join(near)}.",
                try_next=f"--float-layer {near[0]}",
            )


def _near(pattern: str, modules: list[str]) -> list[str]:
    """Return up to three names of modules, or of what holds them, that are close to a text."""
    paths = [name.split(".") for name in modules]
    names = {".".join(path[: depth + 1]) for path in paths for depth in range(len(path))}
    return get_close_matches(pattern, sorted(names), n=3) or modules[:3]


def _refuse_unknown(layer_bits: LayerBits, known: list[str]) -> None:
    for name in layer_bits:
        if name not in known:
            near = get_close_matches(name, known, n=1) or known[:1]
            raise UsageError(
                "EV211",
                f"The model has no layer {name!r}.",
                where="layer_bits",
                why=f"It has {len(known)} products; `edgevit inspect` lists those of a bundle.",
                try_next=f"{near[0]}",
            )


def _refuse_split_tensors(graph: Graph, widths: Mapping[str, tuple[int, int]]) -> None:
    leader = shared_grid_sites(graph)
    found: dict[str, tuple[str, int]] = {}
    for gemm in graph.gemms:
        bits = widths[gemm.name][1]
        first, wanted = found.setdefault(leader[gemm.left.name], (gemm.module, bits))
        if bits != wanted:
            raise UsageError(
                "EV212",
                "Two layers that read one tensor ask for different widths of it.",
                where=f"layer_bits of {gemm.module}",
                why=f"{first} reads it in {wanted} bits, {gemm.module} in {bits}; "
                "the engine rounds it once.",
                try_next=f"Give both the same activation width, such as {max(bits, wanted)}.",
            )
