"""The integer arithmetic behind a quantized product, exact and reproducible on any machine.

ONNX Runtime's MatMulIntegerToFloat computes ``float32(acc) * float32(s_a * s_b) + bias`` with an
int32 accumulator, each step rounded to float32; these functions give the same bits. The sums are
made by float32 matrix products over slices of K short enough that every partial sum is an integer
below 2^24, which float32 holds exactly in any order of addition.
"""

from __future__ import annotations

import torch
from torch import Tensor

_EXACT = 1 << 24  # every integer up to here is a float32
INT32_MAX = (1 << 31) - 1


def exact_matmul(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right for integer operands, exactly.

    Args:
        left: Integers of any dtype, [..., M, K].
        right: Integers of any dtype, [..., K, N].

    Returns:
        int32 [..., M, N].

    Raises:
        OverflowError: If a sum could leave int32.
    """
    left_max, right_max = _largest(left), _largest(right)
    depth = left.shape[-1]
    if depth * left_max * right_max > INT32_MAX:
        raise OverflowError(f"{depth} products of {left_max} x {right_max} may leave int32")
    step = max(_EXACT // max(left_max * right_max, 1), 1)
    left, right = left.to(torch.float32), right.to(torch.float32)
    if step >= depth:
        return torch.matmul(left, right).to(torch.int32)  # [..., M, N]
    acc = torch.zeros((), dtype=torch.int32)
    for start in range(0, depth, step):
        part = torch.matmul(left[..., start : start + step], right[..., start : start + step, :])
        acc = acc + part.to(torch.int32)  # [..., M, N]
    return acc


def _largest(x: Tensor) -> int:
    if x.numel() == 0:
        return 0
    low, high = torch.aminmax(x)
    return int(max(-low.item(), high.item()))


def rescale(acc: Tensor, scale: Tensor) -> Tensor:
    """Return float32(acc) * float32 scale: acc int32 [..., N], scale [] or [N]."""
    return acc.to(torch.float32) * scale
