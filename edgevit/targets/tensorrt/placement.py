"""The placement of a TensorRT device: which products, on which grids, in which variants.

Rules (NVIDIA, TensorRT documentation, "Working with quantized types"; TensorRT issues 2981, 3714
and 4167 for attention): scales are symmetric, per tensor for activations and per output channel for
weights. A product is quantized where integer kernels exist and pay: linears inside blocks, of 16
channels and more. The patch embedding (three channels), what stands between blocks and the head
(one row per image) stay in float16, and so does attention in the main variant. An attention is
quantized as a whole or not at all: with codes for q k^T or for P V alone it is not fused, and
a block has 16 kernels in place of 10 (TensorRT for RTX 1.7.1).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgevit.graph.attention import Attention, find_attention
from edgevit.graph.blocks import blocks_of
from edgevit.graph.model import Gemm, Graph, Site
from edgevit.graph.operators import LAYOUT, aten
from edgevit.graph.shapes import args_of, shape_of
from edgevit.graph.sites import Role
from edgevit.quantizers.spec import GridSpec, Placement
from edgevit.targets.layer_rows import Unplaced
from edgevit.targets.tensorrt.convolution_kernels import (
    GRANULE,
    SMALLEST,
    has_few_fp8_channels,
    has_large_fp8_kernel,
    has_odd_channels,
)
from edgevit.targets.tensorrt.profiles import AttentionLimits, DeviceProfile
from edgevit.targets.twins import missing_twin
from edgevit.targets.widths import LayerBits, is_asked_in_float, refuse_unmatched, widths_of

SMALLEST_GEMM = 16  # channels in and out below which no Tensor Core kernel is used
ASKED = "asked for in the recipe"
ONE_STEP = "TensorRT rounds a tensor with one step"
ATTENTION = "attention is float16 here; the variant int8_attention quantizes it where that pays"
_ON_SCORES = LAYOUT | {aten.add.Tensor}
NO_FP8_KERNEL = "a convolution without an FP8 kernel stays in float16"
UNPLACED: dict[Unplaced, str] = {
    "depthwise": "a depthwise convolution stays in float16: it waits for memory, and INT8 kernels "
    "write its sums in float32",
    "grouped": "a convolution in groups stays in float16",
    "transposed": "a transposed convolution stays in float16",
    "computed": "its weight is computed, so it stays in float16",
}
_FIXED_FLOAT = {
    Role.PATCH_IN: "the patch embedding stays in float16: three input channels",
    Role.HEAD_IN: "the head stays in float16: one row per image",
}


def main_placement(
    profile: DeviceProfile,
    graph: Graph,
    *,
    weight_bits: int,
    act_bits: int,
    float_layers: tuple[str, ...],
    layer_bits: LayerBits,
) -> Placement:
    """Return the placement of the main variant: linears of the blocks in INT8.

    Raises:
        UsageError: Widths or layers that can't be (EV201, EV211, EV212, EV219).
    """
    widths = widths_of(graph, weight_bits=weight_bits, act_bits=act_bits, layer_bits=layer_bits)
    refuse_unmatched(graph, float_layers)
    placement = Placement(
        target=profile.name, weight_bits=weight_bits, act_bits=act_bits, float_type="float16"
    )
    inside = {name for block in blocks_of(graph) for name in block.gemms}
    for gemm in graph.gemms:
        reason = _left_in_float(graph, gemm, inside, float_layers)
        for site in (gemm.left, gemm.right):
            if reason:
                placement.skipped[site.name] = reason
            else:
                placement.options[site.name] = (_int8(site, *widths[gemm.name]),)
        if reason != ASKED:
            placement.missing |= missing_twin(gemm.left, widths[gemm.name][1], (), ONE_STEP)
    return placement


def variant_placements(
    profile: DeviceProfile, graph: Graph, main: Placement
) -> dict[str, Placement]:
    """Return the further variants by name: "fp16", and where they run "int8_attention", "fp8"."""
    linears = [site for site in graph.sites if site.name in main.options]
    found = {"fp16": _with(main, {}, "the variant fp16 quantizes nothing")}
    attention = _attention_sites(graph, main, profile.int8_attention)
    if attention:
        extra = {site.name: (_int8_attention(site, main.act_bits),) for site in attention}
        found["int8_attention"] = _with(main, {**main.options, **extra}, "")
    if profile.runs("fp8") and profile.fp8_attention is not None and linears:
        none = _without_fp8_kernel(graph)
        sites = [site for site in linears if site.name not in none]
        sites += _attention_sites(graph, main, profile.fp8_attention)
        found["fp8"] = _with(main, {site.name: (_float8(site),) for site in sites}, NO_FP8_KERNEL)
    return found


def _with(main: Placement, options: dict[str, tuple[GridSpec, ...]], reason: str) -> Placement:
    """Return the main placement with other options; the sites no longer in it get the reason."""
    skipped = dict.fromkeys(set(main.options) - set(options), reason)
    kept = {name: why for name, why in main.skipped.items() if name not in options}
    return replace(main, options=options, skipped={**kept, **skipped}, notes=[])


def _left_in_float(
    graph: Graph, gemm: Gemm, inside: set[str], float_layers: tuple[str, ...]
) -> str:
    """Return why a product stays in float16, or an empty string."""
    if is_asked_in_float(gemm.module, float_layers):
        return ASKED
    if gemm.kind in {"qk", "pv"}:
        return ATTENTION
    if gemm.weight is None:
        return "a product of two activations outside attention"
    if gemm.left.role in _FIXED_FLOAT:
        return _FIXED_FLOAT[gemm.left.role]
    if gemm.window is not None:
        return _convolution_in_float(graph, gemm)
    if inside and gemm.name not in inside:
        return "it stands between blocks and stays in float16"
    if min(graph.constant(gemm.weight).shape) < SMALLEST_GEMM:
        return f"it has fewer than {SMALLEST_GEMM} channels and stays in float16"
    return ""


def _convolution_in_float(graph: Graph, gemm: Gemm) -> str:
    """Return why a convolution stays in float16, or an empty string."""
    if has_odd_channels(graph.constant(str(gemm.weight)).shape):
        return (
            f"a convolution of fewer than {SMALLEST} channels, or of a number that {GRANULE} does "
            "not divide, stays in float16"
        )
    return ""


def _without_fp8_kernel(graph: Graph) -> set[str]:
    """Return the sites of convolutions that no FP8 kernel computes."""
    found: set[str] = set()
    for gemm in graph.gemms:
        if gemm.window is not None:
            shape = graph.constant(str(gemm.weight)).shape
            if has_large_fp8_kernel(shape) or has_few_fp8_channels(shape):
                found |= {gemm.left.name, gemm.right.name}
    return found


def _int8(site: Site, weight_bits: int, act_bits: int) -> GridSpec:
    if site.role is Role.WEIGHT:
        return GridSpec(
            bits=weight_bits, signed=True, symmetric=True, granularity="channel", narrow=True
        )
    return GridSpec(bits=act_bits, signed=True, symmetric=True)


def _int8_attention(site: Site, act_bits: int) -> GridSpec:
    """Return a site's grid; probabilities use half of a signed grid, from 0 to 1."""
    top = 1.0 if site.role is Role.SOFTMAX_OUT else None
    return GridSpec(bits=act_bits, signed=True, symmetric=True, fixed_top=top)


