"""One row per product of a lowered graph, as manifests and reports show them.

Convolutions that no calibration knows have rows too: what stays in float is counted and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch.fx import Node

from edgevit.graph.model import Gemm
from edgevit.graph.multiply_adds import counted_nodes, multiply_adds_of
from edgevit.graph.operators import aten
from edgevit.graph.shapes import args_of, shape_of
from edgevit.graph.sites import weight_owner
from edgevit.graph.window import convolution_arguments
from edgevit.quantizers.quantized_graph import QuantizedGraph

Row = dict[str, Any]
Unplaced = Literal["depthwise", "grouped", "transposed", "computed"]
"""What a product is that no target places: a convolution in as many groups as its input has
channels, in other groups, or transposed; or a weight that is no constant."""


def layer_rows(
    quantized: QuantizedGraph,
    *,
    kernels: Mapping[str, str],
    tensors: Mapping[str, str],
    in_float: Callable[[str], Row],
    unplaced: Mapping[Unplaced, str],
) -> list[Row]:
    """Return the rows: name, module, bits asked, grid, carrier, kernel and output of each product.

    Args:
        kernels: Name of a quantized product -> what computes it in the engine.
        tensors: Name of a quantized product -> its output in the engine's graph.
        in_float: Returns kernel and further keys of a product in float, given its name.
        unplaced: Why products stay in float that have no sites.
    """
    gemms = {gemm.name: gemm for gemm in quantized.graph.gemms}
    rows = []
    for node in counted_nodes(quantized.graph):
        gemm = gemms.get(node.name)
        row = _unplaced_head(node) if gemm is None else _head(quantized, gemm)
        row["multiply_adds"] = multiply_adds_of(node)
        if gemm is None:
            row |= {**in_float(node.name), "reason": unplaced[_unplaced_kind(node)]}
        elif gemm.name in quantized.layers:
            row |= _grids(quantized, gemm)
            row |= {"kernel": kernels[gemm.name], "tensor": tensors[gemm.name]}
        else:
            reason = quantized.placement.skipped.get(gemm.left.name, "")
            row |= {**in_float(gemm.name), "reason": reason}
        rows.append(row)
    return rows


def _head(quantized: QuantizedGraph, gemm: Gemm) -> Row:
    return {
        "name": gemm.name,
        "module": gemm.module,
        "kind": gemm.kind,
        "parameters": 0 if gemm.weight is None else quantized.graph.weight(gemm).numel(),
    }


def _unplaced_head(node: Node) -> Row:
    weight = args_of(node)[1]
    constant = weight.op == "get_attr"
    is_conv = node.target in {aten.conv2d.default, aten.conv_transpose2d.input}
    return {
        "name": node.name,
        "module": weight_owner(node),
        "kind": "conv" if is_conv else "linear",
        "parameters": _elements(weight) if constant else 0,
    }


def _elements(weight: Node) -> int:
    count = 1
    for size in shape_of(weight):
        count *= size
    return count


def _unplaced_kind(node: Node) -> Unplaced:
    if node.target is aten.conv_transpose2d.input:
        return "transposed"
    if args_of(node)[1].op != "get_attr" or node.target is not aten.conv2d.default:
        return "computed"
    groups = convolution_arguments(node)[-1]
    return "depthwise" if groups == shape_of(args_of(node)[0])[1] else "grouped"


def _grids(quantized: QuantizedGraph, gemm: Gemm) -> Row:
    layer = quantized.layers[gemm.name]
    left, right = layer.grids
    return {
        "left_bits": left.spec.bits,
        "right_bits": right.spec.bits,
        "weight_bits": right.spec.bits if layer.is_linear else None,
        "grid": left.label(),
        "carrier": f"{left.carrier} x {right.carrier}",
    }
