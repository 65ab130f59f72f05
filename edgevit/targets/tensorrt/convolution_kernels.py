"""The limits of integer and FP8 kernels of convolutions, for placement and for rule 27.

Source: NVIDIA's Model-Optimizer, `find_nodes_from_convs_to_exclude`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

GRANULE, SMALLEST = 8, 16
LARGEST_FP8_KERNEL, SMALLEST_FP8_CHANNELS = 32, 16


def has_odd_channels(shape: Sequence[int]) -> bool:
    """Return whether a weight (O, C, ...) has channels that no integer kernel takes."""
    return any(count % GRANULE or count < SMALLEST for count in shape[:2])


def has_large_fp8_kernel(shape: Sequence[int]) -> bool:
    """Return whether a weight (O, C, kh, kw) has more taps than FP8 kernels."""
    return prod(shape[2:]) > LARGEST_FP8_KERNEL


def has_few_fp8_channels(shape: Sequence[int]) -> bool:
    """Return whether a weight (O, C, ...) has fewer channels than FP8 kernels take."""
    return min(shape[:2]) <= SMALLEST_FP8_CHANNELS
