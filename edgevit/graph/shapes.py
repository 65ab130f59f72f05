"""Shapes with one symbolic dimension, the batch B.

A dimension that grows with the batch, k times B, is written ``-k``: ``(-1, 197, 768)`` is
[B, 197, 768] and ``(-64, 49, 96)`` is [64 B, 49, 96]. Every node that holds a tensor carries its
shape in ``node.meta["shape"]`` and its element type in ``node.meta["dtype"]``, from the intake of a
model to its lowering: `infer` finds both from the operator.
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


def arguments_of(node: Node, **defaults: Any) -> list[Any]:
    """Return positional or keyword arguments in the order of `defaults`, filled up from it."""
    late = list(defaults.items())[len(node.args) :]
    return [*node.args, *(node.kwargs.get(name, default) for name, default in late)]


def activations_of(node: Node) -> list[Node]:
    """Return what a node reads and what is no constant, each once."""
    return [source for source in node.all_input_nodes if source.op != "get_attr"]


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


def size_of(node: Node, batch: int) -> int:
    """Return the integer that a node with a "size" gives at one batch size.

    Raises:
        UnsupportedError: It is not an integer multiple of the batch (EV303).
    """
    size = node.meta["size"]
    if size is None:
        raise batch_error(node, "it is no integer multiple of the batch size")
    return at_batch((size,), batch)[0]


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


def infer(node: Node) -> dict[str, Any]:
    """Return the "shape" and "dtype" of an operator's output, found on meta tensors.

    Nothing when it returns no tensor; the shape is None when it is no multiple of the batch.

    Raises:
        UnsupportedError: The operator doesn't take its arguments' shapes at every batch (EV303).
    """
    try:
        results = [_output(node, batch) for batch in PROBES]
    except RuntimeError as cause:
        raise batch_error(node, str(cause).splitlines()[0]) from cause
    if not isinstance(results[0], torch.Tensor):
        return {}
    return {"shape": symbolic([tuple(each.shape) for each in results]), "dtype": results[0].dtype}


def infer_dtype(node: Node) -> torch.dtype | None:
    """Return the dtype of an operator's output, None when it returns no tensor.

    One image is enough for it: constants may stand for one image only (`passes.fold_constants`).
    """
    result = _output(node, 1)
    return result.dtype if isinstance(result, torch.Tensor) else None


def _output(node: Node, batch: int) -> Any:
    """Return what an operator gives for arguments that have the right shapes and no content."""

    def probe(source: Node) -> Any:
        if "size" in source.meta:
            return size_of(source, batch)
        if "shape" not in source.meta:
            return _output(source, batch)  # several tensors, as split gives them
        sizes, dtype = at_batch(shape_of(source), batch), source.meta["dtype"]
        return torch.empty(sizes, dtype=dtype, device="meta")

    args, kwargs = map_arg((node.args, node.kwargs), probe)
    return target_of(node)(*args, **kwargs)
