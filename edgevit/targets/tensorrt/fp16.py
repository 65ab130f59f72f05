"""Turns a graph written in float32 into a strongly typed one: float16, with float32 islands.

TensorRT 11 computes in the types the graph says and nothing else, so every constant is stored and
every operator computed in the type meant here. Casts stand at the graph's ends and around islands:
tensors calibration saw outside float16's safe range; GELU and LayerNorm, which round once instead
of once per operator of theirs; and Q to integers, whose quotients would be rounded twice. The
compiler takes these casts into the kernels that are there anyway.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto

from edgevit.quantizers.fp16_range import HALF_MAX
from edgevit.targets.onnx.builder import Array, OnnxBuilder

HALF, FLOAT = np.dtype(np.float16), np.dtype(np.float32)
_TYPES = {HALF: TensorProto.FLOAT16, FLOAT: TensorProto.FLOAT}
_SEVERAL = {"Gelu", "LayerNormalization"}
"""Operators that a compiler writes as several: each of these would round to float16."""
_MOVING = {"Reshape", "Transpose", "Gather", "Slice", "Concat", "Pad", "Identity"}
IMAGE = "image"


def to_half_body(builder: OnnxBuilder, *, wide: Collection[str]) -> None:
    """Rewrite the model under construction in place; its image and outputs stay float32.

    Args:
        wide: Tensors that stay in float32; their operators compute in it.
    """
    body = _Body(builder=builder, wide=frozenset(wide))
    nodes, builder.nodes = builder.nodes, []
    for node in nodes:
        body.add(node)
    body.store_constants()


@dataclass(kw_only=True)
class _Body:
    """The rewritten model.

    Args:
        types: Type of every float activation written so far.
        casts: (tensor, type) -> its cast.
        used: Float constant -> the types it is read in.
    """

    builder: OnnxBuilder
    wide: frozenset[str]
    types: dict[str, np.dtype[np.generic]] = field(default_factory=lambda: {IMAGE: FLOAT})
    casts: dict[tuple[str, np.dtype[np.generic]], str] = field(default_factory=dict)
    used: dict[str, set[np.dtype[np.generic]]] = field(default_factory=dict)

    def add(self, node: onnx.NodeProto) -> None:
        """Append a node in the type it computes in, with the casts it needs."""
        output = node.output[0]
        kind = FLOAT if output in self.builder.outputs else self._computed_in(node)
        first = node.input[0]
        if self._divides(node):  # a float16 number, so that its code is that of every engine
            first = self._read(first, HALF)
        inputs = [self._read(name, kind) for name in (first, *node.input[1:])]
        quantizes = node.op_type == "QuantizeLinear"
        stays = quantizes or node.op_type in _MOVING or output in self.wide or kind == HALF
        written = output if stays else f"{output}_float32"
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = written
        del copy.input[:], copy.output[:]
        copy.input.extend(inputs)
        copy.output.append(written)
        self.builder.nodes.append(copy)
        if quantizes:
            return
        self.types[written] = kind
        if written != output:
            self._cast(written, HALF, output)

    def _divides(self, node: onnx.NodeProto) -> bool:
        """Return whether it is a Q to integers; float8 has scales that are exact in float16."""
        return node.op_type == "QuantizeLinear" and node.input[2] not in self.builder.float8_zeros

    def _computed_in(self, node: onnx.NodeProto) -> np.dtype[np.generic]:
        output = node.output[0]
        if self._divides(node):
            return FLOAT
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            return FLOAT if output in self.wide else HALF
        wide = any(self.types.get(name) == FLOAT for name in node.input if name != IMAGE)
        if node.op_type in _MOVING:
            return FLOAT if wide else HALF
        return FLOAT if wide or output in self.wide or node.op_type in _SEVERAL else HALF

    def _read(self, name: str, kind: np.dtype[np.generic]) -> str:
        """Return the name under which an input is there in this type."""
        constant = self._constant(name)
        if constant is not None:
            if constant.dtype != FLOAT:
                return name
            self.used.setdefault(name, set()).add(kind)
            return name if kind == HALF else f"{name}_float32"
        if self.types.get(name, kind) == kind:
            return name  # of that type, or codes
        known = self.casts.get((name, kind))
        return known or self._cast(name, kind, f"{name}_to_{kind.name}")

    def _cast(self, name: str, kind: np.dtype[np.generic], output: str) -> str:
        self.builder.add("Cast", [name], output, to=_TYPES[kind])
        self.casts[name, kind], self.types[output] = output, kind
        return output

    def _constant(self, name: str) -> Array | None:
        found = self.builder.inside.get(name)
        return self.builder.tensors.get(name) if found is None else found

    def store_constants(self) -> None:
        """Replace the float32 constants by what was read of them."""
        for store in (self.builder.inside, self.builder.tensors):
            for name in [n for n, value in store.items() if value.dtype == FLOAT]:
                value, kinds = store.pop(name), self.used.get(name, set())
                if HALF in kinds:
                    store[name] = np.clip(value, -HALF_MAX, HALF_MAX).astype(HALF)
                if FLOAT in kinds:
                    store[f"{name}_float32"] = value
