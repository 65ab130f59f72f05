"""Rules for the shapes that each operator makes, by which a graph's cost is known before it runs.

A dimension is a positive number, or -k for k times the number of images. A tensor has at most one
of the second kind, so that memory and work grow with the number of images and no faster; what
shapes and axes are computed from has to be a constant of the graph. Source: ONNX operators, set 20.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NoReturn

_MAX_DIMENSION, _MAX_ELEMENTS = 1 << 31, 1 << 40
_END = (1 << 31) - 1
"""An end that no axis reaches."""
ELEMENT_COST = 16
"""Multiply-adds that go by while one element of another operator than a product is written."""


class Impossible(Exception):
    """Shapes that do not fit an operator; its text says why."""


@dataclass(frozen=True)
class Value:
    """A tensor as far as it is known without running: shape, type, small constants.

    Args:
        shape: Its dimensions.
        dtype: Name of its type, as in `edgevit.bundle.operators.DATA_TYPES`.
        integers: Its elements, where it is a small int64 constant.
        floats: Its elements, where it is a small float32 constant.
        is_constant: Whether it does not depend on the image.
    """

    shape: tuple[int, ...]
    dtype: str
    integers: tuple[int, ...] | None = None
    floats: tuple[float, ...] | None = None
    is_constant: bool = False


@dataclass(frozen=True)
class Inferred:
    """An operator's output and cost: shape, type, work and workspace.

    Args:
        shape: Of its output.
        dtype: Of its output.
        work: Multiply-adds, negative for so many per image.
        workspace_bytes: What it needs beside inputs and output, negative for so much per image.
    """

    shape: tuple[int, ...]
    dtype: str
    work: int
    workspace_bytes: int = 0


@dataclass(frozen=True)
class NodeReading:
    """An operator and what it reads; None for an input that is left out."""

    inputs: tuple[Value | None, ...]
    attributes: dict[str, Any]

    def value(self, index: int) -> Value:
        """Return an input that has to be there."""
        found = self.inputs[index] if index < len(self.inputs) else None
        return impossible(f"no input {index}") if found is None else found

    def shape(self, index: int) -> tuple[int, ...]:
        """Return the shape of an input."""
        return self.value(index).shape

    def integers(self, index: int) -> tuple[int, ...]:
        """Return the elements of an input that has to be a list of int64 in the graph."""
        value = self.value(index)
        if value.integers is None or len(value.shape) != 1:
            impossible(f"input {index} is no list of int64 constants")
        return value.integers

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or what it is if left out."""
        found = self.attributes.get(name, default)
        return impossible(f"no attribute {name}") if found is None else found


def impossible(why: str) -> NoReturn:
    """Refuse shapes.

    Raises:
        Impossible: Always.
    """
    raise Impossible(why)


@lru_cache(maxsize=1024)
def count(shape: tuple[int, ...]) -> int:
    """Return the number of elements, negative for so many per image.

    Raises:
        Impossible: A dimension is zero or huge, or more than one follows the number of images.
    """
    elements = 1
    for size in shape:
        if size == 0 or abs(size) > _MAX_DIMENSION or (size < 0 and elements < 0):
            impossible(f"the shape {list(shape)}")
        elements *= size
    if abs(elements) > _MAX_ELEMENTS:
        impossible(f"the shape {list(shape)}")
    return elements


def _move(shape: tuple[int, ...], *read: tuple[int, ...]) -> int:
    """Return the cost of an operator that goes over its output, and what it reads, once."""
    largest = max((count(one) for one in (shape, *read)), key=abs)
    per_image = any(count(one) < 0 for one in (shape, *read))
    return -abs(largest) * ELEMENT_COST if per_image else largest * ELEMENT_COST


def _result(reading: NodeReading, shape: tuple[int, ...], dtype: str | None = None) -> Inferred:
    read = tuple(value.shape for value in reading.inputs[:1] if value is not None)
    return Inferred(shape, dtype or reading.value(0).dtype, _move(shape, *read))


