"""The integer arithmetic behind a quantized product, exact and reproducible on any machine.

ONNX Runtime's MatMulIntegerToFloat computes ``float32(acc) * float32(s_a * s_b) + bias`` with an
int32 accumulator, each step rounded to float32; these functions give the same bits. The sums are
made by float32 matrix products over slices of K short enough that every partial sum is an integer
below 2^24, which float32 holds exactly in any order of addition. Where torch has been allowed to
round the operands of such products to TF32 or bfloat16, they are float64 products instead.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

_EXACT = 1 << 24  # every integer up to here is a float32
_ONEDNN_MODES = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")
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
    largest = left_max * right_max
    on_cpu = left.device.type == "cpu"  # elsewhere nobody has checked what float32 does
    if largest > _EXACT or not (on_cpu and float32_products_are_exact()):
        # every sum is below 2^31, far below the 2^53 that float64 holds
        return torch.matmul(left.to(torch.float64), right.to(torch.float64)).to(torch.int32)
    step = max(_EXACT // max(largest, 1), 1)
    left, right = left.to(torch.float32), right.to(torch.float32)
    if step >= depth:
        return torch.matmul(left, right).to(torch.int32)  # [..., M, N]
    acc = torch.zeros((), dtype=torch.int32)
    for start in range(0, depth, step):
        part = torch.matmul(left[..., start : start + step], right[..., start : start + step, :])
        acc = acc + part.to(torch.int32)  # [..., M, N]
    return acc


def float32_products_are_exact() -> bool:
    """Return whether torch multiplies float32 matrices on the CPU without rounding operands first.

    Settings of the process that allow TF32 or bfloat16 there: `set_float32_matmul_precision`,
    `torch.backends.mkldnn.matmul.fp32_precision` and what it inherits from, autocast, and oneDNN's
    environment variable. Whether this processor would make use of them is not asked.
    """
    if torch.is_autocast_enabled("cpu"):
        return False
    if any(os.environ.get(name, "STRICT").upper() != "STRICT" for name in _ONEDNN_MODES):
        return False
    onednn: Any = torch.backends.mkldnn  # torch's types do not know its settings
    return onednn.matmul.fp32_precision in {"none", "ieee"}


def _largest(x: Tensor) -> int:
    if x.numel() == 0:
        return 0
    low, high = torch.aminmax(x)
    return int(max(-low.item(), high.item()))


def rescale(acc: Tensor, scale: Tensor) -> Tensor:
    """Return float32(acc) * float32 scale: acc int32 [..., N], scale [] or [N]."""
    return acc.to(torch.float32) * scale
