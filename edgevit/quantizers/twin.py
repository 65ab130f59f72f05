"""Twin uniform quantization: two uniform regions whose steps differ by a power of two.

Source: Yuan et al., "PTQ4ViT: Post-training quantization for vision transformers with twin
uniform quantization" (arXiv 2111.12293), eq. 8-9, with the constraint step2 = 2^m * step1. The
official code adds both regions' terms, which leaves a bias on large values; this is the paper's
form, where a value belongs to exactly one region. Here the regions meet half-way between their
neighbouring levels, so that every value goes to the nearest level there is: where the paper's
small region ends, the nearest coarse level may be zero. A k-bit code is one region bit and k-1
magnitude bits, and every operand is an integer multiple of the fine step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgevit.graph.roles import Role
from edgevit.quantizers.base import BEAM, HALVINGS, Grid, Seen
from edgevit.quantizers.ops import Ops, Value
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.uniform import SMALLEST_SCALE

TWINS = {Role.SOFTMAX_OUT: "twin-softmax", Role.GELU_OUT: "twin-gelu"}
OPERAND_MAX = (1 << 11) - 1
"""Largest twin operand: with 8-bit partners, int32 sums hold for up to 8,192 products."""
FINE_IS_NEGATIVE = {"twin-softmax": False, "twin-gelu": True}
"""Kind -> whether its fine region holds the negative values, else the smallest positive ones."""


@dataclass(frozen=True, kw_only=True)
class TwinGrid(Grid):
    """A calibrated twin uniform grid, one per tensor.

    Args:
        spec: kind "twin-softmax" (small values fine, large coarse, nothing negative) or
            "twin-gelu" (negative values fine, positive coarse).
        scale: float32 [], the fine step.
        ratio_log2: m; the coarse step is 2^m fine steps.
    """

    ratio_log2: int

    kinds = ("twin-softmax", "twin-gelu")

    def __post_init__(self) -> None:
        if not 0 <= self.ratio_log2 <= self.spec.max_ratio_log2:
            raise ValueError(f"ratio 2^{self.ratio_log2} is not offered: {self.spec}")

    @classmethod
    def specs_at(cls, role: Role, bits: int) -> tuple[GridSpec, ...]:
        """Return the twin grid with the largest ratio whose sums still fit int32."""
        if role not in TWINS:
            return ()
        ratio = largest_ratio_log2(TWINS[role], bits, carrier_max=OPERAND_MAX)
        return (GridSpec(kind=TWINS[role], bits=bits, max_ratio_log2=ratio),)

    @classmethod
    def fit(cls, spec: GridSpec, seen: Seen) -> TwinGrid:
        """Try every ratio 2^m the target carries with a range of steps, then refine the best."""
        half, top = 1 << (spec.bits - 1), max(seen.high, SMALLEST_SCALE)

        def grid_at(ratio_log2: int, share: float) -> TwinGrid:
            fine = torch.tensor(share * top / ((half - 1) * (1 << ratio_log2)), dtype=torch.float32)
            return cls(spec=spec, scale=fine, ratio_log2=ratio_log2)

        shares = torch.logspace(-4, 0.2, 22, base=2.0).tolist()
        tried = [(m, share) for m in range(spec.max_ratio_log2 + 1) for share in shares]
        ranked = sorted(tried, key=lambda candidate: grid_at(*candidate).error(seen))[:BEAM]
        ratio = shares[1] / shares[0]
        for _ in range(HALVINGS):
            ratio = ratio**0.5
            near = {(m, share * ratio**step) for m, share in ranked for step in (-1, 0, 1)}
            ranked = sorted(near, key=lambda candidate: grid_at(*candidate).error(seen))[:BEAM]
        return grid_at(*ranked[0])

    @property
    def half(self) -> int:
        """Codes per region: 2^(k-1)."""
        return 1 << (self.spec.bits - 1)

    @property
    def fine_is_negative(self) -> bool:
        """True if the fine region holds the negative values (GELU)."""
        return FINE_IS_NEGATIVE[self.spec.kind]

    @property
    def fine_range(self) -> tuple[int, int]:
        """The least and the largest fine level, in fine steps."""
        return (-self.half, 0) if self.fine_is_negative else (0, self.half - 1)

    @property
    def coarse(self) -> Tensor:
        """The coarse step, float32 [], exactly 2^m fine steps."""
        return self.scale * float(1 << self.ratio_log2)

    @property
    def has_gap(self) -> bool:
        """True if the first coarse level above the fine ones is farther than one fine step."""
        return not self.fine_is_negative and 1 << self.ratio_log2 > self.half

    @property
    def threshold(self) -> float:
        """Values from here on are coarse, in fine steps.

        Softmax: half-way between the largest fine level, 2^(k-1) - 1, and the first coarse one
        above it, 2^(k-1) or 2^m; less four rounding errors of float32: else x below step times
        threshold may, divided by the step, round to 2^(k-1), which is no fine code. GELU: 0.
        """
        if self.fine_is_negative:
            return 0.0
        above = max(self.half, 1 << self.ratio_log2)
        return (self.half - 1 + above) / 2 * (1 - 2.0**-22)

    def codes(self, x: Tensor) -> Tensor:
        """Return int32 codes in [0, 2^k - 1] of float32 x: region bit (1 = coarse), magnitude.

        In the negative GELU region magnitude j stands for -(j + 1) fine steps: zero has one
        code, in the coarse region, so that all 2^k codes are different values.
        """
        coarse = torch.round(x / self.coarse).clamp_(0, self.half - 1) + self.half
        fine = torch.round(x / self.scale).clamp_(*self.fine_range)
        if self.fine_is_negative:
            fine = -fine - 1  # -1 where the value rounds to zero
            fine = torch.where(fine < 0, float(self.half), fine)
        is_coarse = x >= self.scale * self.threshold
        return torch.where(is_coarse, coarse, fine).to(torch.int32)

    def operand(self, codes: Tensor) -> Tensor:
        """Return the int32 integers, in fine steps, that a multiply-accumulate sees."""
        magnitude = codes & (self.half - 1)
        fine = -magnitude - 1 if self.fine_is_negative else magnitude
        return torch.where(codes >= self.half, magnitude << self.ratio_log2, fine)

    @property
    def operand_range(self) -> tuple[int, int]:
        """The least and the largest operand."""
        return self.fine_range[0], (self.half - 1) << self.ratio_log2

    @property
    def operand_offset(self) -> int:
        """The number added to an operand to carry it in u8: 2^(k-1) for GELU, else 0."""
        return -self.fine_range[0]

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Return float32 x rounded to the grid; equals `dequantize(codes(x))` bit for bit.

        It stays in float32, where all these integers are exact.
        """
        coarse = torch.div(x, self.coarse).round_().clamp_(0, self.half - 1)
        coarse.mul_(float(1 << self.ratio_log2))
        fine = torch.div(x, self.scale).round_().clamp_(*self.fine_range)
        operand = torch.where(x >= self.scale * self.threshold, coarse, fine)
        return operand.add_(0.0).mul_(self.scale)  # no negative zero

    def emit(self, ops: Ops[Value], x: Value) -> Value:
        """Round large values to the coarse step first; then one rounding holds both regions.

        A coarse value is a whole number of fine steps, so the second rounding does not change it.
        Small values end at the largest fine level, which only matters where the next is far.
        """
        top, coarse = self.half - 1, ops.number(self.coarse, "coarse")
        large = ops.quantize(x, coarse, high=top, name="large")
        large = ops.dequantize(large, coarse, name="large")
        limit = ops.number(self.scale * self.threshold, "threshold")
        is_small, small = ops.less(x, limit, name="is_small"), x
        if self.has_gap:
            small = ops.clip_positive(x, ops.number(self.scale * top, "last"), name="small")
        value = ops.where(is_small, small, large, name="value")
        return ops.quantize(value, ops.number(self.unit, "scale"), zero=self.operand_offset)

    def label(self) -> str:
        """Return a short name with the ratio, such as ``twin-softmax 2^3``."""
        return f"{self.spec.kind} 2^{self.ratio_log2}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return {**super().to_dict(), "ratio_log2": self.ratio_log2}


def largest_ratio_log2(kind: str, bits: int, carrier_max: int = 255) -> int:
    """Return the largest m whose operands still fit an unsigned carrier, or -1 if none does.

    Softmax operands reach (2^(k-1) - 1) * 2^m; GELU adds the offset 2^(k-1).
    """
    half = 1 << (bits - 1)
    offset = half if FINE_IS_NEGATIVE[kind] else 0
    ratio = -1
    while (half - 1) * (1 << (ratio + 1)) + offset <= carrier_max:
        ratio += 1
    return ratio
