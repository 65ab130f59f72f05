"""The operations of grids as ONNX Runtime's CPU provider runs them: how operands become codes.

``QuantizeLinear`` rounds half to even and saturates at the ends of its 8-bit type; codes of fewer
bits are clipped after it, in u8 or s8, which costs next to nothing (onnx.ai, QuantizeLinear-21).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto
from torch import Tensor

from edgevit.quantizers.ops import Ops
from edgevit.targets.onnx.builder import OnnxBuilder
from edgevit.targets.onnx.context import array_of

_TABLE_ROWS = 16  # what threads share among them


def integer_type(*, signed: bool) -> np.dtype[Any]:
    """Return the 8-bit type of codes."""
    return np.dtype(np.int8 if signed else np.uint8)


@dataclass(frozen=True, kw_only=True)
class CodeOps(Ops[str]):
    """Writes the operations of one operand.

    Args:
        builder: Of the model.
        stem: Begins the names of all outputs.
        shape: Of the operand, -1 for the dimension that follows the batch.
    """

    builder: OnnxBuilder
    stem: str
    shape: tuple[int, ...]

    def number(self, value: Tensor, name: str) -> str:
        """Add a constant."""
        return self.builder.constant(self._name(name), np.float32(value.item()))

    def quantize(
        self,
        x: str,
        scale: str,
        *,
        zero: int = 0,
        low: int = 0,
        high: int = 255,
        signed: bool = False,
        name: str = "",
    ) -> str:
        """Emit Q -> Clip, the latter where the limits are not those of the type."""
        carrier, constant = integer_type(signed=signed), self.builder.constant
        origin = constant(self._zero(name), carrier.type(zero))
        codes = self.builder.add("QuantizeLinear", [x, scale, origin], self._name(name, "codes"))
        if (low, high) == (np.iinfo(carrier).min, np.iinfo(carrier).max):
            return codes
        names = _limits(str(carrier), low, high, is_last=not name)
        ends = [constant(n, carrier.type(e)) for n, e in zip(names, (low, high), strict=True)]
        return self.builder.add("Clip", [codes, *ends], self._name(name, "clipped"))

    def dequantize(self, codes: str, scale: str, *, name: str) -> str:
        """Emit DQ."""
        origin = self.builder.constant(self._zero(name), np.uint8(0))
        return self.builder.add("DequantizeLinear", [codes, scale, origin], self._name(name))

    def clip_positive(self, x: str, high: str, *, name: str) -> str:
        """Emit a Clip of floats."""
        low = self.builder.constant("zero_float32", np.float32(0))
        return self.builder.add("Clip", [x, low, high], self._name(name))

    def less(self, x: str, limit: str, *, name: str) -> str:
        """Emit a comparison."""
        return self.builder.add("Less", [x, limit], self._name(name))

    def where(self, condition: str, then: str, otherwise: str, *, name: str) -> str:
        """Emit a choice."""
        return self.builder.add("Where", [condition, then, otherwise], self._name(name))

    def look_up(self, codes: str, table: Tensor, *, signed: bool, name: str) -> str:
        """Emit a look-up in a table of 256 bytes.

        GatherElements looks up six times as fast as Gather does, row by row of a matrix; every row
        has a copy of the table. Indices of signed codes count from the table's end if negative.
        """
        builder, add = self.builder, self.builder.add
        elements = math.prod(size for size in self.shape if size > 0)  # of one image, or a window
        rows = max(n for n in range(1, _TABLE_ROWS + 1) if elements % n == 0)
        entries = array_of(table).astype(integer_type(signed=signed))
        if signed:
            entries = np.roll(entries, len(entries) // 2)  # codes 0 .. 127 first, then -128 .. -1
        tables = builder.constant(self._name("table"), np.tile(entries, (rows, 1)))
        index = add("Cast", [codes], self._name("index"), to=TensorProto.INT32)
        index = add("Reshape", [index, self._shape((rows, -1))], self._name("index_rows"))
        found = add("GatherElements", [tables, index], self._name(name, "rows"), axis=1)
        return add("Reshape", [found, self._shape(self.shape)], self._name(f"{name}s"))

    def _shape(self, shape: tuple[int, ...]) -> str:
        name = f"shape_{'_'.join(map(str, shape))}"
        return self.builder.constant(name, np.array(shape, np.int64))

    def _name(self, *parts: str) -> str:
        return "_".join(filter(None, (self.stem, *parts)))

    def _zero(self, name: str) -> str:
        """Return the name of a zero point: the operand's own, or that of all inner roundings."""
        return "zero_u8" if name else self._name("zero")


def _limits(carrier: str, low: int, high: int, *, is_last: bool) -> tuple[str, str]:
    """Return the names of two limits of codes; equal models are equal files, so they stay."""
    if not is_last:
        return "zero_u8", f"top_u8_{high}"
    bits = (high - low).bit_length()
    is_whole = low in (0, -high - 1)
    return f"low_{carrier}_{bits if is_whole else low}", f"high_{carrier}_{bits}"
