"""The protocol of a quantized product: two grids, two rounded operands, and what comes of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from edgevit.quantizers.base import Grid
from edgevit.quantizers.fp16 import exact_grid


class Layer(ABC):
    """A quantized product of two operands; of a linear the second is its weight."""

    is_linear: ClassVar[bool]
    has_integer_sums: ClassVar[bool]
    """Whether it adds up integers (`sums`), else float32 products of rounded values."""
    bias: Tensor | None
    """float32 [out] of a linear, else None."""

    @property
    @abstractmethod
    def grids(self) -> tuple[Grid, Grid]:
        """The grids of the left operand, and of the right one or the weight."""

    @property
    def input_grids(self) -> tuple[Grid, ...]:
        """The grids of the operands that are tensors at run time."""
        return self.grids[:1] if self.is_linear else self.grids

    @property
    def runs_in_integers(self) -> bool:
        """True if engines have an integer kernel for it."""
        return self.has_integer_sums

    @abstractmethod
    def rounded(self, left: Tensor, right: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the float32 values of both operands, the second a linear's weight [out, in].

        Args:
            left: float32 [..., M, K].
            right: float32 [..., K, N]; of a linear None.
        """

    @abstractmethod
    def __call__(self, left: Tensor, right: Tensor | None = None) -> Tensor:
        """Return the float32 product [..., M, N], with a linear's bias."""

    @abstractmethod
    def in_float16(self) -> Layer:
        """Return the layer as a device with a float16 body computes it.

        Raises:
            TypeError: Its grids have no float16 form.
        """

    def tensors(self) -> dict[str, Tensor]:
        """Return what is stored of it and may be trained, by name; nothing if it is not trained."""
        return {}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Layer:
        """Return the layer with other tensors than its own `tensors()`."""
        raise TypeError(f"{type(self).__name__} is not trained")


@dataclass(frozen=True, kw_only=True)
class Linear(Layer):
    """A quantized linear layer, in whichever form its weight is kept.

    Args:
        grid: The input's grid.
        weight_grid: The weight's grid.
        bias: float32 [out].
    """

    grid: Grid
    weight_grid: Grid
    bias: Tensor

    is_linear = True

    @property
    def grids(self) -> tuple[Grid, Grid]:
        """The grids of input and weight."""
        return self.grid, self.weight_grid

    @abstractmethod
    def weight_values(self) -> Tensor:
        """Return the rounded weight, float32 [out, in]."""

    def rounded(self, left: Tensor, right: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return rounded input [..., in] and weight [out, in], float32."""
        return self.grid.fake_quantize(left), self.weight_values()


@dataclass(frozen=True, kw_only=True)
class Matmul(Layer):
    """A product of two activations."""

    left: Grid
    right: Grid

    is_linear = False
    bias = None

    @property
    def grids(self) -> tuple[Grid, Grid]:
        """The grids of both operands."""
        return self.left, self.right

    def rounded(self, left: Tensor, right: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the rounded operands, as float32 [..., M, K] and [..., K, N]."""
        return self.left.fake_quantize(left), self.right.fake_quantize(present(right))

    def in_float16(self) -> Matmul:
        """Return the product with exact float16 scales."""
        return replace(self, left=exact_grid(self.left), right=exact_grid(self.right))


def present(right: Tensor | None) -> Tensor:
    """Return the second operand of a product of two activations; ValueError if it is missing."""
    if right is None:
        raise ValueError("a product of two activations without the second")
    return right