def _axis(reading: NodeReading, rank: int, default: int | None = None) -> int:
    axis: int = reading.attribute("axis", default)
    if not -rank <= axis < rank:
        impossible(f"axis {axis} of {rank} dimensions")
    return axis % rank


def _broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    joined = []
    for sizes in zip(*padded):
        others = {size for size in sizes if size != 1}
        if len(others) > 1:
            impossible(f"shapes {[list(shape) for shape in shapes]} do not fit")
        joined.append(others.pop() if others else 1)
    return tuple(joined)


def same(reading: NodeReading, dtype: str | None = None) -> Inferred:
    """Infer an operator that keeps the shape of its first input."""
    if dtype == "":
        impossible("a cast to a type that no graph has")
    return _result(reading, reading.shape(0), dtype)


def elementwise(reading: NodeReading) -> Inferred:
    """Infer a binary operator with broadcasting."""
    return _result(reading, _broadcast(reading.shape(0), reading.shape(1)))


def less(reading: NodeReading) -> Inferred:
    """Infer a comparison."""
    return _result(reading, _broadcast(reading.shape(0), reading.shape(1)), "bool")


def where(reading: NodeReading) -> Inferred:
    """Infer a choice between two inputs."""
    shape = _broadcast(*(reading.shape(index) for index in range(3)))
    return _result(reading, shape, reading.value(1).dtype)


def softmax(reading: NodeReading) -> Inferred:
    """Infer Softmax; along another axis than the last one engines work on transposed copies."""
    found = same(reading)
    axis = _axis(reading, len(found.shape), -1)
    copies = 0 if axis == len(found.shape) - 1 else 2 * 4 * count(found.shape)
    return replace(found, workspace_bytes=copies)


def layer_norm(reading: NodeReading) -> Inferred:
    """Infer LayerNormalization: weight and bias have the shape of what is normalised."""
    shape = reading.shape(0)
    normalized = shape[_axis(reading, len(shape), -1) :]
    if any(value is None or value.shape != normalized for value in reading.inputs[1:]):
        impossible(f"weights that are not {list(normalized)}")
    return _result(reading, shape)


def quantize(reading: NodeReading) -> Inferred:
    """Infer QuantizeLinear with one scale: codes have the type of the zero point."""
    if reading.shape(1) != () or reading.shape(2) != ():
        impossible("more than one scale or zero point")
    return _result(reading, reading.shape(0), reading.value(2).dtype)


def dequantize(reading: NodeReading) -> Inferred:
    """Infer DequantizeLinear, of one scale or one per channel, whose type values have."""
    shape, scale = reading.shape(0), reading.shape(1)
    if scale != reading.shape(2) or len(scale) > 1:
        impossible(f"scales {list(scale)} and zero points {list(reading.shape(2))}")
    if scale and scale[0] != shape[_axis(reading, len(shape), 1)]:
        impossible(f"{scale[0]} scales of {list(shape)}")
    return _result(reading, shape, reading.value(1).dtype)


def _product(a: tuple[int, ...], b: tuple[int, ...], dtype: str) -> Inferred:
    """Infer a [..., M, K] times b [..., K, N]."""
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        impossible(f"no product of {list(a)} and {list(b)}")
    shape = (*_broadcast(a[:-2], b[:-2]), a[-2], b[-1]) if len(a) + len(b) > 4 else (a[0], b[1])
    elements, inner = count(shape), a[-1]
    per_image = elements < 0 or inner < 0
    if elements < 0 and inner < 0:
        impossible("a product whose cost grows with the square of the number of images")
    work = max(abs(elements * inner), abs(_move(shape, a)))
    return Inferred(shape, dtype, -work if per_image else work)


def matmul(reading: NodeReading) -> Inferred:
    """Infer MatMul."""
    return _product(reading.shape(0), reading.shape(1), reading.value(0).dtype)


