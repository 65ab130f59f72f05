"""One row per product of a lowered graph, as manifests and reports show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgevit.graph.model import Gemm
from edgevit.quantizers.quantized_graph import QuantizedGraph

Row = dict[str, Any]


def layer_rows(
    quantized: QuantizedGraph,
    *,
    kernels: Mapping[str, str],
    tensors: Mapping[str, str],
    in_float: Callable[[str], Row],
) -> list[Row]:
    """Return the rows: name, module, bits asked, grid, carrier, kernel and output of each product.

    Args:
        kernels: Name of a quantized product -> what computes it in the engine.
        tensors: Name of a quantized product -> its output in the engine's graph.
        in_float: Returns kernel and further keys of a product in float, given its name.
    """
    rows = []
    for gemm in quantized.graph.gemms:
        stored = quantized.graph.stored(gemm)
        row = {
            "name": gemm.name,
            "module": gemm.module,
            "kind": gemm.kind,
            "parameters": 0 if stored is None else stored.numel(),
        }
        if gemm.name in quantized.layers:
            row |= _grids(quantized, gemm)
            row |= {"kernel": kernels[gemm.name], "tensor": tensors[gemm.name]}
        else:
            reason = quantized.placement.skipped.get(gemm.left.name, "")
            row |= {**in_float(gemm.name), "reason": reason}
        rows.append(row)
    return rows


def _grids(quantized: QuantizedGraph, gemm: Gemm) -> Row:
    layer = quantized.layers[gemm.name]
    left, right = layer.grids
    stored = 1 if layer.is_linear else gemm.constant
    return {
        "left_bits": left.spec.bits,
        "right_bits": right.spec.bits,
        "weight_bits": None if stored is None else (left, right)[stored].spec.bits,
        "grid": left.label(),
        "carrier": f"{left.carrier} x {right.carrier}",
    }
