"""Scales with which every float16 number gets one code, however an engine divides by the scale.

ONNX's QuantizeLinear divides, NVIDIA's compilers multiply by the reciprocal, and the two are not
always equal. There are only 65,536 float16 numbers, so a scale is tried on all of them, and one
next to it is taken where a code differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor

from edgevit.quantizers.fp16_range import HALF_MAX, SMALLEST_NORMAL

Nearest = Callable[[Tensor], Tensor]
"""Returns the codes of float32 quotients x / scale: a grid's rounding and clipping."""


@cache
def float16_numbers() -> Tensor:
    """Return all finite float16 numbers, both zeros among them, as float32 [63488]."""
    patterns = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    numbers = patterns.view(torch.float16).to(torch.float32)
    return numbers[torch.isfinite(numbers)]


def differing_codes(scale: Tensor, nearest: Nearest) -> int:
    """Return how many float16 numbers get another code by the reciprocal than by the division.

    Args:
        scale: float32 []; quotients, reciprocal and products are float32 too.
        nearest: What makes codes of quotients.
    """
    x = float16_numbers()
    return int((nearest(x / scale) != nearest(x * (1.0 / scale))).sum())


def exact_scale(scale: Tensor, nearest: Nearest) -> Tensor:
    """Return the normal float16 number nearest to float32 `scale` with no differing code.

    Powers of two always are such numbers; 990 of the 1,024 between two of them are, too, for 8
    bits, so that the first or one of its neighbours nearly always is.
    """
    return next(found for found in _outward(scale) if not differing_codes(found, nearest))


def power_of_two_from(scale: Tensor) -> Tensor:
    """Return the least power of two, a normal float16 number, that is not below float32 `scale`.

    Both division and reciprocal are exact with it, in float16 too.
    """
    scale = scale.clamp(SMALLEST_NORMAL, 2.0**15)
    mantissa, exponent = torch.frexp(scale)  # mantissa in [0.5, 1)
    return torch.ldexp(torch.ones(()), exponent - (mantissa == 0.5).to(exponent.dtype))


def _outward(scale: Tensor) -> Iterator[Tensor]:
    """Yield the positive normal float16 numbers, the nearest one first."""
    numbers = float16_numbers()
    numbers = numbers[(numbers >= SMALLEST_NORMAL) & (numbers <= HALF_MAX)]
    for index in (numbers - scale).abs().argsort(stable=True).tolist():
        yield numbers[index]