def gemm(reading: NodeReading) -> Inferred:
    """Infer Gemm: two matrices, and a bias that is added."""
    found = _product(reading.shape(0), reading.shape(1), reading.value(0).dtype)
    bias = reading.inputs[2].shape if len(reading.inputs) > 2 and reading.inputs[2] else ()
    if len(found.shape) != 2 or _broadcast(found.shape, bias) != found.shape:
        impossible("a Gemm of other than matrices")
    return found


def integer_matmul(reading: NodeReading) -> Inferred:
    """Infer MatMulIntegerToFloat: A, B, scale of A, scale of B, their zero points, a bias.

    B may have one scale per column, and no more than one zero point.
    """
    found = _product(reading.shape(0), reading.shape(1), reading.value(2).dtype)
    columns = (found.shape[-1],)
    for index, allowed in ((2, [()]), (3, [(), columns]), (4, [()]), (5, [()]), (6, [columns])):
        value = reading.inputs[index] if index < len(reading.inputs) else None
        if value is not None and value.shape not in allowed:
            impossible(f"an input {index} of shape {list(value.shape)}")
    return found


def conv(reading: NodeReading) -> Inferred:
    """Infer a 2-D convolution of x [N, C, H, W] and weights [O, C / group, h, w]."""
    x, weight = reading.shape(0), reading.shape(1)
    group = reading.attribute("group", 1)
    if len(x) != 4 or len(weight) != 4 or group < 1 or x[1] != weight[1] * group:
        impossible(f"no convolution of {list(x)} with {list(weight)}")
    if weight[0] % group or min(x[1:]) < 1 or min(weight) < 1:
        impossible(f"no convolution of {list(x)} with {list(weight)} in {group} groups")
    bias = reading.inputs[2] if len(reading.inputs) > 2 else None
    if bias is not None and bias.shape != weight[:1]:
        impossible(f"a bias {list(bias.shape)} for {weight[0]} channels")
    sides = _window_sides(reading, x, weight[2:])
    shape = (x[0], weight[0], *sides)
    taps = count(weight[1:])
    work = count(shape) * taps
    window_bytes = 4 * sides[0] * sides[1] * taps * group
    return Inferred(shape, reading.value(0).dtype, work, window_bytes)


