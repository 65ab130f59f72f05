"""Emitters of operators that work on one value at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgevit.errors import UnsupportedError
from edgevit.graph.shapes import args_of, arguments_of
from edgevit.targets.onnx.context import Emitter, Lowering, no_form

aten = torch.ops.aten


def _binary(op: str) -> Emitter:
    def emit(context: Lowering, node: fx.Node) -> None:
        if node.kwargs.get("alpha", 1) != 1 or node.kwargs.get("rounding_mode") is not None:
            raise _no_form(node, dict(node.kwargs))
        context.builder.add(op, [context.operand(a) for a in args_of(node)[:2]], node.name)

    return emit


def _unary(op: str) -> Emitter:
    def emit(context: Lowering, node: fx.Node) -> None:
        context.builder.add(op, [context.operand(args_of(node)[0])], node.name)

    return emit


def _gelu(context: Lowering, node: fx.Node) -> None:
    x, approximate = arguments_of(node, input=None, approximate="none")
    context.builder.add("Gelu", [context.operand(x)], node.name, approximate=approximate)


def _silu(context: Lowering, node: fx.Node) -> None:
    x = context.operand(args_of(node)[0])
    gate = context.builder.add("Sigmoid", [x], f"{node.name}_gate")
    context.builder.add("Mul", [x, gate], node.name)


def _rsqrt(context: Lowering, node: fx.Node) -> None:
    x = context.operand(args_of(node)[0])
    root = context.builder.add("Sqrt", [x], f"{node.name}_root")
    context.builder.add("Reciprocal", [root], node.name)


def _clip(context: Lowering, node: fx.Node) -> None:
    x, low, high = arguments_of(node, input=None, min=None, max=None)
    _add_clip(context, node, x, low, high)


def _clip_min(context: Lowering, node: fx.Node) -> None:
    _add_clip(context, node, args_of(node)[0], arguments_of(node, input=None, min=None)[1], None)


def _clip_max(context: Lowering, node: fx.Node) -> None:
    _add_clip(context, node, args_of(node)[0], None, arguments_of(node, input=None, max=None)[1])


def _hardtanh(context: Lowering, node: fx.Node) -> None:
    _add_clip(context, node, *arguments_of(node, input=None, min_val=-1.0, max_val=1.0))


def _add_clip(context: Lowering, node: fx.Node, x: Any, low: Any, high: Any) -> None:
    """Write a clamp; one with a single end is a maximum or a minimum."""
    if low is not None and high is not None:
        inputs = [context.operand(value) for value in (x, low, high)]
        context.builder.add("Clip", inputs, node.name)
    elif low is not None:
        context.builder.add("Max", [context.operand(x), context.operand(low)], node.name)
    else:
        context.builder.add("Min", [context.operand(x), context.operand(high)], node.name)


def _hardsigmoid(context: Lowering, node: fx.Node) -> None:
    x = context.operand(args_of(node)[0])
    context.builder.add("HardSigmoid", [x], node.name, alpha=1 / 6, beta=0.5)


def _leaky_relu(context: Lowering, node: fx.Node) -> None:
    x, slope = arguments_of(node, input=None, negative_slope=0.01)
    context.builder.add("LeakyRelu", [context.operand(x)], node.name, alpha=float(slope))


def _elu(context: Lowering, node: fx.Node) -> None:
    x, alpha, scale, input_scale = arguments_of(node, input=None, alpha=1, scale=1, input_scale=1)
    if scale != 1 or input_scale != 1:
        raise _no_form(node, {"scale": scale, "input_scale": input_scale})
    context.builder.add("Elu", [context.operand(x)], node.name, alpha=float(alpha))


def _softplus(context: Lowering, node: fx.Node) -> None:
    x, beta, threshold = arguments_of(node, input=None, beta=1, threshold=20)
    if beta != 1 or threshold < 20:
        raise _no_form(node, {"beta": beta, "threshold": threshold})
    context.builder.add("Softplus", [context.operand(x)], node.name)


def _pow(context: Lowering, node: fx.Node) -> None:
    x, exponent = (context.operand(args_of(node)[0]), args_of(node)[1])
    if exponent == 2:
        context.builder.add("Mul", [x, x], node.name)
    elif exponent == 0.5:
        context.builder.add("Sqrt", [x], node.name)
    else:
        context.builder.add("Pow", [x, context.operand(exponent)], node.name)


def _no_form(node: fx.Node, given: dict[str, Any]) -> UnsupportedError:
    return no_form(node, str(given), "Write the factor as a separate multiplication in the model.")


EMITTERS: dict[Any, Emitter] = {
    aten.add.Tensor: _binary("Add"),
    aten.sub.Tensor: _binary("Sub"),
    aten.mul.Tensor: _binary("Mul"),
    aten.div.Tensor: _binary("Div"),
    aten.matmul.default: _binary("MatMul"),
    aten.maximum.default: _binary("Max"),
    aten.minimum.default: _binary("Min"),
    aten.relu.default: _unary("Relu"),
    aten.sigmoid.default: _unary("Sigmoid"),
    aten.tanh.default: _unary("Tanh"),
    aten.hardswish.default: _unary("HardSwish"),
    aten.sqrt.default: _unary("Sqrt"),
    aten.exp.default: _unary("Exp"),
    aten.neg.default: _unary("Neg"),
    aten.abs.default: _unary("Abs"),
    aten.reciprocal.default: _unary("Reciprocal"),
    aten.gelu.default: _gelu,
    aten.silu.default: _silu,
    aten.rsqrt.default: _rsqrt,
    aten.clamp.default: _clip,
    aten.clamp_min.default: _clip_min,
    aten.clamp_max.default: _clip_max,
    aten.hardtanh.default: _hardtanh,
    aten.hardsigmoid.default: _hardsigmoid,
    aten.leaky_relu.default: _leaky_relu,
    aten.elu.default: _elu,
    aten.softplus.default: _softplus,
    aten.pow.Tensor_Scalar: _pow,
}
