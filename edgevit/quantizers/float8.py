"""The E4M3 grid: 8-bit floating point numbers times one scale per tensor.

Source: Micikevicius et al., "FP8 formats for deep learning" (arXiv 2209.05433), section 3: one
sign, four exponent and three mantissa bits, no infinities, largest number 448. Rounding is half to
even and values beyond the largest number are clipped, as ONNX QuantizeLinear does it with
``saturate=1`` (onnx.ai, QuantizeLinear-19).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgevit.quantizers.spec import GridSpec

LARGEST = 448.0


@dataclass(frozen=True, kw_only=True)
class Float8Grid:
    """A calibrated E4M3 grid, one per tensor.

    Args:
        spec: kind "e4m3".
        scale: float32 [], the value of the number 1.
    """

    spec: GridSpec
    scale: Tensor

    @property
    def unit(self) -> Tensor:
        """The value of the number 1, float32 []."""
        return self.scale

    def numbers(self, x: Tensor) -> Tensor:
        """Return float32 x / scale rounded to float8_e4m3fn."""
        return (x / self.scale).clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn)

    def codes(self, x: Tensor) -> Tensor:
        """Return the bit patterns of the rounded x, uint8."""
        return self.numbers(x).view(torch.uint8)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Return float32 x rounded to the grid."""
        return self.numbers(x).to(torch.float32) * self.scale

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return {**self.spec.to_dict(), "scale": self.scale.tolist()}


@dataclass(frozen=True, kw_only=True)
class Float8Linear:
    """A linear layer in E4M3: products of rounded values, added up in float32.

    Sums depend on the order of addition in their last digits, on every engine.

    Args:
        grid: The input's grid.
        weight_grid: The weight's grid, one for the whole tensor.
        weight: float32 [out, in], not rounded yet; engines round it when they build.
        bias: float32 [out].
    """

    grid: Float8Grid
    weight_grid: Float8Grid
    weight: Tensor
    bias: Tensor

    def weight_values(self) -> Tensor:
        """Return the rounded weight, float32 [out, in]."""
        return self.weight_grid.fake_quantize(self.weight)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the layer's float32 output [..., out] of float32 x [..., in]."""
        values = self.grid.fake_quantize(x)
        return torch.nn.functional.linear(values, self.weight_values(), self.bias)


@dataclass(frozen=True, kw_only=True)
class Float8Matmul:
    """A product of two activations in E4M3."""

    left: Float8Grid
    right: Float8Grid

    def __call__(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the float32 product [..., M, N] of float32 [..., M, K] and [..., K, N]."""
        return torch.matmul(self.left.fake_quantize(left), self.right.fake_quantize(right))
