"""Rules about codes: their types, zero points and values (3-4, 16, 26, 36-40)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from edgevit.targets.tensorrt.conformance.operands import (
    SYMMETRIC_TYPES,
    Quantizer,
    grid_values,
    per_channel,
    quantizers,
    scale_size,
)
from edgevit.targets.tensorrt.conformance.rule import CheckedGraph, Fault, Level, NotRun, rule
from edgevit.targets.tensorrt.conformance.view import (
    FLOAT16,
    FP4,
    FP8,
    INT4,
    INT8,
    INT32,
    TYPE_NAMES,
    UINT4,
    Array,
    attribute,
)

_SATURATED_SHARE = 0.001
_DYNAMIC_OPERATORS = ("TRT_FP4DynamicQuantize", "TRT_MXFP8DynamicQuantize", "TRT_BlockQuantize")


def _name(subject: CheckedGraph, quantizer: Quantizer) -> str:
    return subject.view.label(quantizer.node)


@rule(
    3,
    Level.ERROR,
    "zero points are absent or constant, all zero, and int8 or float8e4m3fn",
    source="onnx-tensorrt: non-zero zero points are refused; newer parsers read uint8 as int8",
    remedy="Quantize symmetrically to int8: activation_type=weight_type=QInt8 with "
    "ActivationSymmetric and WeightSymmetric.",
)
def zero_points_are_zero(subject: CheckedGraph) -> Iterator[Fault]:
    """Look at type and values of every zero point, and at the type of the codes."""
    for found in quantizers(subject.view):
        implicit = found.quantizes and not found.zero_point
        if found.code_type not in (*SYMMETRIC_TYPES, INT32, 0) and not implicit:
            kind = TYPE_NAMES.get(found.code_type, "unknown")
            yield Fault(_name(subject, found), f"codes are {kind}")
        if not found.zero_point:
            continue
        values = subject.view.value(found.zero_point)
        if values is None:
            yield Fault(_name(subject, found), "its zero point is computed")
        elif np.any(values != 0):
            worst = float(values.flat[int(np.argmax(np.abs(values.astype(np.float64))))])
            yield Fault(_name(subject, found), f"its zero point is {worst:g}, not 0")


@rule(
    4,
    Level.ERROR,
    "every Q says the type of its codes",
    source="ONNX: uint8 where nothing is said; TensorRT: int8",
    remedy="Give QuantizeLinear an int8 zero point of 0 (or output_dtype from opset 21).",
)
def codes_have_a_type(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for a Q with neither zero point nor output_dtype."""
    for found in quantizers(subject.view):
        if found.quantizes and not found.zero_point and not attribute(found.node, "output_dtype"):
            text = "no zero point: ONNX Runtime makes uint8 of it, TensorRT int8"
            yield Fault(_name(subject, found), text)


