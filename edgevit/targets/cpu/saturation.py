"""Attention products that stay exact on processors that add two 8-bit products in 16 bits.

On x86-64 without VNNI instructions ONNX Runtime multiplies u8 by s8 with VPMADDUBSW, which does so
and saturates (Intel, "Intel 64 and IA-32 Architectures Software Developer's Manual", volume 2); on
64-bit Arm without dot products the code -128 on the right, where the left has 0, is too large.
Weights the engine can turn into u8 itself, whose kernel adds in 32 bits
(`edgevit.runner.engines.onnxruntime.probe`); operands that it computes it can't. So attention at 8
bits gets a second form whose keys and values are u8 codes of the same integers. It is slower where
the first form is exact, so the runner tries which one is needed.
"""

from __future__ import annotations

from dataclasses import replace

from edgevit.quantizers.quantized_graph import (
    Grid,
    IntegerMatmul,
    QuantizedGraph,
    is_integer_matmul,
)

_TOP = (1 << 15) - 1


def may_saturate(layer: IntegerMatmul) -> bool:
    """Return whether two products of u8 and s8 codes may leave 16 bits on one of them."""
    low, high = (int(end) for end in layer.right.operand_range)
    too_large = 2 * _top(layer.left) * max(-low, high) > _TOP or low == -128
    return layer.right.spec.signed and too_large


def _top(grid: Grid) -> int:
    """Return the largest u8 code that stands for an operand."""
    return int(grid.operand_range[1]) + grid.operand_offset


def without_saturation(quantized: QuantizedGraph) -> QuantizedGraph | None:
    """Return the same integers with u8 keys and values where s8 ones may saturate.

    Returns:
        None if nothing has to change.
    """
    changed = {
        name: replace(layer, right=layer.right.unsigned())
        for name, layer in quantized.layers.items()
        if is_integer_matmul(layer) and may_saturate(layer)
    }
    if not changed:
        return None
    options = dict(quantized.placement.options)
    for gemm in quantized.graph.gemms:
        if gemm.name in changed:
            options[gemm.right.name] = (changed[gemm.name].right.spec,)
    placement = replace(quantized.placement, options=options)
    return replace(quantized, placement=placement, layers={**quantized.layers, **changed})
