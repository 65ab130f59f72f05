"""The few verbs with which passes and calibration change a graph.

Every new node keeps the module path of the node it stands in for and gets its shape and dtype at
once, from its operator: `call` is the one way to add an operator to a graph.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgevit.graph.operators import aten
from edgevit.graph.shapes import Shape, infer, infer_dtype, reshape_argument, shape_of

if TYPE_CHECKING:
    from edgevit.graph.model import Graph


def call(like: Node, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
    """Add an operator at the graph's insertion point, in the module of `like`."""
    node = like.graph.call_function(target, args, kwargs)
    node.meta = {"module": like.meta.get("module", ""), **infer(node)}
    return node


def reshape(node: Node, shape: Shape) -> Node:
    """Reshape to a shape in the notation of `graph.shapes`."""
    if shape_of(node) == shape:
        return node
    return call(node, aten.reshape.default, node, reshape_argument(shape, node))


def permute(node: Node, dims: list[int]) -> Node:
    """Permute the dimensions."""
    if dims == list(range(len(dims))):
        return node
    return call(node, aten.permute.default, node, dims)


def constant_name(hint: str, taken: Collection[str]) -> str:
    """Return a new attribute name made from a dotted path."""
    stem = re.sub(r"[^0-9A-Za-z_]", "_", hint).lstrip("_") or "constant"
    stem = f"c_{stem}" if stem[0].isdigit() or hasattr(GraphModule, stem) else stem
    name, count = stem, 0
    while name in taken:
        count += 1
        name = f"{stem}_{count}"
    return name


def add_constant(module: GraphModule, hint: str, value: Tensor) -> Node:
    """Register a constant under a new name made from `hint`; return its get_attr node."""
    name = constant_name(hint, dict(module.named_buffers()))
    if value.is_floating_point():
        value = value.to(torch.float32)
    module.register_buffer(name, value.detach().clone(memory_format=torch.contiguous_format))
    with module.graph.inserting_before(next(iter(module.graph.nodes))):
        node = module.graph.get_attr(name)
    node.meta = {
        "module": hint.rpartition(".")[0],
        "shape": tuple(value.shape),
        "dtype": value.dtype,
        "fqn": hint,
    }
    return node


def replace(old: Node, new: Node) -> None:
    """Let all users of `old` use `new`; `old` is left for dead code elimination."""
    old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
    if old.meta.get("dtype") != new.meta.get("dtype"):
        _renew_dtypes(new)


def _renew_dtypes(node: Node) -> None:
    """Bring the dtypes behind a node whose own has changed up to date."""
    for user in node.users:
        if user.op != "call_function" or "size" in user.meta:
            continue
        dtype = infer_dtype(user)
        if dtype is not None and dtype == user.meta["dtype"]:
            continue
        if dtype is not None:  # else several tensors, as split gives them
            user.meta["dtype"] = dtype
        _renew_dtypes(user)


def multiply_output(graph: Graph, name: str, factor: Tensor) -> str:
    """Multiply the output of node `name` by a constant before all its users see it.

    Args:
        graph: Changed in place and refreshed.
        name: fx node name.
        factor: float32, broadcastable to the node's output.

    Returns:
        The fx node name of the multiplication.
    """
    module = graph.module
    node = next(n for n in module.graph.nodes if n.name == name)
    constant = add_constant(module, f"{name}_factor", factor)
    with module.graph.inserting_after(node):
        product = call(node, aten.mul.Tensor, node, constant)
    replace(node, product)
    graph.refresh()
    return product.name