def _window_sides(
    reading: NodeReading, x: tuple[int, ...], window: tuple[int, ...], round_up: bool = False
) -> list[int]:
    """Return how many windows fit along height and width of x [N, C, H, W]."""
    strides, dilations = (reading.attribute(name, [1, 1]) for name in ("strides", "dilations"))
    pads = reading.attribute("pads", [0, 0, 0, 0])
    if len(strides) != 2 or len(dilations) != 2 or len(pads) != 4 or len(window) != 2:
        impossible("a window of other than two dimensions")
    if min(*strides, *dilations, *window) < 1 or min(pads) < 0:
        impossible("a window with negative steps")
    room = [x[2 + i] + pads[i] + pads[2 + i] - dilations[i] * (window[i] - 1) - 1 for i in (0, 1)]
    sides = [(-(-room[i] // strides[i]) if round_up else room[i] // strides[i]) + 1 for i in (0, 1)]
    if min(room) < 0:
        impossible("a window larger than its input")
    if round_up:  # the last window has to begin inside the input or the padding in front of it
        for i in (0, 1):
            sides[i] -= (sides[i] - 1) * strides[i] >= x[2 + i] + pads[i]
    return sides


def pool(reading: NodeReading) -> Inferred:
    """Infer a 2-D pooling of x [N, C, H, W]."""
    x, window = reading.shape(0), tuple(reading.attribute("kernel_shape"))
    if len(x) != 4 or min(x[1:]) < 1:
        impossible(f"no pooling of {list(x)}")
    sides = _window_sides(reading, x, window, bool(reading.attribute("ceil_mode", 0)))
    shape = (*x[:2], *sides)
    return Inferred(shape, reading.value(0).dtype, count(shape) * window[0] * window[1])


def expand(reading: NodeReading) -> Inferred:
    """Infer Expand to a shape of constants, 1 where a dimension stays."""
    return _result(reading, _broadcast(reading.shape(0), reading.integers(1)))


def resize(reading: NodeReading) -> Inferred:
    """Infer Resize of height and width of x [N, C, H, W] by factors of constants."""
    x, factors = reading.shape(0), reading.value(2).floats
    if len(x) != 4 or factors is None or len(factors) != 4 or factors[:2] != (1.0, 1.0):
        impossible(f"no resize of {list(x)} by {factors}")
    if reading.inputs[1] is not None:
        impossible("a resize of a part")
    if min(x[1:]) < 1 or not all(0 < factor < _MAX_DIMENSION for factor in factors):
        impossible(f"no resize of {list(x)} by {list(factors)}")
    sides = [_float32(_float32(side) * factor) for side, factor in zip(x[2:], factors[2:])]
    if min(sides) < 1 or max(sides) > _MAX_DIMENSION:
        impossible(f"a resize of {list(x)} to {sides}")
    found = _result(reading, (*x[:2], *(int(side) for side in sides)))
    return replace(found, work=16 * found.work)  # a cubic one reads 16 values


def _float32(value: float) -> float:
    """Return a number as engines hold it."""
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


def conv_transpose(reading: NodeReading) -> Inferred:
    """Infer a transposed convolution of x [N, C, H, W] by weights [C, O / group, h, w]."""
    x, weight = reading.shape(0), reading.shape(1)
    group = reading.attribute("group", 1)
    if len(x) != 4 or len(weight) != 4 or group < 1 or x[1] != weight[0] or x[1] % group:
        impossible(f"no transposed convolution of {list(x)} with {list(weight)}")
    strides, dilations = (reading.attribute(name, [1, 1]) for name in ("strides", "dilations"))
    pads = reading.attribute("pads", [0, 0, 0, 0])
    more = reading.attribute("output_padding", [0, 0])
    channels = weight[1] * group
    bias = reading.inputs[2] if len(reading.inputs) > 2 else None
    if bias is not None and bias.shape != (channels,):
        impossible(f"a bias {list(bias.shape)} for {channels} channels")
    if not len(strides) == len(dilations) == len(more) == 2 or len(pads) != 4:
        impossible("a transposed convolution of other than two dimensions")
    if min(*strides, *dilations, *x[1:], *weight) < 1 or min(*pads, *more) < 0:
        impossible("a transposed convolution with negative steps")
    sides = [
        (x[2 + i] - 1) * strides[i]
        + dilations[i] * (weight[2 + i] - 1)
        + 1
        + more[i]
        - pads[i]
        - pads[2 + i]
        for i in (0, 1)
    ]
    if min(sides) < 1:
        impossible("a transposed convolution without an output")
    shape = (x[0], channels, *sides)
    columns = x[2] * x[3] * count(weight[1:]) * group
    return Inferred(shape, reading.value(0).dtype, count(x) * count(weight[1:]), 4 * columns)


def infer_reshape(reading: NodeReading) -> Inferred:
    """Infer Reshape; its -1 is what is left over, and follows the number of images."""
    before, wanted = count(reading.shape(0)), reading.integers(1)
    known = 1
    for size in wanted:
        if size != -1:
            known *= size
    if wanted.count(-1) > 1 or known < 1 or min(wanted, default=1) < -1:
        impossible(f"a reshape to {list(wanted)}")
    left, rest = divmod(abs(before), known)
    if rest or (-1 not in wanted and before != known):
        impossible(f"{list(reading.shape(0))} reshaped to {list(wanted)}")
    left = -left if before < 0 else left
    return _result(reading, tuple(left if size == -1 else size for size in wanted))


def transpose(reading: NodeReading) -> Inferred:
    """Infer Transpose."""
    shape, order = reading.shape(0), reading.attribute("perm")
    if sorted(order) != list(range(len(shape))):
        impossible(f"a transposition by {order} of {len(shape)} dimensions")
    return _result(reading, tuple(shape[axis] for axis in order))


def slice_(reading: NodeReading) -> Inferred:
    """Infer Slice with positive steps; of what follows the number of images only all is taken."""
    shape = list(reading.shape(0))
    starts, ends, axes, steps = (reading.integers(index) for index in range(1, 5))
    if not len(starts) == len(ends) == len(axes) == len(steps) or len(set(axes)) != len(axes):
        impossible("a slice whose bounds do not fit")
    for start, end, axis, step in zip(starts, ends, axes, steps):
        if not -len(shape) <= axis < len(shape) or step < 1:
            impossible(f"a slice along axis {axis} in steps of {step}")
        size = shape[axis]
        if size < 0 and (start, step) == (0, 1) and end >= _END:
            continue
        taken = len(range(*slice(start, end, step).indices(size))) if size > 0 else 0
        shape[axis] = taken
    count(tuple(shape))
    return _result(reading, tuple(shape))


def gather(reading: NodeReading) -> Inferred:
    """Infer Gather along an axis that does not follow the number of images."""
    shape, index = reading.shape(0), reading.shape(1)
    axis = _axis(reading, len(shape), 0)
    if shape[axis] < 0:
        impossible("a gather among images")
    return _result(reading, (*shape[:axis], *index, *shape[axis + 1 :]))


def gather_elements(reading: NodeReading) -> Inferred:
    """Infer GatherElements: as many elements as there are indices."""
    shape, index = reading.shape(0), reading.shape(1)
    _axis(reading, len(shape), 0)
    if len(shape) != len(index):
        impossible("indices of another rank")
    return _result(reading, index)


def concat(reading: NodeReading) -> Inferred:
    """Infer Concat."""
    shapes = [reading.shape(index) for index in range(len(reading.inputs))]
    axis = _axis(reading, len(shapes[0]))
    others = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}
    sizes = [shape[axis] for shape in shapes if len(shape) > axis]
    if len(others) != 1 or len({size > 0 for size in sizes}) != 1 or len(sizes) != len(shapes):
        impossible(f"shapes {[list(shape) for shape in shapes]} can't be joined")
    return _result(reading, (*shapes[0][:axis], sum(sizes), *shapes[0][axis + 1 :]))


def pad(reading: NodeReading) -> Inferred:
    """Infer Pad by no negative amounts; what follows the number of images is not padded."""
    shape, amounts = reading.shape(0), reading.integers(1)
    if len(amounts) != 2 * len(shape) or reading.shape(2) != () or min(amounts, default=0) < 0:
        impossible(f"pads {list(amounts)} of {len(shape)} dimensions")
    padded = []
    for size, before, after in zip(shape, amounts, amounts[len(shape) :]):
        total = size + before + after
        if (size < 0 and (before, after) != (0, 0)) or (size > 0 and total < 1):
            impossible(f"pads {list(amounts)} of {list(shape)}")
        padded.append(total)
    return _result(reading, tuple(padded))


def reduce(reading: NodeReading) -> Inferred:
    """Infer a mean, sum, norm or extreme along axes that do not follow the number of images."""
    shape, axes = reading.shape(0), reading.integers(1)
    rank = len(shape)
    if not axes or not all(-rank <= axis < rank for axis in axes):
        impossible(f"a reduction over axes {list(axes)} of {rank} dimensions")
    taken = {axis % rank for axis in axes}
    if len(taken) != len(axes):
        impossible(f"a reduction over axes {list(axes)}, one of them twice")
    if any(shape[axis] < 0 for axis in taken):
        impossible("a reduction over images")
    keep = reading.attribute("keepdims", 1)
    sizes = [1 if axis in taken else size for axis, size in enumerate(shape)]
    kept = [size for axis, size in enumerate(sizes) if keep or axis not in taken]
    return _result(reading, tuple(kept))
