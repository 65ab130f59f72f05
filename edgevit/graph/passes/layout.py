"""Writes every layout operator as reshape, permute, slice, select or pad, without symbolic sizes.

Rules:
1. view, flatten, unflatten, squeeze, unsqueeze -> reshape to the known output shape, batch as -1.
2. transpose, t, movedim, swapaxes -> permute.
3. unbind -> select; split, chunk, narrow -> slice; slices get plain bounds inside the tensor.
4. pad in constant mode -> constant_pad_nd; stack -> cat.
5. expand_as -> expand to numbers; softmax without a dtype, layer_norm without its cuDNN switch,
   dimensions counted from 0.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch.fx import GraphModule, Node

from edgevit.graph.operators import aten
from edgevit.graph.rewrite import call, replace, reshape
from edgevit.graph.shapes import args_of, batch_error, reshape_argument, shape_of

_RESHAPES = {
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
}
_EXPANDS = {aten.expand.default, aten.expand_as.default}
_SPLITS = {
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.split.sizes,
    aten.chunk.default,
}


def layout(module: GraphModule) -> int:
    """Return how many operators were rewritten."""
    changed = 0
    for node in list(module.graph.nodes):
        if node.op != "call_function" or "size" in node.meta:
            continue
        with module.graph.inserting_before(node):
            new = _rewritten(node)
        if new is not None:
            replace(node, new)
            changed += 1
    return changed


def _rewritten(node: Node) -> Node | None:
    source: Any = args_of(node)[0] if args_of(node) else None
    if node.target in _RESHAPES:
        return call(node, aten.reshape.default, source, reshape_argument(shape_of(node), node))
    if node.target in _PERMUTATIONS:
        dims = _PERMUTATIONS[node.target](list(range(len(shape_of(source)))), *args_of(node)[1:])
        return call(node, aten.permute.default, source, dims)
    if node.target is operator.getitem:
        return _part(node, source, int(args_of(node)[1]))
    if node.target is aten.slice.Tensor:
        return _slice(node, source, *_defaults(args_of(node)[1:], (0, None, None, 1)))
    if node.target is aten.narrow.default:
        dim, start, length = args_of(node)[1:]
        return _slice(node, source, dim, start, start + length, 1)
    if node.target is aten.select.int:
        dim, index = (int(a) for a in args_of(node)[1:])
        return _select(node, source, dim, index)
    if (
        node.target is aten.pad.default
        and _defaults(args_of(node)[2:], ("constant",))[0] == "constant"
    ):
        value = _defaults(args_of(node)[2:], ("constant", None))[1]
        return _padded(node, source, args_of(node)[1], value or 0.0)
    if node.target is aten.constant_pad_nd.default and min(args_of(node)[1], default=0) < 0:
        return _padded(node, source, args_of(node)[1], _defaults(args_of(node)[2:], (0.0,))[0])
    return _plain(node, source)


def _padded(node: Node, source: Node, amounts: list[int], value: float) -> Node:
    """Write a pad; where an amount is negative, pixels are cut off."""
    rank = len(shape_of(source))
    for pair in range(len(amounts) // 2):  # the last dimension comes first
        before, after = (min(amount, 0) for amount in amounts[2 * pair : 2 * pair + 2])
        if before or after:
            dim = rank - 1 - pair
            if shape_of(source)[dim] < 0:
                raise batch_error(node, "it cuts images off the batch")
            end = shape_of(source)[dim] + after
            source = call(node, aten.slice.Tensor, source, dim, -before, end, 1)
    added = [max(amount, 0) for amount in amounts]
    return call(node, aten.constant_pad_nd.default, source, added, value) if any(added) else source


def _plain(node: Node, source: Any) -> Node | None:
    """Bring an operator that stays to its shortest signature."""
    if node.target in {aten.softmax.int, aten._softmax.default} and len(args_of(node)) > 2:
        return call(node, aten.softmax.int, source, args_of(node)[1])
    if node.target in _EXPANDS:
        sizes = reshape_argument(shape_of(node), node)
        return call(node, aten.expand.default, source, sizes)
    if node.target is aten.layer_norm.default and len(args_of(node)) > 5:
        return call(node, aten.layer_norm.default, *args_of(node)[:5])
    if node.target is aten.stack.default:
        dim = _defaults(args_of(node)[1:], (0,))[0] % len(shape_of(node))
        slim = (*shape_of(node)[:dim], 1, *shape_of(node)[dim + 1 :])
        return call(node, aten.cat.default, [reshape(part, slim) for part in source], dim)
    if node.target is aten.cat.default:
        dim = _defaults(args_of(node)[1:], (0,))[0] % len(shape_of(node))
        node.args = (source, dim)
    return None


def _permutation_of_transpose(dims: list[int], first: int, second: int) -> list[int]:
    dims[first], dims[second] = dims[second], dims[first]
    return dims


def _permutation_of_move(dims: list[int], source: list[int], target: list[int]) -> list[int]:
    rank = len(dims)
    moved = {t % rank: s % rank for s, t in zip(source, target, strict=True)}
    rest = iter([d for d in dims if d not in moved.values()])
    return [moved[d] if d in moved else next(rest) for d in dims]


_PERMUTATIONS: dict[Any, Callable[..., list[int]]] = {
    aten.permute.default: lambda dims, order: [d % len(dims) for d in order],
    aten.transpose.int: _permutation_of_transpose,
    aten.swapaxes.default: _permutation_of_transpose,
    aten.swapdims.default: _permutation_of_transpose,
    aten.t.default: lambda dims: dims[::-1],
    aten.numpy_T.default: lambda dims: dims[::-1],
    aten.mT.default: lambda dims: _permutation_of_transpose(dims, -2, -1),
    aten.movedim.intlist: _permutation_of_move,
    aten.movedim.int: lambda dims, s, t: _permutation_of_move(dims, [s], [t]),
}


def _defaults(given: tuple[Any, ...], defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*given, *defaults[len(given) :])[: len(defaults)]


def _part(node: Node, whole: Node, index: int) -> Node | None:
    """Write one item of an unbind, split or chunk."""
    source: Any = args_of(whole)[0]
    if whole.target is aten.unbind.int:
        return _select(node, source, _defaults(args_of(whole)[1:], (0,))[0], index)
    if whole.target not in _SPLITS:
        return None
    sizes: Any = args_of(whole)[1]
    default = 0
    dim = _defaults(args_of(whole)[2:], (default,))[0] % len(shape_of(source))
    total = shape_of(source)[dim]
    if total < 0:
        raise batch_error(node, "it splits the batch")
    if whole.target is aten.chunk.default:
        sizes = -(-total // sizes)
    if isinstance(sizes, int):
        sizes = [sizes] * -(-total // sizes)
    start = sum(sizes[:index])
    return _slice(node, source, dim, start, start + sizes[index], 1)


def _slice(node: Node, source: Node, dim: int, start: Any, end: Any, step: int) -> Node | None:
    shape = shape_of(source)
    dim = dim % len(shape)
    if shape[dim] < 0:
        if (start in (0, None)) and (end is None or end == 2**63 - 1) and step == 1:
            return source
        raise batch_error(node, "it slices the batch")
    if any(isinstance(bound, Node) for bound in (start, end)):
        raise batch_error(node, "its bounds depend on the batch")
    start, end, step = slice(start, end, step).indices(shape[dim])
    return call(node, aten.slice.Tensor, source, dim, start, max(start, end), step)


def _select(node: Node, source: Node, dim: int, index: int) -> Node:
    shape = shape_of(source)
    dim = dim % len(shape)
    if shape[dim] < 0:
        raise batch_error(node, "it selects one image of the batch")
    return call(node, aten.select.int, source, dim, index % shape[dim])
