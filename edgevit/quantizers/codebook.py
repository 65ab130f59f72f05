"""Codebook grids: 2^k levels anywhere on an 8-bit uniform grid.

A value is rounded to 8 bits first and then to the nearest of at most 2^k of those 256 codes. The
levels follow the tensor's distribution (Lloyd, "Least squares quantization in PCM", IEEE
Transactions on Information Theory 28(2), 1982; Max, IRE Transactions on Information Theory 6(1),
1960), and the operand stays a whole number of the fine step, so that products stay integer
products. An engine needs a table of 256 bytes
(written up to 16 times over, for its threads).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from edgevit.quantizers.base import Grid, Seen
from edgevit.quantizers.codebook_levels import best_levels
from edgevit.quantizers.ops import Ops, Value
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.uniform import UniformGrid

FINE_BITS = 8
FINE_LEVELS = 1 << FINE_BITS
SHARES = (1.1, 1.0, 0.84, 0.71, 0.59, 0.5, 0.35, 0.25)
"""Parts of the range seen that the fine grid is tried with; what lies outside is clipped."""


def fine_spec(spec: GridSpec) -> GridSpec:
    """Return the 8-bit uniform grid, of the same sign and symmetry, that values are rounded to."""
    return replace(spec, kind="uniform", bits=FINE_BITS)


def level_spec(spec: GridSpec) -> GridSpec:
    """Return the uniform grid that levels are taken from: the fine one, or its narrow middle."""
    return replace(spec, kind="uniform", bits=spec.level_bits)


@lru_cache(maxsize=1024)
def nearest_levels(levels: tuple[int, ...], qmin: int) -> Tensor:
    """Return int32 [256]: 8-bit code, less the least one `qmin`, to the index of its level.

    Halfway between two levels it is the lower one's.
    """
    codes = torch.arange(qmin, qmin + FINE_LEVELS, dtype=torch.int32)
    twice_middles = [a + b for a, b in itertools.pairwise(levels)]
    return torch.bucketize(2 * codes, torch.tensor(twice_middles), out_int32=True)


@dataclass(frozen=True, kw_only=True)
class CodebookGrid(Grid):
    """A calibrated codebook grid, one per tensor.

    Args:
        spec: kind "codebook"; sign and symmetry are those of the 8-bit grid.
        scale: float32 [], the fine step.
        zero_point: int32 [], of the 8-bit grid.
        levels: Ascending codes of `spec.level_bits` bits, at least one and at most 2^k.
    """

    zero_point: Tensor
    levels: tuple[int, ...]

    kinds = ("codebook",)

    def __post_init__(self) -> None:
        within, count = level_spec(self.spec), len(self.levels)
        if not 1 <= count <= 1 << self.spec.bits:
            raise ValueError(f"{count} levels do not fit {self.spec.bits} bits")
        ascending = all(a < b for a, b in itertools.pairwise(self.levels))
        if not ascending or self.levels[0] < within.qmin or self.levels[-1] > within.qmax:
            width = self.spec.level_bits
            raise ValueError(f"levels are not ascending {width}-bit codes: {self.levels}")

    @classmethod
    def fit(cls, spec: GridSpec, seen: Seen) -> CodebookGrid:
        """Return the codebook with the least weighted squared error."""
        within, found = level_spec(spec), []
        for share in SHARES:
            grid = UniformGrid.from_range(within, share * seen.low, share * seen.high)
            levels, error = best_levels(_moments(grid, seen), 1 << spec.bits)
            found.append((error * float(grid.scale) ** 2, grid, levels))
        _, grid, levels = min(found, key=lambda one: one[0])
        codes = tuple(level + within.qmin for level in levels)
        return cls(spec=spec, scale=grid.scale, zero_point=grid.zero_point, levels=codes)

    @property
    def fine(self) -> UniformGrid:
        """The 8-bit grid."""
        return UniformGrid(spec=fine_spec(self.spec), scale=self.scale, zero_point=self.zero_point)

    @property
    def table(self) -> Tensor:
        """int32 [256]: 8-bit code, less the least one, to its level."""
        return self._levels[self._nearest]

    def codes(self, x: Tensor) -> Tensor:
        """Return int32 codes of float32 x: indices of levels, below 2^k."""
        index = self.fine.codes(x) - fine_spec(self.spec).qmin
        return self._nearest[index.clamp_(0, FINE_LEVELS - 1)]  # NaN has no code

    def operand(self, codes: Tensor) -> Tensor:
        """Return the int32 integers, in fine steps, that a multiply-accumulate sees."""
        return self._levels[codes] - self.zero_point

    @property
    def operand_range(self) -> tuple[Tensor, Tensor]:
        """The least and the largest operand, int32 []."""
        return self.levels[0] - self.zero_point, self.levels[-1] - self.zero_point

    @property
    def operand_offset(self) -> int:
        """The number added to an operand to carry it in 8 bits."""
        return int(self.zero_point)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Return float32 x rounded to the grid; equals `dequantize(codes(x))` bit for bit.

        NaN stays NaN, as on a uniform grid.
        """
        fine = fine_spec(self.spec)
        values = (self.table - self.zero_point).to(torch.float32) * self.scale  # [256]
        codes = torch.div(x, self.scale).round_().add_(self.zero_point).clamp_(fine.qmin, fine.qmax)
        index = codes.sub_(fine.qmin).nan_to_num_(0.0).to(torch.int32).reshape(-1)
        return torch.where(x.isnan(), x, values.index_select(0, index).reshape(x.shape))

    def emit(self, ops: Ops[Value], x: Value) -> Value:
        """Describe the levels: the 8-bit grid's codes, looked up in the table."""
        codes = self.fine.emit(ops, x)
        return ops.look_up(codes, self.table, signed=self.spec.signed, name="level")

    @property
    def _levels(self) -> Tensor:
        return torch.tensor(self.levels, dtype=torch.int32, device=self.scale.device)

    @property
    def _nearest(self) -> Tensor:
        table = nearest_levels(self.levels, fine_spec(self.spec).qmin)
        return table.to(self.scale.device)

    def label(self) -> str:
        """Return a short name with the number of levels."""
        return f"{self.spec.kind} {len(self.levels)}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return {
            **super().to_dict(),
            "zero_point": self.zero_point.tolist(),
            "levels": list(self.levels),
        }


def _moments(grid: UniformGrid, seen: Seen) -> Tensor:
    """Return float64 [3, 2^bits]: of each code, weight, weighted sum and squares of what it takes.

    Values are in fine steps, counted from the least code.
    """
    centers = seen.centers
    codes = (grid.codes(centers) - grid.spec.qmin).long()  # [BINS]
    values = centers.double() / float(grid.scale) + float(grid.zero_point) - grid.spec.qmin
    powers = torch.stack([values**0, values, values**2]) * seen.counts  # [3, BINS]
    return torch.zeros(3, 1 << grid.spec.bits, dtype=torch.float64).index_add_(1, codes, powers)
