"""Runs a TensorRT graph with torch on a GPU, as it is written or with products of codes.

It is no engine and its time says nothing: one kernel an operator. As written, a product multiplies
dequantized float16 values, which is what the simulation does. In integers it sums codes, as a
kernel of the engine does, by cuBLASLt (`torch._int_mm`); where that takes no such sizes, and for
products of two activations, codes are summed in float32, which is exact below 2^24.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor
from torch.nn import functional

_TYPES = {1: torch.float32, 6: torch.int32, 7: torch.int64, 10: torch.float16, 3: torch.int8}
_TYPES |= {17: torch.float8_e4m3fn}
_LARGEST = {torch.int8: (-128, 127), torch.float8_e4m3fn: (-448, 448)}
_ROWS, _GRANULE = 17, 8
"""What `torch._int_mm` takes on a GPU: more than 16 rows, depth and columns in eights."""


class TorchGraph:
    """A session that runs a graph with torch.

    Args:
        model: Serialized ModelProto with one input and one output.
        device: "cuda" or "cpu".
        integers: Whether products sum codes.
    """

    provider, threads, engine = "torch", None, f"torch {torch.__version__}"

    def __init__(self, model: bytes, device: str, *, integers: bool) -> None:
        graph = onnx.ModelProto.FromString(model).graph
        self.device, self.integers = device, integers
        self.nodes = list(graph.node)
        self.constants = {one.name: self._constant(one) for one in graph.initializer}
        self.image, self.logits = graph.input[0].name, graph.output[0].name
        self.made = {node.output[0]: node for node in self.nodes}
        self.last_read = {name: node for node in self.nodes for name in self._read_by(node)}
        self.products: Counter[str] = Counter()

    def run(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return logits [B, classes] of normalized images [B, 3, H, W]."""
        self.products = Counter()
        values = {**self.constants, self.image: torch.from_numpy(images).to(self.device)}
        with torch.inference_mode():
            for node in self.nodes:
                values[node.output[0]] = self._computed(node, values)
                for name in self._read_by(node):
                    if name not in self.constants and self.last_read[name] is node:
                        values.pop(name, None)
            logits: npt.NDArray[np.float32] = values[self.logits].cpu().numpy()
        return logits

    def _read_by(self, node: onnx.NodeProto) -> list[str]:
        """Return what a node reads; a product reads the codes behind its operands as well."""
        sides = [self.made.get(name) for name in node.input] if node.op_type == "MatMul" else []
        codes = [s.input[0] for s in sides if s is not None and s.op_type == "DequantizeLinear"]
        return [*filter(None, node.input), *codes]

    def _constant(self, one: onnx.TensorProto) -> Tensor:
        if one.data_type == onnx.TensorProto.FLOAT8E4M3FN:
            raw = (
                np.frombuffer(one.raw_data, np.uint8) if one.raw_data else np.uint8(one.int32_data)
            )
            codes = torch.from_numpy(raw.copy()).view(torch.float8_e4m3fn)
            return codes.reshape(tuple(one.dims)).to(self.device)
        return torch.from_numpy(numpy_helper.to_array(one).copy()).to(self.device)

    def _computed(self, node: onnx.NodeProto, values: dict[str, Any]) -> Tensor:
        if node.op_type == "MatMul":
            return self._product(node, values)
        if node.op_type not in _OPERATORS:
            raise NotImplementedError(f"{node.op_type} {node.name}")
        given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        return _OPERATORS[node.op_type]([values.get(name) for name in node.input], given)

    def _product(self, node: onnx.NodeProto, values: dict[str, Any]) -> Tensor:
        """Multiply codes where both operands are dequantized, and scale the sums."""
        sides = [self.made.get(name) for name in node.input]
        left, right = (values[name] for name in node.input)
        codes = [side is not None and side.op_type == "DequantizeLinear" for side in sides]
        if not self.integers or not all(codes):
            self.products["float"] += 1
            return torch.matmul(left.float(), right.float()).to(left.dtype)
        scales = [values[side.input[1]].float() for side in sides if side is not None]
        sums = self._sums(*(values[side.input[0]] for side in sides if side is not None))
        return (sums.float() * (scales[0] * scales[1])).to(left.dtype)

    def _sums(self, left: Tensor, right: Tensor) -> Tensor:
        if left.dtype != torch.int8:
            self.products["fp8 in float32"] += 1
            return torch.matmul(left.float(), right.float())
        rows = left.reshape(-1, left.shape[-1])
        fits = len(rows) >= _ROWS and all(n % _GRANULE == 0 for n in right.shape)
        if right.dim() > 2 or not fits:
            self.products["int8 in float32"] += 1
            return torch.matmul(left.float(), right.float())
        self.products["int8"] += 1
        return torch._int_mm(rows, right).reshape(*left.shape[:-1], right.shape[1])


