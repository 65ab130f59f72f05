"""Lists of kernels recorded from NVIDIA's compiler; see recorded/README.md."""

import json

import pytest

from edgevit.errors import DeviceError
from edgevit.runner.engines.tensorrt.inspecting import EngineLayer, LayerOperand
from edgevit.runner.engines.tensorrt.kernel_table import KernelTable, kernel_table
from edgevit.runner.engines.tensorrt.layer_list import layers_from_log
from edgevit.runner.engines.tensorrt.layer_table import product_rows


def linear(name, carrier="s8 x s8"):
    return {"name": name, "carrier": carrier, "kernel": "Q/DQ", "tensor": name}


@pytest.fixture
def layers(recorded):
    return layers_from_log(recorded("vit_int8.layers.txt"))


def test_every_field_of_a_kernel(layers):
    assert len(layers) == 16  # without heading, ends and metadata
    gemm = layers[4]
    assert gemm.kind == "gemm"
    assert gemm.inputs == (LayerOperand("__myln_k_arg__bb1_11_myl0", "int8", (-1, 128)),)
    assert [(one.precision, one.shape) for one in gemm.constants] == [
        ("int8", (128, 384)),
        ("fp32", (1,)),
        ("fp32", (1,)),
    ]
    assert [(one.precision, one.shape) for one in gemm.outputs] == [("fp16", (-1, 384))]
    assert gemm.tactic == "__myelin_CASK_STUB"
    assert gemm.onnx_nodes[0] == "linear_default_2_product"
    assert layers[0] == EngineLayer(layers[0].name, "shape_call")


def test_three_products_are_one_integer_kernel(layers):
    rows = product_rows([linear(name) for name in ("linear_default", "linear_2")], layers)
    assert [(row.chosen, row.reason) for row in rows] == [("int8", ""), ("int8", "")]
    # its scale and bias stand in the kernel that follows, which is not the product
    assert rows[0].kernel == rows[1].kernel == "__myelin_CASK_STUB"


def test_codes_that_meet_a_float_weight_are_no_integer_product(recorded):
    layers = layers_from_log(recorded("vit_int8_qkv_whole.layers.txt"))
    rows = product_rows([linear("linear_1"), linear("linear_2")], layers)
    assert [row.chosen for row in rows] == ["fp16", "int8"]
    assert rows[0].engine_layer.startswith("__myl_CastMulFc")
    assert rows[0].reason


def test_attention_is_in_the_precision_of_its_operands(recorded):
    attention = [linear("matmul"), linear("matmul_1")]
    eighth = layers_from_log(recorded("vit_int8_attention.layers.txt"))
    assert [row.chosen for row in product_rows(attention, eighth)] == ["int8", "int8"]
    half = layers_from_log(recorded("vit_int8.layers.txt"))
    assert [row.chosen for row in product_rows(attention, half)] == ["fp16", "fp16"]


def test_a_table_comes_back_from_json(layers):
    table = KernelTable("int8", "tensorrt_rtx 1.7.1.116", ("SM89",), 16, layers, "0" * 64)
    assert kernel_table(json.loads(json.dumps(table.to_dict()))) == table


@pytest.mark.parametrize("text", ["", "Layers:", "Layers:\nName: a, LayerType", "no list"])
def test_what_is_no_list_is_refused(text):
    with pytest.raises(DeviceError) as caught:
        layers_from_log(text)
    assert caught.value.code == "EV765"
