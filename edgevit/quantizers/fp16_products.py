"""Products in a float16 body, operator by operator as a strongly typed graph spells them.

``DequantizeLinear``, ``MatMul`` and ``Add`` each round their result to float16 (onnx.ai,
DequantizeLinear-19); sums are made in float32. An engine that fuses the three keeps more digits in
between: its outputs differ in the last digits of float16, its codes of equal inputs do not.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edgevit.quantizers.fp16 import round_to_half

Keep = Callable[[Tensor], Tensor]


def half_or_not(wide: bool) -> Keep:
    """Return what a product does to its results: nothing if it stays in float32, else round."""
    return (lambda x: x) if wide else round_to_half


def product(left: Tensor, right: Tensor, bias: Tensor | None, keep: Keep) -> Tensor:
    """Return left @ right, rounded before a bias is added; the sum with it is not rounded yet."""
    found = torch.matmul(left, right)
    return found if bias is None else keep(found) + bias
