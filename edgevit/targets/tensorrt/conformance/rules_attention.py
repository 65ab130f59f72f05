"""Rules about attention: which of its tensors are quantized, and what a fused kernel takes (20-23).

Limits: NVIDIA/TensorRT issues 2981, 3714 and 4167, and TensorRT's documentation of fused attention.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgevit.targets.tensorrt.conformance.attention import OnnxAttention, attentions
from edgevit.targets.tensorrt.conformance.operands import (
    LAYOUT_OPS,
    SCALING_OPS,
    quantizer_of,
)
from edgevit.targets.tensorrt.conformance.rule import CheckedGraph, Fault, Level, rule
from edgevit.targets.tensorrt.conformance.view import FP8, INT8, GraphView


@rule(
    20,
    Level.WARNING,
    "attention is quantized in all the places its fused kernel wants, or in none",
    source="NVIDIA/TensorRT issue 2981: Q/DQ before the first product, after softmax, after the "
    "second; ModelOpt match_fp8_mha_pattern",
    remedy="Quantize query, key, value, softmax output and the second product's output, or leave "
    "both products in float.",
)
def attention_is_quantized_whole(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for attention with some of its tensors quantized."""
    for found in attentions(subject.view):
        missing = [name for name, operand in found.operands.items() if not operand.dequantizer]
        if len(missing) == len(found.operands):
            continue
        if not _output_is_quantized(subject.view, found):
            missing.append("output of the second product")
        if missing:
            name = subject.view.label(found.softmax)
            yield Fault(name, f"quantized, but for: {', '.join(missing)}")


def _output_is_quantized(view: GraphView, found: OnnxAttention) -> bool:
    """Return whether the second product's output reaches Q nodes only."""
    readers = [node for node, _ in view.ahead(found.context.output[0], LAYOUT_OPS)]
    grids = [quantizer_of(view, node) for node in readers]
    return bool(grids) and all(grid is not None and grid.quantizes for grid in grids)


@rule(
    21,
    Level.WARNING,
    "quantized attention has a size that is fused",
    source="NVIDIA/TensorRT issues 2981, 3714: INT8 up to 512 tokens, heads of 16, 32 or 64; "
    "ModelOpt: FP8 heads of 9 to 256; TensorRT for RTX 1.7.1 compiles INT8 so, and FP8 from 32 "
    "tokens",
    remedy="Leave the two products of this attention in FP16.",
)
def attention_has_a_fused_size(subject: CheckedGraph) -> Iterator[Fault]:
    """Compare head size and sequence length of quantized attention with the device's limits."""
    profile = subject.profile
    for found in attentions(subject.view):
        name = subject.view.label(found.softmax)
        limits = profile.int8_attention
        if FP8 in found.code_types:
            if profile.fp8_attention is None:
                yield Fault(name, f"FP8 attention on {profile.name}", Level.ERROR)
                continue
            limits = profile.fp8_attention
        elif INT8 not in found.code_types:
            continue
        if found.heads is not None and found.heads < limits.min_heads:
            yield Fault(name, f"fewer than {limits.min_heads} heads are not fused on this device")
        head, sequence = found.head_size, found.sequence
        if head is not None and head not in limits.head_sizes:
            yield Fault(name, f"heads of {head} channels are not fused")
        longest = limits.max_sequence
        if sequence is not None and longest is not None and sequence > longest:
            yield Fault(name, f"{sequence} tokens, at most {longest} are fused")
        if sequence is not None and sequence < limits.min_sequence:
            yield Fault(name, f"{sequence} tokens, fewer than {limits.min_sequence} are not fused")


@rule(
    22,
    Level.WARNING,
    "the attention scale is applied to query or key, not to the scores",
    source="TensorRT documentation of fused attention",
    remedy="Multiply the query by the scale before its Q, or fold the scale into its projection.",
)
def scale_is_on_the_query(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for Mul or Div by a constant between the first product and the softmax."""
    view = subject.view
    for found in attentions(view):
        for node in found.between:
            constant = [name for name in node.input if view.rooted(name)]
            if node.op_type in SCALING_OPS and constant:
                yield Fault(view.label(node), "scales the scores behind the first product")


@rule(
    23,
    Level.WARNING,
    "quantized attention has no mask that is computed",
    source="ModelOpt find_mha_partitions: products around an addition that is not constant stay "
    "float",
    remedy="Leave the two products of this attention in FP16, or make the mask a constant.",
)
def mask_is_constant(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for an Add of two computed tensors before the softmax of quantized attention."""
    view = subject.view
    for found in attentions(view):
        if not found.code_types:
            continue
        for node in found.between:
            if node.op_type == "Add" and not any(view.rooted(name) for name in node.input):
                yield Fault(view.label(node), "adds a computed mask to quantized attention")
