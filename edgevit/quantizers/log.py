"""Logarithmic grids for numbers in (0, s]: every code is a fixed ratio smaller than the one before.

Source: log2 in Lin et al., "FQ-ViT: Post-training quantization for fully quantized vision
transformer" (arXiv 2111.13824), Log-Int-Softmax; log-sqrt2 in Li et al., "RepQ-ViT: Scale
reparameterization for post-training quantization of vision transformers" (arXiv 2212.08254),
section 3.3. Code c stands for ``s * 2^(-c / n)`` with n = 1 (log2) or n = 2 (log-sqrt2), found as
``c = round(-n log2(x / s))``. Both official programs emit 2^k such levels and an exact zero
besides; here the last of the 2^k codes is the zero, so that k bits hold every code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgevit.graph.roles import Role
from edgevit.quantizers.base import Grid, Seen
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.uniform import SMALLEST_SCALE

STEPS_PER_OCTAVE = {"log2": 1, "log-sqrt2": 2}


@dataclass(frozen=True, kw_only=True)
class LogGrid(Grid):
    """A calibrated logarithmic grid, one per tensor; nothing negative has a code.

    Its values are not multiples of one step, so no integer operand stands for them: products
    with such a tensor are simulated (`quantized_graph.SimulatedMatmul`).

    Args:
        spec: kind "log2" or "log-sqrt2".
        scale: float32 [], the value of code 0.
    """

    kinds = tuple(STEPS_PER_OCTAVE)
    has_integer_sums = False

    @classmethod
    def specs_at(cls, role: Role, bits: int) -> tuple[GridSpec, ...]:
        """Return both grids behind a softmax."""
        if role is not Role.SOFTMAX_OUT:
            return ()
        return tuple(GridSpec(kind=kind, bits=bits) for kind in cls.kinds)

    @classmethod
    def from_range(cls, spec: GridSpec, low: float, high: float) -> LogGrid:
        """Return the grid whose code 0 stands for `high`."""
        return cls(spec=spec, scale=torch.tensor(max(high, SMALLEST_SCALE)))

    @classmethod
    def fit(cls, spec: GridSpec, seen: Seen) -> LogGrid:
        """Return the grid with the least weighted squared error, over two octaves of scales."""
        shares = torch.logspace(-1, 1, 65, base=2.0).tolist()
        grids = [cls.from_range(spec, seen.low, share * seen.high) for share in shares]
        return min(grids, key=lambda grid: grid.error(seen))

    def __post_init__(self) -> None:
        if self.spec.kind not in STEPS_PER_OCTAVE:
            raise ValueError(f"not a logarithmic grid: {self.spec}")

    def codes(self, x: Tensor) -> Tensor:
        """Return int32 codes in [0, 2^k - 1] of float32 x; the last code is zero.

        Code c ends where its value is multiplied by 2^(-1 / 2n). Looking x up between these
        limits gives the same codes on every machine, which a float32 log2 does not. (Where the
        limits themselves are below 2^-126, float32 has too few digits for them.)
        """
        last = self.spec.qmax
        limits = self._powers(torch.arange(last, 0, -1) - 0.5)  # [2^k - 1], ascending
        below = torch.bucketize(x.contiguous(), limits, out_int32=True)
        return last - below

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return the float32 values of the codes."""
        values = self._powers(torch.arange(self.spec.qmax + 1))  # [2^k]
        values[-1] = 0.0
        return values.index_select(0, codes.reshape(-1)).reshape(codes.shape)

    def _powers(self, codes: Tensor) -> Tensor:
        """Return float32 s * 2^(-c / n), computed in float64 so that it is rounded once."""
        exponents = codes.double() / STEPS_PER_OCTAVE[self.spec.kind]
        return (self.scale.double() * torch.exp2(-exponents)).float()
