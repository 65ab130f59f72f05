"""Rules about scales: constant, positive, one for activations, per output channel (5-10)."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from edgevit.quantizers.fp16_range import HALF_MAX, SMALLEST_NORMAL
from edgevit.targets.tensorrt.conformance.operands import (
    Quantizer,
    per_channel,
    quantizers,
    scale_size,
    weight_axis,
)
from edgevit.targets.tensorrt.conformance.rule import CheckedGraph, Fault, Level, rule
from edgevit.targets.tensorrt.conformance.view import (
    Array,
)


def _name(subject: CheckedGraph, quantizer: Quantizer) -> str:
    return subject.view.label(quantizer.node)


@rule(
    5,
    Level.ERROR,
    "scales are constants",
    source="TensorRT IQuantizeLayer: the scale subgraph is Constant, or Constant and Cast",
    remedy="Fold the arithmetic on scales into initializers.",
)
def scales_are_constants(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for scales that come from anything but a constant, perhaps cast."""
    view = subject.view
    for found in quantizers(view):
        cast = view.producer(found.scale, {"Cast"})
        root = cast.input[0] if cast is not None else found.scale
        if root not in view.constants:
            yield Fault(_name(subject, found), "its scale is computed")


@rule(
    6,
    Level.ERROR,
    "scales are finite, positive and within FP16",
    source="onnx-tensorrt asserts scales > 0; ModelOpt warns of scales that leave FP16",
    remedy="Drop the grid of a tensor that is always zero; calibrate on images that move it; a "
    "scale below 6e-5 keeps fewer bits in FP16.",
)
def scales_are_positive(subject: CheckedGraph) -> Iterator[Fault]:
    """Look at the values of every scale."""
    for found in quantizers(subject.view):
        scale = subject.view.value(found.scale)
        if scale is None:
            continue
        values = scale.astype(np.float64)
        if values.size == 0 or not np.isfinite(values).all() or (values <= 0).any():
            yield Fault(_name(subject, found), f"its scale is {_bad(values)}")
            continue
        low, high = values.min(), values.max()
        if low < SMALLEST_NORMAL or high > HALF_MAX:
            off = low if low < SMALLEST_NORMAL else high
            text = f"its scale {off:.3g} is not a normal FP16 number"
            yield Fault(_name(subject, found), text, Level.WARNING)


def _bad(values: Array) -> str:
    if values.size == 0:
        return "empty"
    return f"{values[~np.isfinite(values) | (values <= 0)].flat[0]:g}"


@rule(
    7,
    Level.ERROR,
    "activations have one scale",
    source="TensorRT IQuantizeLayer: per-channel quantization is for weights only",
    remedy="Quantize activations per tensor.",
)
def activations_have_one_scale(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for a Q of an activation with one scale per channel."""
    for found in quantizers(subject.view):
        moving = found.quantizes and not subject.view.rooted(found.source)
        if moving and per_channel(subject.view, found):
            count = scale_size(subject.view, found)
            yield Fault(_name(subject, found), f"an activation with {count} scales")


@rule(
    8,
    Level.ERROR,
    "per-channel scales name their axis, fit it, and it is that of output channels",
    source="onnx-tensorrt: axis 0 where absent (10.1), ONNX: 1; kernels need output channels",
    remedy="Write `axis`: 0 for Conv and for Gemm with transB, 1 for ConvTranspose and for Gemm "
    "without, the last for MatMul.",
)
def axes_are_output_channels(subject: CheckedGraph) -> Iterator[Fault]:
    """Compare axis and length of per-channel scales with the weight's shape and product."""
    view = subject.view
    for found in quantizers(view):
        if not per_channel(view, found):
            continue
        if found.axis is None:
            yield Fault(_name(subject, found), "per-channel scales without the attribute axis")
        shape = view.shape(found.source) or ()
        axis = found.axis if found.axis is not None else 1
        if not shape:
            continue
        if not -len(shape) <= axis < len(shape):
            yield Fault(_name(subject, found), f"axis {axis} of a tensor of rank {len(shape)}")
            continue
        size, count = shape[axis], scale_size(view, found)
        if size != count:
            text = f"{count} scales for {size} channels of axis {axis}"
            yield Fault(_name(subject, found), text)
        wanted = weight_axis(view, found)
        if wanted is not None and wanted[0] != axis % len(shape):
            text = f"axis {axis}, the output channels of {wanted[1]} are axis {wanted[0]}"
            yield Fault(_name(subject, found), text)


@rule(
    9,
    Level.ERROR,
    "per-channel codes are constants",
    source="TensorRT IDequantizeLayer: the input of per-channel quantization is rooted at a "
    "constant",
    remedy="Compute the weight before the export, or quantize it per tensor.",
)
def per_channel_is_constant(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for a per-channel DQ whose codes are computed while running."""
    for found in quantizers(subject.view):
        moving = not found.quantizes and not subject.view.rooted(found.source)
        if moving and per_channel(subject.view, found):
            yield Fault(_name(subject, found), "per-channel scales on codes that are computed")


@rule(
    10,
    Level.ERROR,
    "zero points are as many as scales",
    source="onnx-tensorrt asserts equal volumes",
    remedy="Give the zero point the shape of the scale.",
)
def zero_points_match_scales(subject: CheckedGraph) -> Iterator[Fault]:
    """Compare the sizes of scale and zero point."""
    for found in quantizers(subject.view):
        shape = subject.view.shape(found.zero_point) if found.zero_point else None
        count = scale_size(subject.view, found)
        if shape is None or count is None or not all(isinstance(size, int) for size in shape):
            continue
        zeros = prod(int(size or 0) for size in shape)
        if zeros != count:
            yield Fault(_name(subject, found), f"{zeros} zero points for {count} scales")
