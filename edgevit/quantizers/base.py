"""The protocol of every number grid: rounding, codes and, where it has them, integers to add up.

Calibration, simulation and targets know no other thing about a grid than what is said here. A kind
of grid is a class with `kinds` in a file of this folder; it is found by being there.
"""

from __future__ import annotations

import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from edgevit import quantizers
from edgevit.graph.roles import Role
from edgevit.quantizers.ops import Ops, Value
from edgevit.quantizers.spec import GridSpec

BEAM, HALVINGS = 4, 5
"""Searches from coarse to fine: candidates kept each time, and times their distance is halved."""


class Seen(Protocol):
    """The values of a tensor, as a weighted histogram."""

    low: float
    high: float
    counts: Tensor
    """float64 [BINS]: the weight of each bin."""

    @property
    def centers(self) -> Tensor:
        """float32 [BINS]: the value each bin stands for."""


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

    kinds: ClassVar[tuple[str, ...]]
    """The kinds of specification it is made from, see `GridSpec.kind`."""
    has_integer_sums: ClassVar[bool] = True
    """Whether every value is a whole number of one step (`unit`)."""
    has_half_form: ClassVar[bool] = False
    """Whether a device with a float16 body runs it, with its scale rounded to float16."""

    needs_histogram: ClassVar[bool] = True
    """Whether `fit` looks at more than the ends of what was seen."""

    @classmethod
    def specs_at(cls, role: Role, bits: int) -> tuple[GridSpec, ...]:
        """Return what a target that runs every grid offers at a site of this role."""
        return ()

    @classmethod
    def from_range(cls, spec: GridSpec, low: float, high: float) -> Grid:
        """Return the grid that covers [low, high].

        Raises:
            TypeError: A range does not settle it.
        """
        raise TypeError(f"a {spec.kind} grid is not settled by a range")

    @classmethod
    @abstractmethod
    def fit(cls, spec: GridSpec, seen: Seen) -> Grid:
        """Return the grid of this specification with the least weighted squared error."""

    def error(self, seen: Seen) -> float:
        """Return the weighted squared error of rounding what was seen."""
        centers = seen.centers
        return float((seen.counts * (centers - self.fake_quantize(centers)).double() ** 2).sum())

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

    def exact_scale(self) -> Tensor:
        """Return the float16 scale near its own with which codes don't depend on the engine.

        Raises:
            TypeError: The grid has no float16 form.
        """
        raise TypeError(f"a {self.spec.kind} grid has no float16 form")

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


def grid_class(kind: str) -> type[Grid]:
    """Return the class that makes grids of a kind.

    Raises:
        ValueError: There is none.
    """
    if kind not in grid_classes():
        raise ValueError(f"no grid is of kind {kind!r}: {', '.join(grid_classes())}")
    return grid_classes()[kind]


@cache
def grid_classes() -> Mapping[str, type[Grid]]:
    """Return kind -> class of every grid in this folder, by the names of their files.

    Raises:
        ValueError: Two classes are of one kind.
    """
    found: dict[str, type[Grid]] = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(quantizers.__path__)):
        module = import_module(f"{quantizers.__name__}.{name}")
        for made in vars(module).values():
            if _is_kind(made) and made.__module__ == module.__name__:
                for kind in made.kinds:
                    if found.setdefault(kind, made) is not made:
                        raise ValueError(f"two grids are of kind {kind!r}")
    return found


def _is_kind(made: Any) -> bool:
    is_class = issubclass(type(made), type)  # on Python 3.10 `isinstance(list[int], type)` holds
    is_grid = is_class and issubclass(made, Grid)
    return is_grid and not inspect.isabstract(made)
