"""The few operations in which a grid describes how an operand is rounded to 8-bit numbers.

A grid knows no engine: a target gives each operation the form that its engine runs
(`Grid.emit`), and a test computes them in NumPy to hold the description against the codes.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from torch import Tensor

Value = TypeVar("Value")
"""Whatever a target's graph calls the output of an operation, such as a tensor's name."""


class Ops(Generic[Value]):
    """Operations on one operand. Names tell the outputs of one description apart.

    A target writes those that its engine has an exact form for; the others raise TypeError.
    """

    def number(self, value: Tensor, name: str) -> Value:
        """Return a constant of the operand, float32 []."""
        raise self._refused("number")

    def quantize(
        self,
        x: Value,
        scale: Value,
        *,
        zero: int = 0,
        low: int = 0,
        high: int = 255,
        signed: bool = False,
        name: str = "",
    ) -> Value:
        """Return 8-bit integers round(x / scale) + zero, clipped to [low, high].

        Args:
            x: float32.
            scale: A `number`.
            signed: They are s8, else u8.
        """
        raise self._refused("quantize")

    def quantize_float8(self, x: Value, scale: Value) -> Value:
        """Return float32 x / scale, clipped and rounded to E4M3."""
        raise self._refused("quantize_float8")

    def dequantize(self, codes: Value, scale: Value, *, name: str) -> Value:
        """Return float32 codes * scale of u8 codes."""
        raise self._refused("dequantize")

    def clip_positive(self, x: Value, high: Value, *, name: str) -> Value:
        """Return float32 x clipped to [0, high]."""
        raise self._refused("clip_positive")

    def less(self, x: Value, limit: Value, *, name: str) -> Value:
        """Return whether float32 x is below a limit."""
        raise self._refused("less")

    def where(self, condition: Value, then: Value, otherwise: Value, *, name: str) -> Value:
        """Return float32 `then` where a condition holds, else `otherwise`."""
        raise self._refused("where")

    def look_up(self, codes: Value, table: Tensor, *, signed: bool, name: str) -> Value:
        """Return the 8-bit integers that a table of 256 has for 8-bit codes, least code first."""
        raise self._refused("look_up")

    def _refused(self, operation: str) -> TypeError:
        return TypeError(f"{type(self).__name__} has no exact form of {operation!r}")
