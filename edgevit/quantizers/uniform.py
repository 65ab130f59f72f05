"""The uniform grid: codes are integers, values are (code - zero_point) * scale.

Rounding is half to even and the division a true float32 division, so that `codes` equals ONNX
`QuantizeLinear` bit for bit (onnx.ai, QuantizeLinear-21); a multiplication by 1/scale does not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from edgevit.graph.roles import Role
from edgevit.quantizers.base import BEAM, HALVINGS, Grid, Seen
from edgevit.quantizers.exact_scale import exact_scale
from edgevit.quantizers.ops import Ops, Value
from edgevit.quantizers.spec import GridSpec

_COARSE = 16  # shares of the full range tried at first
SMALLEST_SCALE = 1e-12  # keeps a dead tensor's scale positive and its reciprocal finite


def along(values: Tensor, x: Tensor) -> Tensor:
    """Shape per-channel `values` [C] for arithmetic with x [C, ...]; pass scalars through."""
    if values.ndim == 0:
        return values
    return values.reshape(-1, *[1] * (x.ndim - 1))  # [C, 1, ...]


@dataclass(frozen=True, kw_only=True)
class UniformGrid(Grid):
    """A calibrated uniform grid.

    Args:
        spec: Width, sign and granularity.
        scale: float32, [] for one per tensor or [C] for one per index of axis 0.
        zero_point: int32 of the same shape, inside [qmin, qmax].
    """

    zero_point: Tensor

    kinds = ("uniform",)
    has_half_form = True

    @classmethod
    def specs_at(cls, role: Role, bits: int) -> tuple[GridSpec, ...]:
        """Return the grid with a free zero point where integer kernels have none.

        Those are weights, q, k, v and the right operands of other products.

        The others have it on every target with integer sums.
        """
        if role is Role.WEIGHT:
            return (GridSpec(bits=bits, granularity="channel"),)
        symmetric = {Role.QUERY, Role.KEY, Role.VALUE, Role.FACTOR}
        return (GridSpec(bits=bits),) if role in symmetric else ()

    @classmethod
    def fit(cls, spec: GridSpec, seen: Seen) -> UniformGrid:
        """Return the grid with the least weighted squared error, or the one its top is fixed to."""
        if spec.fixed_top is not None:
            return cls.from_range(spec, 0.0, spec.fixed_top)
        low, high = min(seen.low, 0.0), max(seen.high, 0.0)
        if low == high or float(seen.counts.sum()) <= 0:
            return cls.from_range(spec, low, high)
        tied = spec.fixed_zero_point is not None
        return _search_range(spec, seen, low, high, tied)

    @staticmethod
    def symmetric(spec: GridSpec, scale: Tensor) -> UniformGrid:
        """Return the grid with this scale and the zero point the specification fixes."""
        zero = spec.fixed_zero_point
        if zero is None:
            raise ValueError(f"{spec.label()} grid needs a zero point")
        scale = scale.to(torch.float32).clamp_min(SMALLEST_SCALE)
        return UniformGrid(spec=spec, scale=scale, zero_point=torch.full_like(scale, zero).int())

    @classmethod
    def from_range(cls, spec: GridSpec, low: float, high: float) -> UniformGrid:
        """Return the per-tensor grid that just covers [low, high] and holds zero exactly.

        Source: the min-max form of Nagel et al., "A white paper on neural network quantization"
        (arXiv 2106.08295), eq. 7-9.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        if spec.fixed_zero_point is not None:
            zero = spec.fixed_zero_point
            below, above = zero - spec.qmin, spec.qmax - zero
            steps = [-low / below if below else 0.0, high / above if above else 0.0]
            return UniformGrid.symmetric(spec, torch.tensor(max(steps)))
        scale = max((high - low) / (spec.qmax - spec.qmin), SMALLEST_SCALE)
        zero = min(max(round(-low / scale) + spec.qmin, spec.qmin), spec.qmax)
        return UniformGrid(
            spec=spec,
            scale=torch.tensor(scale, dtype=torch.float32),
            zero_point=torch.tensor(zero, dtype=torch.int32),
        )

    @staticmethod
    def from_channel_ranges(spec: GridSpec, low: Tensor, high: Tensor) -> UniformGrid:
        """Return the asymmetric grid whose channel c just covers low[c] to high[c] and zero.

        Args:
            spec: Granularity "channel", with a free zero point.
            low, high: float32 [C].
        """
        low, high = low.clamp_max(0.0), high.clamp_min(0.0)
        scale = ((high - low) / (spec.qmax - spec.qmin)).clamp_min(SMALLEST_SCALE)  # [C]
        zero = (torch.round(-low / scale) + spec.qmin).clamp(spec.qmin, spec.qmax)
        return UniformGrid(spec=spec, scale=scale, zero_point=zero.to(torch.int32))

    def codes(self, x: Tensor) -> Tensor:
        """Return the int32 codes of float32 x, in [qmin, qmax]."""
        return self._nearest(x / along(self.scale, x))

    def _nearest(self, quotients: Tensor) -> Tensor:
        """Return the int32 codes of float32 quotients x / scale."""
        shifted = torch.round(quotients) + along(self.zero_point, quotients)  # half to even
        return shifted.clamp_(self.spec.qmin, self.spec.qmax).to(torch.int32)

    def exact_scale(self) -> Tensor:
        """Return the nearest float16 scale with which division and reciprocal give one code."""
        return exact_scale(self.scale, self._nearest)

    def operand(self, codes: Tensor) -> Tensor:
        """Return the int32 integers a multiply-accumulate sees: code - zero_point."""
        return codes - along(self.zero_point, codes)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return the float32 values of the codes."""
        return self.operand(codes).to(torch.float32) * along(self.scale, codes)

    @property
    def operand_range(self) -> tuple[Tensor, Tensor]:
        """The least and the largest operand, int32 of the shape of the zero point."""
        return self.spec.qmin - self.zero_point, self.spec.qmax - self.zero_point

    @property
    def operand_offset(self) -> int:
        """The number added to an operand to carry it in 8 bits: the zero point, one per tensor."""
        return int(self.zero_point)

    @property
    def codes_are_operands(self) -> bool:
        """True if every zero point is 0."""
        return self.spec.fixed_zero_point == 0

    def unsigned(self) -> UniformGrid:
        """Return the grid with codes that are larger by half their number."""
        spec = replace(self.spec, signed=False)
        return replace(self, spec=spec, zero_point=self.zero_point + (1 << (spec.bits - 1)))

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Return float32 x rounded to the grid; equals `dequantize(codes(x))` bit for bit.

        It stays in float32, where all these integers are exact: three times as fast.
        """
        scale, zero = along(self.scale, x), along(self.zero_point, x).to(torch.float32)
        codes = torch.div(x, scale).round_().add_(zero).clamp_(self.spec.qmin, self.spec.qmax)
        return codes.sub_(zero).mul_(scale)

    def emit(self, ops: Ops[Value], x: Value) -> Value:
        """Describe the codes: one rounding, clipped to k bits."""
        spec, step, zero = self.spec, ops.number(self.scale, "scale"), int(self.zero_point)
        low, high = spec.qmin, spec.qmax
        return ops.quantize(x, step, zero=zero, low=low, high=high, signed=spec.signed)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return {**super().to_dict(), "zero_point": self.zero_point.tolist()}