@rule(
    16,
    Level.ERROR,
    "biases are float",
    source="TensorRT IDequantizeLayer takes INT8, FP8 and INT4; ModelOpt: QuantizeBias=False",
    remedy="Leave biases in float: extra_options={'QuantizeBias': False}.",
)
def biases_are_float(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for a DQ of int32 codes."""
    for found in quantizers(subject.view):
        if not found.quantizes and found.code_type == INT32:
            yield Fault(_name(subject, found), f"int32 codes of {found.source}")


@rule(
    26,
    Level.ERROR,
    "INT8 and FP8 are not mixed",
    source="TensorRT 10 developer guide (read second-hand): one of them per network",
    remedy="Quantize the whole model to one of the two.",
)
def one_kind_of_codes(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for both kinds of codes."""
    first: dict[int, str] = {}
    for found in quantizers(subject.view):
        first.setdefault(found.code_type, _name(subject, found))
    if INT8 in first and FP8 in first:
        yield Fault(first[FP8], f"FP8 here, INT8 at {first[INT8]}")


@rule(
    36,
    Level.WARNING,
    "codes of weights are symmetric, and few values are cut off",
    source="TensorRT quantized types: [-127, 127] keeps a weight symmetric; share of 0.1 %",
    remedy="Give a wider range to what is cut off (a method that keeps the largest value, such as "
    "minmax, does).",
)
def few_values_are_cut_off(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for the code -128 and for clipping: in weights by value, in activations as told."""
    view = subject.view
    for found in quantizers(view):
        codes = None if found.quantizes else view.value(found.source)
        if codes is not None and codes.ndim > 1 and found.code_type == INT8:
            yield from _find_cut_codes(subject, found, codes)
        values, (scale, _) = view.value(found.source), grid_values(view, found)
        if found.quantizes and scale is not None and values is not None and values.ndim > 1:
            yield from _find_cut_weights(subject, found, values, scale)
    for name, share in subject.facts.clipped.items():
        if share > _SATURATED_SHARE:
            yield Fault(name, f"{100 * share:.2f} % of its values were cut off in calibration")


def _find_cut_codes(subject: CheckedGraph, found: Quantizer, codes: Array) -> Iterator[Fault]:
    lowest = int((codes == -128).sum())
    if lowest:
        remedy = "Use the narrow range for these weights (qmin = -127)."
        yield Fault(_name(subject, found), f"{lowest} codes are -128", remedy=remedy)
    # The largest value of every channel may rightly have the largest code.
    channels = scale_size(subject.view, found) or 1
    extra = int((np.abs(codes.astype(np.int16)) >= 127).sum()) - channels
    if extra > _SATURATED_SHARE * codes.size:
        text = f"{100 * extra / codes.size:.2f} % of the codes are at the end of the range"
        yield Fault(_name(subject, found), text)


def _find_cut_weights(
    subject: CheckedGraph, found: Quantizer, values: Array, scale: Array
) -> Iterator[Fault]:
    if found.code_type != INT8 or found.block_size:
        return
    axis = found.axis if found.axis is not None else 1
    if scale.size == 0:
        return  # rule 6 says so
    if scale.size > 1:
        if not -values.ndim <= axis < values.ndim or values.shape[axis] != scale.size:
            return  # rule 8 says so
        shape = [1] * values.ndim
        shape[axis] = scale.size
        scale = scale.reshape(shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = float((np.abs(values / scale) > 127.5).mean())
    if share > _SATURATED_SHARE:
        yield Fault(_name(subject, found), f"{100 * share:.2f} % of the weights are cut off")


@rule(
    37,
    Level.WARNING,
    "a constant has one grid",
    source="ModelOpt duplicates shared constants before it quantizes",
    remedy="Give every reader a copy of the constant.",
)
def constants_have_one_grid(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for a constant that several Q or DQ nodes read along different axes."""
    axes: dict[str, set[int | None]] = defaultdict(set)
    for found in quantizers(subject.view):
        if found.source in subject.view.constants:
            axes[found.source].add(found.axis if per_channel(subject.view, found) else None)
    for name, used in axes.items():
        if len(used) > 1:
            shown = ", ".join(sorted("per tensor" if a is None else f"axis {a}" for a in used))
            yield Fault(name, f"its grids differ: {shown}")


@rule(
    38,
    Level.WARNING,
    "4-bit tensors have an even number of elements",
    source="onnx-tensorrt asserts it (of the last dimension in 10.1)",
    remedy="Keep tensors with odd sizes in 8 bits.",
)
def four_bits_come_in_pairs(subject: CheckedGraph) -> Iterator[Fault]:
    """Look at the last dimension of every 4-bit constant."""
    for name, tensor in subject.view.constants.items():
        if tensor.data_type in (INT4, UINT4, FP4):
            size = tensor.dims[-1] if tensor.dims else 1
            if size % 2:
                yield Fault(name, f"its last dimension is {size}, an odd number")


@rule(
    39,
    Level.WARNING,
    "inputs that are quantized in blocks have 2 or 3 dimensions",
    source="TensorRT IDynamicQuantizeLayer; ModelOpt turns such quantizers off",
    remedy="Reshape to [batch, tokens, channels] before, or quantize per tensor.",
)
def blocks_have_low_rank(subject: CheckedGraph) -> Iterator[Fault]:
    """Look at the rank of activations that are quantized in blocks."""
    view = subject.view
    for node in view.nodes:
        blocked = node.op_type == "QuantizeLinear" and attribute(node, "block_size", 0)
        if not (blocked or node.op_type in _DYNAMIC_OPERATORS) or view.rooted(node.input[0]):
            continue
        rank = len(view.shape(node.input[0]) or ())
        if rank > 3:
            yield Fault(view.label(node), f"blocks along a tensor of {rank} dimensions")


@rule(
    40,
    Level.ERROR,
    "TensorRT 8.6 gets what it knows: FP32 scales, INT8, weights with their Q",
    source="TensorRT 8.6 NvInfer.h and developer guide; strong typing came with 10",
    remedy="Serve TensorRT 10.3 and later (JetPack 6.1), or export float weights with Q and DQ and "
    "FP32 scales.",
)
def old_tensorrt_is_served(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for FP16 scales, FP8, 4-bit and stored codes if a TensorRT before 10 is to be served."""
    if not subject.serves_older_than("10.0"):
        raise NotRun("no TensorRT before 10 is to be served")
    for found in quantizers(subject.view):
        if subject.view.elem_type(found.scale) == FLOAT16:
            yield Fault(_name(subject, found), "an FP16 scale")
        if found.code_type in (FP8, INT4, FP4):
            yield Fault(_name(subject, found), f"codes are {TYPE_NAMES[found.code_type]}")
        if not found.quantizes and found.source in subject.view.constants:
            yield Fault(_name(subject, found), "stored codes without their Q")
