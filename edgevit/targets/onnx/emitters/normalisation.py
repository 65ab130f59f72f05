"""Emitters of softmax, normalisations and reductions over axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from edgevit.graph.shapes import args_of, arguments_of
from edgevit.targets.onnx.context import Emitter, Lowering, no_form

aten = torch.ops.aten


def _softmax(context: Lowering, node: fx.Node) -> None:
    context.builder.add(
        "Softmax", [context.operand(args_of(node)[0])], node.name, axis=args_of(node)[1]
    )


def layer_norm_attributes(context: Lowering, node: fx.Node) -> tuple[list[str], dict[str, Any]]:
    """Return the names of weight and bias, and the attributes of a LayerNormalization."""
    _, normalized, weight, bias, epsilon, *_ = arguments_of(
        node, input=None, normalized_shape=None, weight=None, bias=None, eps=1e-5
    )
    if weight is None:  # ONNX asks for one
        ones = np.ones([int(size) for size in normalized], np.float32)
        affine = [context.builder.constant(f"ones_{'_'.join(map(str, normalized))}", ones)]
    else:
        affine = [context.operand(value) for value in (weight, bias) if value is not None]
    return affine, {"axis": -len(normalized), "epsilon": float(epsilon)}


def _layer_norm(context: Lowering, node: fx.Node) -> None:
    affine, attributes = layer_norm_attributes(context, node)
    inputs = [context.operand(args_of(node)[0]), *affine]
    context.builder.add("LayerNormalization", inputs, node.name, **attributes)


def _reduce(op: str) -> Emitter:
    def emit(context: Lowering, node: fx.Node) -> None:
        x, dims, keep, *_ = arguments_of(node, input=None, dim=None, keepdim=False)
        _add_reduction(context, node, op, x, dims, keep)

    return emit


def _add_reduction(
    context: Lowering, node: fx.Node, op: str, x: Any, dims: Any, keep: bool
) -> None:
    rank = len(context.shapes[x.name])
    axes = list(range(rank)) if not dims and dims != 0 else dims
    axes = [axes] if isinstance(axes, int) else list(axes)
    inputs = [context.operand(x), context.integers("axes", axes)]
    context.builder.add(op, inputs, node.name, keepdims=int(keep))


_NORMS = {1: "ReduceL1", 2: "ReduceL2"}


def _vector_norm(context: Lowering, node: fx.Node) -> None:
    x, order, dims, keep, *_ = arguments_of(node, input=None, ord=2, dim=None, keepdim=False)
    if order not in (1, 2):
        raise no_form(node, f"ord={order}", "Write it as abs, pow and sum in the model.")
    _add_reduction(context, node, _NORMS[order], x, dims, keep)


EMITTERS: dict[Any, Emitter] = {
    aten.softmax.int: _softmax,
    aten.layer_norm.default: _layer_norm,
    aten.mean.dim: _reduce("ReduceMean"),
    aten.sum.dim_IntList: _reduce("ReduceSum"),
    aten.amax.default: _reduce("ReduceMax"),
    aten.amin.default: _reduce("ReduceMin"),
    aten.linalg_vector_norm.default: _vector_norm,
}