def _search_range(spec: GridSpec, seen: Seen, low: float, high: float, tied: bool) -> UniformGrid:
    """Search the shares (of low, of high) of the range, coarse to fine with a small beam."""
    shares = torch.logspace(-5.0, 0.15, _COARSE, base=2.0, dtype=torch.float64)  # 0.03 .. 1.1
    if tied:
        pairs = torch.stack([shares, shares], 1)  # [S, 2]
    else:
        lows = shares if low < 0 else torch.ones(1, dtype=torch.float64)
        highs = shares if high > 0 else torch.ones(1, dtype=torch.float64)
        pairs = torch.cartesian_prod(lows, highs)  # [S^2, 2]
    ratio = float(shares[1] / shares[0])
    for _ in range(HALVINGS):
        best = pairs[_errors(spec, seen, low, high, pairs).argsort()[:BEAM]]  # [beam, 2]
        ratio = ratio**0.5
        pairs = (best[:, None] * _neighbours(ratio, tied)).reshape(-1, 2)  # [beam * 9, 2]
    scores = _errors(spec, seen, low, high, pairs)
    share = pairs[int(scores.argmin())]
    return UniformGrid.from_range(spec, low * float(share[0]), high * float(share[1]))


def _neighbours(ratio: float, tied: bool) -> Tensor:
    steps = torch.tensor([1 / ratio, 1.0, ratio], dtype=torch.float64)
    return torch.stack([steps, steps], 1) if tied else torch.cartesian_prod(steps, steps)


def _errors(spec: GridSpec, seen: Seen, low: float, high: float, shares: Tensor) -> Tensor:
    """Return [S]: the error of each candidate, all candidates at once in float32 arrays."""
    lows, highs = shares[:, 0] * low, shares[:, 1] * high  # [S]
    zero = spec.fixed_zero_point
    if zero is None:
        scale = ((highs - lows) / (spec.qmax - spec.qmin)).clamp_min(SMALLEST_SCALE)
        zeros = (torch.round(-lows / scale) + spec.qmin).clamp(spec.qmin, spec.qmax)
    else:
        below, above = max(zero - spec.qmin, 0), max(spec.qmax - zero, 0)
        steps = [-lows / below if below else -lows * 0, highs / above if above else highs * 0]
        scale = torch.maximum(steps[0], steps[1]).clamp_min(SMALLEST_SCALE)
        zeros = torch.full_like(scale, zero)
    return _uniform_errors(seen, scale, zeros, spec.qmin, spec.qmax)


def _uniform_errors(
    seen: Seen, scale: Tensor, zeros: Tensor, qmin: int, qmax: int, rows: int = 64
) -> Tensor:
    """Return [S] errors, `rows` candidates at a time to bound memory."""
    centers, counts = seen.centers, seen.counts.float()
    found = []
    for start in range(0, len(scale), rows):
        step = scale[start : start + rows, None].float()  # [rows, 1]
        zero = zeros[start : start + rows, None].float()  # [rows, 1]
        codes = torch.round(centers / step).add_(zero).clamp_(qmin, qmax)  # [rows, BINS]
        found.append(codes.sub_(zero).mul_(step).sub_(centers).square_() @ counts)
    return torch.cat(found)
