"""The protocol of every number grid: rounding, codes and, where it has them, integers to add up.

Calibration, simulation and targets know no other thing about a grid than what is said here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from edgevit.quantizers.ops import Ops, Value
from edgevit.quantizers.spec import GridSpec


@dataclass(frozen=True, kw_only=True)
class Grid(ABC):
    """A calibrated number grid.

    One with integer sums says which integer stands for each code (`operand`); a product is then
    the sum of integer products times one step. One without is simulated: its products are float32
    ones of the values it rounds to.

    Args:
        spec: Kind, width and options.
        scale: float32 [], or [C] for one per index of axis 0; what training changes.
    """

    spec: GridSpec
    scale: Tensor

    has_integer_sums: ClassVar[bool] = True
    """Whether every value is a whole number of one step (`unit`)."""
    has_half_form: ClassVar[bool] = False
    """Whether a device with a float16 body runs it, with its scale rounded to float16."""

    @abstractmethod
    def codes(self, x: Tensor) -> Tensor:
        """Return the codes of float32 x, as whole numbers."""

    def operand(self, codes: Tensor) -> Tensor:
        """Return the int32 integers, in steps of `unit`, that a multiply-accumulate sees.

        Raises:
            TypeError: The grid has no integer sums.
        """
        raise self._no_integers()

    @property
    def operand_range(self) -> tuple[Any, Any]:
        """The least and the largest operand, whole numbers or int32 of the scale's shape."""
        raise self._no_integers()

    @property
    def operand_offset(self) -> int:
        """The number added to an operand to carry it in 8 bits."""
        return 0

    @property
    def codes_are_operands(self) -> bool:
        """True if a code is its own operand."""
        return False

    @property
    def unit(self) -> Tensor:
        """The value of one operand step, or of the number 1: float32 of the scale's shape."""
        return self.scale

    @property
    def carrier(self) -> str:
        """The 8-bit type that holds a number at run time: "s8", "u8" or "f8"."""
        return self.spec.carrier

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return the float32 values of the codes."""
        return self.operand(codes).to(torch.float32) * self.scale

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Return float32 x rounded to the grid."""
        return self.dequantize(self.codes(x))

    def emit(self, ops: Ops[Value], x: Value) -> Value:
        """Describe how x is rounded: return `operand(codes(x)) + operand_offset` in 8 bits.

        Args:
            ops: What a target writes, or a test computes.
            x: A float32 tensor of the target's graph.

        Raises:
            TypeError: The grid is simulated only, or the target has no form of an operation.
        """
        raise TypeError(f"a {self.spec.kind} grid is simulated only")

    def label(self) -> str:
        """Return a short name for tables."""
        return self.spec.label()

    def unsigned(self) -> Grid:
        """Return the grid with the same operands in unsigned codes.

        Raises:
            TypeError: It is not known how.
        """
        raise TypeError(f"{self.spec.label()} operands reach farther than 7 bits in s8")

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return {**self.spec.to_dict(), "scale": self.scale.tolist()}

    def _no_integers(self) -> TypeError:
        return TypeError(f"a {self.spec.kind} grid has no integer sums")


AnyGrid = TypeVar("AnyGrid", bound=Grid)
