"""Emitters of what slides a window over an image: convolution and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from edgevit.graph.shapes import args_of, arguments_of
from edgevit.graph.window import convolution_arguments
from edgevit.targets.onnx.context import Emitter, Lowering, no_form

aten = torch.ops.aten


def _conv(context: Lowering, node: fx.Node) -> None:
    inputs = convolution_arguments(node)[:3]
    names = [context.operand(value) for value in inputs if value is not None]
    context.builder.add("Conv", names, node.name, **conv_attributes(node))


def conv_attributes(node: fx.Node) -> dict[str, Any]:
    """Return the attributes of a Conv."""
    stride, padding, dilation, groups = convolution_arguments(node)[3:]
    return {
        "strides": _pair(stride),
        "pads": _both_ends(padding),
        "dilations": _pair(dilation),
        "group": groups,
    }


def _max_pool(context: Lowering, node: fx.Node) -> None:
    x, kernel, stride, padding, dilation, *_ = arguments_of(
        node, input=None, kernel_size=None, stride=None, padding=0, dilation=1
    )
    window = _window(context, node, kernel, stride, padding, dilation)
    operand = context.operand(x)
    context.builder.add("MaxPool", [operand], node.name, **window, dilations=_pair(dilation))


def _window(
    context: Lowering, node: fx.Node, kernel: Any, stride: Any, padding: Any, dilation: Any = 1
) -> dict[str, Any]:
    """Return the attributes that both pools have.

    A last window that would begin in the padding is left out by torch, and not by every engine. It
    is one that rounding down leaves out too, so sizes are rounded up only where they have to be.
    """
    kernels, strides, pads = _pair(kernel), _pair(stride or kernel), _pair(padding)
    before, after = (context.shapes[each.name][-2:] for each in (args_of(node)[0], node))
    spans = [(k - 1) * d + 1 for k, d in zip(kernels, _pair(dilation), strict=True)]
    rooms = [b + 2 * p - span for b, p, span in zip(before, pads, spans, strict=True)]
    steps = list(zip(rooms, strides, strict=True))
    counts = [
        tuple(room // s + 1 for room, s in steps),
        tuple(-(-room // s) + 1 for room, s in steps),
    ]
    if tuple(after) not in counts:
        raise no_form(node, "ceil_mode and pads", "Pad the input so that all windows are whole.")
    return {
        "kernel_shape": kernels,
        "strides": strides,
        "pads": _both_ends(padding),
        "ceil_mode": counts.index(tuple(after)),
    }


def _avg_pool(context: Lowering, node: fx.Node) -> None:
    x, kernel, stride, padding, _, count_pads, divisor = arguments_of(
        node,
        input=None,
        kernel_size=None,
        stride=None,
        padding=0,
        ceil_mode=False,
        count_include_pad=True,
        divisor_override=None,
    )
    count_pads = bool(count_pads) and any(_pair(padding))  # without pads there are none to count
    window = _window(context, node, kernel, stride, padding)
    if divisor is not None or (window["ceil_mode"] and count_pads):  # engines differ at the end
        form = "ceil_mode and pads, or divisor_override"
        raise no_form(node, form, "Pad the input so that all windows are whole.")
    window["count_include_pad"] = int(count_pads)
    context.builder.add("AveragePool", [context.operand(x)], node.name, **window)


def _conv_transpose(context: Lowering, node: fx.Node) -> None:
    x, weight, bias, stride, padding, more, groups, dilation = arguments_of(
        node,
        input=None,
        weight=None,
        bias=None,
        stride=1,
        padding=0,
        output_padding=0,
        groups=1,
        dilation=1,
    )
    strides, more = _pair(stride), _pair(more)
    if any(extra >= step for extra, step in zip(more, strides, strict=True)):  # engines refuse it
        raise no_form(
            node, f"output_padding={more} and stride={strides}", "Pad its output instead."
        )
    inputs = [context.operand(value) for value in (x, weight, bias) if value is not None]
    context.builder.add(
        "ConvTranspose",
        inputs,
        node.name,
        strides=strides,
        pads=_both_ends(padding),
        output_padding=more,
        group=groups,
        dilations=_pair(dilation),
    )


def _upsample(mode: str) -> Emitter:
    def emit(context: Lowering, node: fx.Node) -> None:
        corners = mode != "nearest" and bool(
            arguments_of(node, x=None, size=None, corners=False)[2]
        )
        x = args_of(node)[0]
        sides = (context.shapes[x.name][2:], context.shapes[node.name][2:])
        if mode == "nearest" and not _finds_nearest(*sides):
            _gather_nearest(context, node, *sides)
            return
        if mode == "cubic" and any(a < b for b, a in zip(*sides, strict=True)):
            _multiply_cubic(context, node, *sides, corners)
            return
        factors = np.concatenate([np.ones(2, np.float32), _factors(*sides)])
        further: dict[str, Any] = {"cubic_coeff_a": -0.75} if mode == "cubic" else {}
        kind = "align_corners" if corners else "half_pixel"
        if mode == "nearest":
            kind, further = "asymmetric", {"nearest_mode": "floor"}
        context.builder.add(
            "Resize",
            [context.operand(x), "", context.builder.constant(f"{node.name}_factors", factors)],
            node.name,
            mode=mode,
            coordinate_transformation_mode=kind,
            **further,
        )

    return emit


def _factors(before: Sequence[int], after: Sequence[int]) -> np.ndarray[Any, Any]:
    """Return the factors, float32 [2], with which an engine comes to the size that is wanted.

    TensorRT does not take a size beside a batch that it does not know, and ONNX Runtime mistakes
    the axes of a resize for others when it moves a transpose behind it: so these are factors of all
    dimensions. An engine rounds the size times the factor down, in float32.
    """
    factors = np.array(after, np.float32) / np.array(before, np.float32)
    products = (factors * np.array(before, np.float32), factors.astype(np.float64) * before)
    short = np.any(np.floor(products) < np.array(after), axis=0)  # some round in float64
    return np.where(short, np.nextafter(factors, np.float32(np.inf)), factors)


def _finds_nearest(before: Sequence[int], after: Sequence[int]) -> bool:
    """Return whether an engine that divides by these factors reads the pixels that torch reads."""
    sides = zip(before, after, _factors(before, after), strict=True)
    return all(
        np.array_equal(np.floor(np.arange(b, dtype=np.float32) / factor), _nearest(a, b))
        for a, b, factor in sides
    )


def _nearest(before: int, after: int) -> np.ndarray[Any, Any]:
    """Return int32 [after]: the place each output reads, told in float32 as torch does."""
    places = np.arange(after, dtype=np.float32) * np.float32(before / after)
    found: np.ndarray[Any, Any] = np.minimum(np.floor(places), before - 1).astype(np.int32)
    return found


def _gather_nearest(
    context: Lowering, node: fx.Node, before: Sequence[int], after: Sequence[int]
) -> None:
    """Emit a resize to the nearest pixel as a gather of rows and one of columns."""
    rows, columns = (_nearest(a, b) for a, b in zip(before, after, strict=True))
    constant = context.builder.constant
    name, x = node.name, context.operand(args_of(node)[0])
    x = context.builder.add("Gather", [x, constant(f"{name}_rows", rows)], f"{name}_high", axis=2)
    context.builder.add("Gather", [x, constant(f"{name}_columns", columns)], name, axis=3)


def _multiply_cubic(
    context: Lowering, node: fx.Node, before: Sequence[int], after: Sequence[int], corners: bool
) -> None:
    """Emit a cubic resize as a product with one matrix a side.

    ONNX Runtime moves transposes behind a resize, and then refuses a cubic one that makes smaller.
    """
    rows, columns = (_cubic(b, a, corners) for b, a in zip(before, after, strict=True))
    name, constant = node.name, context.builder.constant
    inputs = [constant(f"{name}_rows", rows), context.operand(args_of(node)[0])]
    high = context.builder.add("MatMul", inputs, f"{name}_high")  # [B, C, after, before]
    wide = constant(f"{name}_columns", np.ascontiguousarray(columns.T))
    context.builder.add("MatMul", [high, wide], name)


def _cubic(before: int, after: int, corners: bool) -> np.ndarray[Any, Any]:
    """Return float32 [after, before]: the weights of pixels along one side, those of torch."""
    pixels = torch.eye(before)[None, None]
    found = torch.nn.functional.interpolate(
        pixels, (after, before), mode="bicubic", align_corners=corners
    )
    weights: np.ndarray[Any, Any] = found[0, 0].numpy()
    return weights


def _pair(value: Any) -> list[int]:
    """Return the two numbers of an argument that may be one for both."""
    found = [value] if isinstance(value, int) else [int(one) for one in value]
    return found * 2 if len(found) == 1 else found


def _both_ends(padding: Any) -> list[int]:
    return _pair(padding) * 2


EMITTERS: dict[Any, Emitter] = {
    aten.conv2d.default: _conv,
    aten.max_pool2d.default: _max_pool,
    aten.avg_pool2d.default: _avg_pool,
    aten.conv_transpose2d.input: _conv_transpose,
    aten.upsample_nearest2d.default: _upsample("nearest"),
    aten.upsample_bilinear2d.default: _upsample("linear"),
    aten.upsample_bicubic2d.default: _upsample("cubic"),
}
