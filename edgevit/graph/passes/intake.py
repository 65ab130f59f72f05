"""From an exported program to a plain graph module with flat, named constants.

Rules:
1. Parameters, buffers and lifted constants become buffers with flat names, float32, no gradient.
2. Every node carries only: "module" (its path), "shape" and "dtype" (`graph.shapes`), "size" (a
   batch-sized integer, encoded like a dimension) and "fqn" (constants).
3. Guards and assertions are dropped; the image is the one placeholder, what the model
   returns the output: one tensor, or a tuple of several.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from edgevit.graph.rewrite import add_constant
from edgevit.graph.shapes import PROBES, Shape, infer_dtype, symbolic

_ASSERTIONS = (
    "_assert_tensor_metadata",
    "_assert_scalar",
    "_assert_async",
    "sym_constrain_range",
    "_guards_fn",
)


def module_from_program(program: ExportedProgram, *, prefix: str) -> GraphModule:
    """Return the program as a graph module that owns copies of its constants.

    Args:
        prefix: Attribute name to strip from the front of module paths.
    """
    exported = program.module(check_guards=False)
    module = GraphModule(nn.Module(), Graph())
    copies: dict[Node, Node] = {}
    image = module.graph.placeholder("image")
    for node in exported.graph.nodes:
        if any(name in str(node.target) for name in _ASSERTIONS):
            continue
        if node.op == "output":
            given: Any = node.args[0]  # a tuple, of one tensor too
            found = tuple(copies[each] for each in given)
            module.graph.output(found[0] if len(found) == 1 else found)
        else:
            copies[node] = _copy(node, module, image, copies, exported, prefix)
    module.graph.lint()
    return module


def _copy(
    node: Node,
    module: GraphModule,
    image: Node,
    copies: dict[Node, Node],
    exported: GraphModule,
    prefix: str,
) -> Node:
    if node.op == "get_attr":
        value = attrgetter(str(node.target))(exported)
        return add_constant(module, _strip(str(node.target), prefix), value)
    copied = image
    if node.op == "call_function":
        copied = module.graph.node_copy(node, copies.__getitem__)
    value = node.meta.get("val")
    copied.meta = {"module": _path(node, prefix)}
    if isinstance(value, Tensor):
        copied.meta["shape"] = _symbolic_shape(tuple(value.shape))
        copied.meta["dtype"] = value.dtype
        if value.dtype.is_floating_point and value.dtype != torch.float32:
            copied.meta["dtype"] = infer_dtype(copied)  # its constants are float32 now
    elif isinstance(value, int | torch.SymInt):
        shape = _symbolic_shape((value,))
        copied.meta["size"] = None if shape is None else shape[0]
    return copied


def _symbolic_shape(sizes: tuple[Any, ...]) -> Shape | None:
    return symbolic([[_at(size, batch) for size in sizes] for batch in PROBES])


def _at(size: int | torch.SymInt, batch: int) -> int:
    """Return a possibly symbolic size for one batch size."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, batch)))


def _path(node: Node, prefix: str) -> str:
    """Return the module path a node was recorded in, "" for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if not path.startswith("_empty_nn_module")]
    return _strip(paths[-1], prefix) if paths else ""


def _strip(path: str, prefix: str) -> str:
    return path.removeprefix(prefix).removeprefix(".")
