"""The rows of exported graphs are found again in an engine's layers by the names of their nodes."""

import json

import onnx
import pytest

from edgevit.calibration.methods import METHODS
from edgevit.calibration.run import calibrate
from edgevit.runner.engines.tensorrt.inspecting import layers_from_inspector
from edgevit.runner.engines.tensorrt.layer_table import product_rows
from edgevit.targets.registry import TARGETS


def engine_of(model):
    """An engine that fuses nothing: one layer per ONNX node, called as Myelin calls them."""
    types = {"MatMul": "gemm", "Conv": "gemm", "Gemm": "gemm"}
    layers = [
        {
            "Name": f"{node.name.replace('.', '_')}_myl0_{index}",
            "LayerType": types.get(node.op_type, "kgen"),
            "Metadata": f"[ONNX Layer: {node.name}]",
        }
        for index, node in enumerate(model.graph.node)
    ]
    return layers_from_inspector(json.dumps({"Layers": layers}))


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_every_product_is_found_as_a_matrix_product(name, request, images):
    target = TARGETS["jetson-orin-nano"]
    graph = target.prepare(request.getfixturevalue(name))
    placement = target.place(graph, weight_bits=8, act_bits=8)
    lowered = target.lower(calibrate(graph, placement, images, METHODS["minmax"]))
    model = onnx.load_from_string(lowered.onnx)
    layers = engine_of(model)
    kinds = {layer.name: layer.kind for layer in layers}
    rows = product_rows(lowered.layers, layers)
    assert len(rows) == len(lowered.layers) > 8
    assert {kinds.get(row.engine_layer) for row in rows} == {"gemm"}
    asked = {row.module: row.asked for row in rows}
    assert "int8" in asked.values()
    assert "float" in asked.values()  # the head and the patch embedding