def _float8(site: Site) -> GridSpec:
    top = 1.0 if site.role is Role.SOFTMAX_OUT else None
    return GridSpec(kind="e4m3", bits=8, signed=True, symmetric=True, fixed_top=top)


def _attention_sites(graph: Graph, main: Placement, limits: AttentionLimits) -> list[Site]:
    """Return the operands of every attention that may be quantized and would be one kernel."""
    gemms = {gemm.name: gemm for gemm in graph.gemms}
    found: list[Site] = []
    for attention in find_attention(graph.module):
        pair = [gemms[node.name] for node in (attention.scores, attention.output)]
        sites = [site for gemm in pair for site in (gemm.left, gemm.right)]
        free = all(main.skipped.get(site.name) == ATTENTION for site in sites)
        if free and _is_fused(attention) and _fits(attention, limits):
            found += sites
    return found


def _is_fused(attention: Attention) -> bool:
    """Return whether only constants are added between the scores and the softmax.

    TensorRT for RTX 1.7.1 takes Swin's relative positions and masks into the kernel of attention,
    in INT8 and FP8 as in FP16; a score that is scaled, or that another activation is added to,
    was not seen to be fused.
    """
    node: Any = args_of(attention.softmax)[0]
    while node is not attention.scores:
        sources = [source for source in node.all_input_nodes if source.op != "get_attr"]
        if node.target not in _ON_SCORES or len(sources) != 1:
            return False
        node = sources[0]
    return True


def _fits(attention: Attention, limits: AttentionLimits) -> bool:
    left: Any = args_of(attention.scores)[0]
    sizes = shape_of(attention.scores)  # [B, H, N, N], without H of a single head
    heads = sizes[-3] if len(sizes) > 3 else 1
    return limits.allows(heads=heads, head_size=shape_of(left)[-1], sequence=max(sizes[-2:]))
