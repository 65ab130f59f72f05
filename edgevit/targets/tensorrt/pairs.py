"""The operations of grids that TensorRT runs in its kernels: one rounding with one step.

Scales are constants and zero points int8 zeros (NVIDIA, TensorRT documentation, "Working with
quantized types"). Codes of fewer than 8 bits are float values clipped before the Q: clipping codes
would break the pattern that the builder looks for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from edgevit.quantizers.ops import Ops
from edgevit.targets.onnx.builder import OnnxBuilder

INT8 = (-128, 127)


@dataclass(kw_only=True)
class PairOps(Ops[str]):
    """Writes the Q of a Q/DQ pair.

    Args:
        builder: Of the model.
        stem: Begins the names of all outputs.
        zero: Filled while writing: name of the zero point, which has the type of the codes.
    """

    builder: OnnxBuilder
    stem: str
    zero: str = ""
    _values: dict[str, float] = field(default_factory=dict)

    def number(self, value: Tensor, name: str) -> str:
        """Add a constant."""
        constant = self.builder.constant(f"{self.stem}_{name}", np.float32(value.item()))
        self._values[constant] = value.item()
        return constant

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
        """Emit (Clip ->) Q.

        Raises:
            TypeError: The codes are unsigned or have a zero point.
        """
        if zero or not signed:
            raise self._refused("quantize with a zero point")
        self.zero = self.builder.constant("zero_int8", np.int8(0))
        if (low, high) != INT8:
            ends = [end * self._values[scale] for end in (low, high)]
            limits = [self.builder.constant(f"limit_{end!r}", np.float32(end)) for end in ends]
            x = self.builder.add("Clip", [x, *limits], f"{self.stem}_clipped")
        return self._codes(x, scale)

    def quantize_float8(self, x: str, scale: str) -> str:
        """Emit a Q to E4M3."""
        self.zero = self.builder.float8_zero()
        return self._codes(x, scale)

    def _codes(self, x: str, scale: str) -> str:
        return self.builder.add("QuantizeLinear", [x, scale, self.zero], f"{self.stem}_codes")
