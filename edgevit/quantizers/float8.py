"""The E4M3 grid: 8-bit floating point numbers times one scale per tensor.

Source: Micikevicius et al., "FP8 formats for deep learning" (arXiv 2209.05433), section 3: one
sign, four exponent and three mantissa bits, no infinities, largest number 448. Rounding is half to
even and values beyond the largest number are clipped, as ONNX QuantizeLinear does it with
``saturate=1`` (onnx.ai, QuantizeLinear-19).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeGuard

import torch
from torch import Tensor

from edgevit.quantizers.base import Grid, Seen
from edgevit.quantizers.exact_scale import power_of_two_from
from edgevit.quantizers.fp16 import exact_grid
from edgevit.quantizers.layer import Layer, Linear
from edgevit.quantizers.ops import Ops, Value
from edgevit.quantizers.spec import GridSpec

LARGEST = 448.0


@dataclass(frozen=True, kw_only=True)
class Float8Grid(Grid):
    """A calibrated E4M3 grid, one per tensor.

    Args:
        spec: kind "e4m3".
        scale: float32 [], the value of the number 1.
    """

    kinds = ("e4m3",)
    has_integer_sums = False
    has_half_form = True
    needs_histogram = False

    @classmethod
    def from_range(cls, spec: GridSpec, low: float, high: float) -> Float8Grid:
        """Return the grid whose largest number stands for the largest magnitude."""
        return cls(spec=spec, scale=torch.tensor(max(high, -low) / LARGEST))

    @classmethod
    def fit(cls, spec: GridSpec, seen: Seen) -> Float8Grid:
        """Return the grid that covers everything seen, or the top it is fixed to.

        Source: max calibration, as in arXiv 2209.05433, section 4.
        """
        if spec.fixed_top is not None:
            return cls.from_range(spec, 0.0, spec.fixed_top)
        return cls.from_range(spec, seen.low, seen.high)

    @property
    def carrier(self) -> str:
        """The type of its numbers."""
        return "f8"

    def numbers(self, x: Tensor) -> Tensor:
        """Return float32 x / scale rounded to float8_e4m3fn."""
        return (x / self.scale).clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn)

    def codes(self, x: Tensor) -> Tensor:
        """Return the bit patterns of the rounded x, uint8."""
        return self.numbers(x).view(torch.uint8)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return the float32 values of the codes."""
        return codes.view(torch.float8_e4m3fn).to(torch.float32) * self.scale

    def exact_scale(self) -> Tensor:
        """Return the next power of two: it costs part of a binade, and codes are exact in float16.

        With any other scale a product in float16 is rounded twice, and what an engine does to a
        weight while it builds is not known.
        """
        return power_of_two_from(self.scale)

    def emit(self, ops: Ops[Value], x: Value) -> Value:
        """Describe the numbers."""
        return ops.quantize_float8(x, ops.number(self.scale, "scale"))


@dataclass(frozen=True, kw_only=True)
class Float8Linear(Linear):
    """A linear layer in E4M3: products of rounded values, added up in float32.

    Sums depend on the order of addition in their last digits, on every engine.

    Args:
        grid: The input's grid.
        weight_grid: The weight's grid, one for the whole tensor.
        weight: float32 [out, in], not rounded yet; engines round it when they build.
        bias: float32 [out].
    """

    weight: Tensor

    has_integer_sums = False

    def weight_values(self) -> Tensor:
        """Return the rounded weight, float32 [out, in]."""
        return self.weight_grid.fake_quantize(self.weight)

    def __call__(self, left: Tensor, right: Tensor | None = None) -> Tensor:
        """Return the layer's float32 output [..., out] of float32 left [..., in]."""
        return torch.nn.functional.linear(*self.rounded(left, right), self.bias)

    def in_float16(self) -> Float8Linear:
        """Return the layer with exact scales; the weight is rounded by the engine, too."""
        return replace(self, grid=exact_grid(self.grid), weight_grid=exact_grid(self.weight_grid))


def is_float8_linear(layer: Layer) -> TypeGuard[Float8Linear]:
    """Return whether it is a linear layer whose weight is kept in float."""
    return layer.is_linear and not layer.has_integer_sums