Inputs, Given = list[Any], dict[str, Any]


def _quantize(x: Inputs, given: Given) -> Tensor:
    """Divide and round half to even, in the type of the input; in float32 where codes are FP8."""
    value, scale, zero = x
    low, high = _LARGEST[zero.dtype]
    shaped = _along(scale, value, given)
    if zero.dtype != torch.int8:
        return (value.float() / shaped.float()).clamp(low, high).to(zero.dtype)
    return torch.round(value.float() / shaped.float()).clamp(low, high).to(torch.int8)


def _dequantize(x: Inputs, given: Given) -> Tensor:
    codes, scale = x[:2]
    return (codes.float() * _along(scale, codes, given).float()).to(scale.dtype)


def _along(scale: Tensor, value: Tensor, given: Given) -> Tensor:
    """Return a scale shaped so that it goes along its axis."""
    if scale.dim() == 0:
        return scale
    shape = [1] * value.dim()
    shape[given.get("axis", 1)] = -1
    return scale.reshape(shape)


def _normalized(x: Inputs, given: Given) -> Tensor:
    value, gain, offset = x[0], x[1], x[2] if len(x) > 2 else None
    wide = [one if one is None else one.float() for one in (value, gain, offset)]
    found = functional.layer_norm(wide[0], gain.shape, *wide[1:], eps=given.get("epsilon", 1e-5))
    return found.to(value.dtype)


def _reshape(x: Inputs, given: Given) -> Tensor:
    sizes = [x[0].shape[at] if size == 0 else size for at, size in enumerate(x[1].tolist())]
    return x[0].reshape(sizes)


def _gather(x: Inputs, given: Given) -> Tensor:
    axis, index = given.get("axis", 0), x[1]
    found = x[0].index_select(axis, index.reshape(-1) % x[0].shape[axis])
    return found.reshape(*x[0].shape[:axis], *index.shape, *x[0].shape[axis + 1 :])


def _sliced(x: Inputs, given: Given) -> Tensor:
    found = x[0]
    for start, end, axis, step in zip(*(one.tolist() for one in x[1:]), strict=True):
        found = found[(slice(None),) * (axis % found.dim()) + (slice(start, end, step),)]
    return found


def _pad(x: Inputs, given: Given) -> Tensor:
    ends = x[1].tolist()
    half = len(ends) // 2
    pairs = [(ends[at], ends[half + at]) for at in reversed(range(half))]
    filling = x[2].item() if len(x) > 2 and x[2] is not None else 0
    return functional.pad(x[0], [end for pair in pairs for end in pair], value=filling)


def _mean(x: Inputs, given: Given) -> Tensor:
    axes = x[1].tolist() if len(x) > 1 else given["axes"]
    return x[0].float().mean(axes, keepdim=bool(given.get("keepdims", 1))).to(x[0].dtype)


def _convolved(x: Inputs, given: Given) -> Tensor:
    bias = x[2].float() if len(x) > 2 else None
    found = functional.conv2d(x[0].float(), x[1].float(), bias, stride=given.get("strides", 1))
    return found.to(x[0].dtype)


def _clipped(x: Inputs, given: Given) -> Tensor:
    low, high = (*x[1:], None, None)[:2]
    return torch.clamp(x[0], min=low, max=high)


_OPERATORS: dict[str, Callable[[Inputs, Given], Tensor]] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "LayerNormalization": _normalized,
    "Reshape": _reshape,
    "Gather": _gather,
    "Pad": _pad,
    "Slice": _sliced,
    "ReduceMean": _mean,
    "Conv": _convolved,
    "Clip": _clipped,
    "Cast": lambda x, given: x[0].to(_TYPES[given["to"]]),
    "Add": lambda x, given: x[0] + x[1],
    "Sub": lambda x, given: x[0] - x[1],
    "Mul": lambda x, given: x[0] * x[1],
    "Div": lambda x, given: x[0] / x[1],
    "Erf": lambda x, given: torch.erf(x[0].float()).to(x[0].dtype),
    "Sqrt": lambda x, given: torch.sqrt(x[0]),
    "Gelu": lambda x, given: functional.gelu(x[0].float()).to(x[0].dtype),
    "Softmax": lambda x, given: torch.softmax(x[0].float(), given.get("axis", -1)).to(x[0].dtype),
    "Transpose": lambda x, given: x[0].permute(given["perm"]),
    "Concat": lambda x, given: torch.cat(x, given["axis"]),
    "Identity": lambda x, given: x[0],
}
