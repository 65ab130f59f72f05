"""Writes operators that few models use with those that every target runs.

Rules:
1. group_norm -> layer_norm over each group, then a factor and a shift a channel; rms_norm -> its
   formula (Zhang and Sennrich, Root Mean Square Layer Normalization, arXiv 1910.07467).
2. Convolutions with a named padding -> with numbers; conv1d and avg_pool1d -> the same in two
   dimensions; conv3d whose kernel has a side of 1 -> conv2d of the slices along it.
3. max and min along a dimension -> amax and amin, where nobody asks for the place.
4. repeat -> cat; copy -> what is assigned; slice_scatter -> cat of what stays and what is new.
5. unfold -> one gather; im2col -> pad and one gather; col2im -> pad, one gather and a sum.
6. upsample by a factor -> to a size.
7. rsub, mul.Scalar and their kind -> the operator of two tensors; clamp between tensors -> maximum
   and minimum.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgevit.graph.operators import aten
from edgevit.graph.rewrite import add_constant, call, permute, replace, reshape
from edgevit.graph.shapes import args_of, arguments_of, batch_error, reshape_argument, shape_of
from edgevit.graph.tracing import constant_of

Rule = Callable[[GraphModule, Node], Node | None]


def decompose(module: GraphModule) -> int:
    """Return how many operators were rewritten."""
    changed = 0
    for node in list(module.graph.nodes):
        rule = _RULES.get(node.target)
        if rule is None:
            continue
        with module.graph.inserting_before(node):
            new = rule(module, node)
        if new is not None:
            replace(node, new)
            changed += 1
    return changed


def _group_norm(module: GraphModule, node: Node) -> Node | None:
    x, groups, weight, bias, epsilon, *_ = arguments_of(
        node, input=None, num_groups=1, weight=None, bias=None, eps=1e-5
    )
    shape = shape_of(x)
    width = shape[1] // groups * torch.Size(shape[2:]).numel()
    flat = reshape(x, (shape[0], groups, width))
    normed = call(node, aten.layer_norm.default, flat, [width], None, None, epsilon)
    found = reshape(normed, shape)
    sizes = (shape[1], *[1] * (len(shape) - 2))
    if weight is not None:
        found = call(node, aten.mul.Tensor, found, reshape(weight, sizes))
    if bias is not None:
        found = call(node, aten.add.Tensor, found, reshape(bias, sizes))
    return found


def _rms_norm(module: GraphModule, node: Node) -> Node | None:
    x, normalized, weight, epsilon = arguments_of(
        node, input=None, normalized_shape=None, weight=None, eps=None
    )
    if epsilon is None:
        epsilon = torch.finfo(torch.float32).eps
    rank = len(shape_of(x))
    dims = list(range(rank - len(normalized), rank))
    square = call(node, aten.mul.Tensor, x, x)
    mean = call(node, aten.mean.dim, square, dims, True)
    root = call(node, aten.sqrt.default, call(node, aten.add.Tensor, mean, epsilon))
    found = call(node, aten.div.Tensor, x, root)
    return found if weight is None else call(node, aten.mul.Tensor, found, weight)


def _named_padding(module: GraphModule, node: Node) -> Node | None:
    """Write a convolution with padding "valid" or "same"; an odd pixel goes to the end."""
    x, weight, bias, stride, padding, dilation, groups = arguments_of(
        node, input=None, weight=None, bias=None, stride=1, padding="valid", dilation=1, groups=1
    )
    sides = len(shape_of(weight)) - 2
    stride, dilation = (
        [one] * sides if isinstance(one, int) else list(one) * (sides // len(one))
        for one in (stride, dilation)
    )
    total = [0] * sides
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, shape_of(weight)[2:], strict=True)]
    if any(width % 2 for width in total):
        pads = [end for width in total[::-1] for end in (width // 2, width - width // 2)]
        x, total = call(node, aten.constant_pad_nd.default, x, pads, 0.0), [0] * sides
    plain = aten.conv2d.default if sides == 2 else aten.conv1d.default
    halves = [width // 2 for width in total]
    found = call(node, plain, x, weight, bias, stride, halves, dilation, groups)
    if sides == 2:
        return found
    return _conv1d(module, found)


def _conv1d(module: GraphModule, node: Node) -> Node | None:
    x, weight, bias, stride, padding, dilation, groups = arguments_of(
        node, input=None, weight=None, bias=None, stride=[1], padding=[0], dilation=[1], groups=1
    )
    image = reshape(x, (*shape_of(x)[:2], 1, shape_of(x)[2]))  # [B, C, 1, L]
    kernel = reshape(weight, (*shape_of(weight)[:2], 1, shape_of(weight)[2]))
    flat = [[1, *stride], [0, *padding], [1, *dilation]]
    found = call(node, aten.conv2d.default, image, kernel, bias, *flat, groups)
    return reshape(found, shape_of(node))


def _conv3d(module: GraphModule, node: Node) -> Node | None:
    """Write slices as images of the batch, where nothing is summed from one to the next."""
    x, weight, bias, *windows, groups = arguments_of(
        node,
        input=None,
        weight=None,
        bias=None,
        stride=[1],
        padding=[0],
        dilation=[1],
        groups=1,
    )
    windows = [list(each) * (3 // len(each)) for each in windows]
    stride, padding, _ = windows
    flat = [i for i in range(3) if (shape_of(weight)[2 + i], stride[i], padding[i]) == (1, 1, 0)]
    if not flat:
        return None
    axis = flat[-1]  # of depth, height, width
    rest = [2 + i for i in range(3) if i != axis]
    batch, _, *sides = shape_of(x)
    slices = permute(x, [0, 2 + axis, 1, *rest])  # [B, S, C, H, W]
    images = reshape(slices, (batch * sides[axis], shape_of(x)[1], *shape_of(slices)[3:]))
    kernel = reshape(weight, (*shape_of(weight)[:2], *(shape_of(weight)[i] for i in rest)))
    further = [[each[i] for i in range(3) if i != axis] for each in windows]
    found = call(node, aten.conv2d.default, images, kernel, bias, *further, groups)
    apart = reshape(found, (batch, sides[axis], *shape_of(found)[1:]))  # [B, S, O, H, W]
    order = [0, 2, 3, 4]
    order.insert(2 + axis, 1)
    return permute(apart, order)


def _avg_pool1d(module: GraphModule, node: Node) -> Node | None:
    x, kernel, stride, padding, *rest = arguments_of(
        node, input=None, kernel_size=None, stride=[], padding=[0]
    )
    image = reshape(x, (*shape_of(x)[:2], 1, shape_of(x)[2]))
    windows = [[1, *kernel], [1, *(stride or kernel)], [0, *padding]]
    return reshape(call(node, aten.avg_pool2d.default, image, *windows, *rest), shape_of(node))


def _extreme(to: Any) -> Rule:
    def rule(module: GraphModule, node: Node) -> Node | None:
        whole: Any = node
        x, dim, keep = arguments_of(whole, input=None, dim=None, keepdim=False)
        values = [user for user in node.users if user.target is operator.getitem]
        if any(args_of(user)[1] != 0 for user in values) or len(values) != len(node.users):
            return None
        found = call(node, to, x, [dim], keep)
        for user in values:
            replace(user, found)
        return None

    return rule


def _repeat(module: GraphModule, node: Node) -> Node | None:
    x, repeats = args_of(node)
    if any(not isinstance(count, int) for count in repeats):
        return None
    found = reshape(x, (*[1] * (len(repeats) - len(shape_of(x))), *shape_of(x)))
    for dim, count in enumerate(repeats):
        if count > 1:
            found = call(node, aten.cat.default, [found] * count, dim)
    return found


def _slice_scatter(module: GraphModule, node: Node) -> Node | None:
    x, new, dim, start, end, step = arguments_of(
        node, input=None, src=None, dim=0, start=None, end=None, step=1
    )
    size = shape_of(x)[dim]
    if shape_of(new) == shape_of(x):
        return new  # type: ignore[no-any-return]
    if size < 0 or step != 1:
        return None
    start, end, _ = slice(start, end).indices(size)
    parts = [new]
    if start > 0:
        parts.insert(0, call(node, aten.slice.Tensor, x, dim, 0, start))
    if end < size:
        parts.append(call(node, aten.slice.Tensor, x, dim, end, size))
    return call(node, aten.cat.default, parts, dim)


def _unfold(module: GraphModule, node: Node) -> Node | None:
    """Write sliding windows along one dimension, which become the last one."""
    x, dim, size, step = args_of(node)
    before, after = shape_of(x), shape_of(node)
    dim = dim % len(before)
    if before[dim] < 0:
        return None
    index = torch.arange(after[dim])[:, None] * step + torch.arange(size)  # [windows, size]
    places = add_constant(module, f"{node.meta.get('module', '')}.windows", index.flatten())
    taken = call(node, aten.index_select.default, x, dim, places)
    apart = reshape(taken, (*before[:dim], after[dim], size, *before[dim + 1 :]))
    order = [axis for axis in range(len(before) + 1) if axis != dim + 1]
    return permute(apart, [*order, dim + 1])


def _places(window: list[Any], padded: tuple[int, int]) -> Tensor:
    """Return int64 [kh * kw, L]: which pixel of the padded image each value of a column is."""
    kernel, dilation, _, stride = window
    rows = [
        (padded[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    ]  # windows along height and width
    tops, lefts = (torch.arange(rows[i]) * stride[i] for i in (0, 1))
    downs, rights = (torch.arange(kernel[i]) * dilation[i] for i in (0, 1))
    y = downs[:, None, None, None] + tops[None, None, :, None]  # [kh, 1, Lh, 1]
    x = rights[None, :, None, None] + lefts[None, None, None, :]  # [1, kw, 1, Lw]
    places: Tensor = y * padded[1] + x  # [kh, kw, Lh, Lw]
    return places.reshape(kernel[0] * kernel[1], -1)


def _im2col(module: GraphModule, node: Node) -> Node | None:
    x, *window = arguments_of(
        node, input=None, kernel_size=None, dilation=None, padding=None, stride=None
    )
    batch, channels, height, width = shape_of(x)
    top, left = window[2]
    if top or left:
        x = call(node, aten.constant_pad_nd.default, x, [left, left, top, top], 0.0)
    padded = (height + 2 * top, width + 2 * left)
    places = _places(window, padded)  # [kh * kw, L]
    flat = reshape(x, (batch, channels, padded[0] * padded[1]))
    index = add_constant(module, f"{node.meta.get('module', '')}.columns", places.flatten())
    return reshape(call(node, aten.index_select.default, flat, 2, index), shape_of(node))


def _col2im(module: GraphModule, node: Node) -> Node | None:
    x, size, *window = arguments_of(
        node,
        input=None,
        output_size=None,
        kernel_size=None,
        dilation=None,
        padding=None,
        stride=None,
    )
    batch, channels = shape_of(node)[:2]
    top, left = window[2]
    height, width = size
    padded = (height + 2 * top, width + 2 * left)
    places = _places(window, padded).flatten()  # [kh * kw * L]
    sources = _sources(places, padded, (top, left, height, width))  # [H * W, m]
    columns = reshape(x, (batch, channels, len(places)))
    longer = call(node, aten.constant_pad_nd.default, columns, [0, 1], 0.0)  # the last one is zero
    index = add_constant(module, f"{node.meta.get('module', '')}.pixels", sources.flatten())
    found = call(node, aten.index_select.default, longer, 2, index)
    each = reshape(found, (batch, channels, *sources.shape))
    return reshape(call(node, aten.sum.dim_IntList, each, [3]), shape_of(node))


def _sources(places: Tensor, padded: tuple[int, int], part: tuple[int, int, int, int]) -> Tensor:
    """Return int64 [H * W, m]: the values that a pixel is the sum of; len(places) stands for 0."""
    top, left, height, width = part
    order = torch.argsort(places, stable=True)
    counts = torch.bincount(places, minlength=padded[0] * padded[1])
    starts = counts.cumsum(0) - counts
    most = int(counts.max())
    offsets = torch.arange(most)  # [m]
    at = (starts[:, None] + offsets).clamp_max(len(places) - 1)
    found = torch.where(offsets < counts[:, None], order[at], len(places))  # [pixels, m]
    image = found.reshape(*padded, most)[top : top + height, left : left + width]
    return image.reshape(-1, most)


def _roll(module: GraphModule, node: Node) -> Node | None:
    """Refuse a roll that carries values from one image into the next."""
    x, _, dims = arguments_of(node, input=None, shifts=None, dims=())
    if not dims or any(shape_of(x)[dim] < 0 for dim in dims):
        raise batch_error(node, "it moves values from one image into another")
    return None


def _copy(module: GraphModule, node: Node) -> Node | None:
    """Write an assignment to a whole tensor: what was there does not matter."""
    new = args_of(node)[1]
    if shape_of(new) == shape_of(node):
        return new  # type: ignore[no-any-return]
    return call(node, aten.expand.default, new, reshape_argument(shape_of(node), node))


def _upsample(to: Any) -> Rule:
    """Write a resize to a size; one by a factor that gives no whole size stays as it is."""

    def rule(module: GraphModule, node: Node) -> Node | None:
        x, _, *corners, factors = args_of(node)
        before, after = shape_of(x)[-2:], shape_of(node)[-2:]
        if factors is not None and any(
            float(b * f) != a for b, a, f in zip(before, after, factors, strict=True)
        ):
            return None
        return call(node, to, x, list(after), *corners)

    return rule


def _clamp(module: GraphModule, node: Node) -> Node | None:
    """Write a clamp between tensors; a bound of infinity is none."""
    found, low, high = arguments_of(node, input=None, min=None, max=None)
    for bound, to in ((low, aten.maximum.default), (high, aten.minimum.default)):
        if bound is None or (bound.op == "get_attr" and _is_infinite(module, bound)):
            continue
        found = call(node, to, found, bound)
    return found  # type: ignore[no-any-return]


def _is_infinite(module: GraphModule, bound: Node) -> bool:
    return bool(constant_of(module, bound).isinf().all())


def _scalar(to: Any, swap: bool = False) -> Rule:
    def rule(module: GraphModule, node: Node) -> Node | None:
        x, other, *rest = args_of(node)
        if rest and rest[0] != 1:
            return None
        if not swap:
            return call(node, to, x, other)
        negative = call(node, aten.neg.default, x)
        return call(node, aten.add.Tensor, negative, other)

    return rule


_RULES: dict[Any, Rule] = {
    aten.group_norm.default: _group_norm,
    aten.rms_norm.default: _rms_norm,
    aten.conv2d.padding: _named_padding,
    aten.conv1d.padding: _named_padding,
    aten.conv1d.default: _conv1d,
    aten.conv3d.default: _conv3d,
    aten.avg_pool1d.default: _avg_pool1d,
    aten.max.dim: _extreme(aten.amax.default),
    aten.min.dim: _extreme(aten.amin.default),
    aten.repeat.default: _repeat,
    aten.copy.default: _copy,
    aten.roll.default: _roll,
    aten.slice_scatter.default: _slice_scatter,
    aten.unfold.default: _unfold,
    aten.im2col.default: _im2col,
    aten.col2im.default: _col2im,
    aten.upsample_nearest2d.vec: _upsample(aten.upsample_nearest2d.default),
    aten.upsample_bilinear2d.vec: _upsample(aten.upsample_bilinear2d.default),
    aten.upsample_bicubic2d.vec: _upsample(aten.upsample_bicubic2d.default),
    aten.clamp.Tensor: _clamp,
    aten.relu6.default: lambda module, node: call(
        node, aten.clamp.default, args_of(node)[0], 0.0, 6.0
    ),
    aten.mul.Scalar: _scalar(aten.mul.Tensor),
    aten.div.Scalar: _scalar(aten.div.Tensor),
    aten.add.Scalar: _scalar(aten.add.Tensor),
    aten.sub.Scalar: _scalar(aten.sub.Tensor),
    aten.rsub.Scalar: _scalar(None, swap=True),
}
