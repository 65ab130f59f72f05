"""Shapes with one symbolic dimension, the batch B.

A dimension that grows with the batch, k times B, is written ``-k``: ``(-1, 197, 768)`` is
[B, 197, 768] and ``(-64, 49, 96)`` is [64 B, 49, 96]. Every node of a canonical graph carries its
shape in ``node.meta["shape"]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from edgevit.errors import UnsupportedError

Shape = tuple[int, ...]
PROBES = (5, 7)
"""Two batch sizes; a dimension that differs between them depends on the batch."""


def shape_of(node: Node) -> Shape:
    """Return the shape of a node's output.

    Raises:
        UnsupportedError: The shape is not an integer multiple of the batch (EV303).
    """
    shape = node.meta.get("shape")
    if shape is None:
        raise batch_error(node, "its output's shape is not fixed up to the batch size")
    return tuple(shape)


def batch_error(node: Node, why: str) -> UnsupportedError:
    """Return the error for an operator that mixes the batch with something else."""
    return UnsupportedError(
        "EV303",
        "An operator depends on the batch size in a way that can't be written down.",
        where=f"{node.meta.get('module') or 'model'}: {node.target}",
        why=why,
        try_next="Write shapes as -1 or x.shape[0] only, and treat every image alike.",
    )


def args_of(node: Node) -> tuple[Any, ...]:
    """Return a node's arguments; their types are known from its operator."""
    return node.args


def target_of(node: Node) -> Callable[..., Any]:
    """Return the operator of a call_function node."""
    target: Any = node.target
    return target  # type: ignore[no-any-return]


def operator_name(node: Node) -> str:
    """Return the short name of a call_function node's operator, such as "linear"."""
    target: Any = node.target
    name: str = target._schema.name if hasattr(target, "_schema") else target.__name__
    return name.rpartition("::")[2]


def at_batch(shape: Shape, batch: int) -> Shape:
    """Return the shape in numbers for one batch size."""
    return tuple(-d * batch if d < 0 else d for d in shape)


def symbolic(sizes: Sequence[Sequence[int]], batches: Sequence[int] = PROBES) -> Shape | None:
    """Return the shape that has these `sizes` at these `batches`, None if there is none."""
    shape: list[int] = []
    for first, second in zip(*sizes, strict=True):
        factor = first // batches[0]
        if first == second:
            shape.append(first)
        elif factor * batches[0] == first and factor * batches[1] == second:
            shape.append(-factor)
        else:
            return None
    return tuple(shape)


def reshape_argument(shape: Shape, node: Node) -> list[int]:
    """Return the shape as an argument of reshape, the batch written as -1.

    Raises:
        UnsupportedError: Two dimensions depend on the batch (EV303).
    """
    if sum(d < 0 for d in shape) > 1:
        raise batch_error(node, f"two dimensions of its output grow with the batch: {shape}")
    return [-1 if d < 0 else d for d in shape]


def infer(node: Node) -> Shape | None:
    """Return the output shape of an operator from its arguments' shapes, on meta tensors.

    Raises:
        UnsupportedError: The operator doesn't take these shapes at every batch (EV303).
    """
    sizes = []
    for batch in PROBES:

        def probe(source: Node, batch: int = batch) -> torch.Tensor:
            dtype = source.meta.get("dtype", torch.float32)
            return torch.empty(at_batch(shape_of(source), batch), dtype=dtype, device="meta")

        args, kwargs = map_arg((node.args, node.kwargs), probe)
        try:
            result = target_of(node)(*args, **kwargs)
        except RuntimeError as cause:
            raise batch_error(node, str(cause).splitlines()[0]) from cause
        if not isinstance(result, torch.Tensor):
            return None
        sizes.append(tuple(result.shape))
    return symbolic(sizes)
