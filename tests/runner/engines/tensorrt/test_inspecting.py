"""Inspector texts recorded from public sources; see recorded/README.md."""

import json

import pytest

from edgevit.errors import DeviceError
from edgevit.runner.engines.tensorrt.inspecting import (
    EngineLayer,
    LayerOperand,
    attention_kernels,
    layers_from_inspector,
    precision_from_format,
)


@pytest.fixture
def resnet(recorded):
    return layers_from_inspector(recorded("resnet_qat_a100.layers.json"))


@pytest.fixture
def bert(recorded):
    return layers_from_inspector(recorded("bert_myelin_a100.layers.json"))


def test_tensors_of_a_convolution(resnet):
    layer = resnet[1]
    assert layer.kind == "CaskConvolution"
    assert layer.precision == "int8"  # although its kernel is called "ampere_fp32_icudnn_int8x4"
    assert layer.inputs[0].precision == "int8"
    assert layer.outputs[0].precision == "fp32"
    assert layer.outputs[0].shape == (32, 64, 112, 112)
    assert layer.onnx_nodes == ("conv1.weight", "QuantizeLinear_7", "Conv_9")


def test_what_only_moves_data(resnet, bert):
    moving = [layer.name for layer in resnet if layer.only_moves]
    assert moving == [
        "QuantizeLinear_2",
        "Reformatting CopyNode for Output Tensor 0 to MaxPool_12",
        "QuantizeLinear_15",
        "QuantizeLinear_40",
    ]
    assert not any(layer.only_moves for layer in bert)
    assert EngineLayer("__myl_MoveReshTran_myl3_7").only_moves
    assert not EngineLayer("__myl_AddCastMeanSubMul_myl0_8").only_moves


def test_myelin_layers_name_their_onnx_nodes(bert):
    gemm, norm, qkv, attention = bert
    assert gemm.onnx_nodes[0] == "/encoder/layers.0/pos_ff/output/MatMul"
    assert norm.onnx_nodes[-1].endswith("LayerNormalization")
    assert len(qkv.onnx_nodes) == 6
    assert {layer.precision for layer in bert} == {"fp16"}
    assert [layer.is_attention for layer in bert] == [False, False, False, True]
    assert attention.onnx_nodes == ("/encoder/layers.2/mha/attn/MatMul",)
    assert attention_kernels(bert) == 1


def test_codes_that_are_dequantized_inside_a_kernel_are_multiplied_as_floats():
    codes = (LayerOperand("x", "int8", (-1, 64)), LayerOperand("w", "int8", (64, 64)))
    sums = (LayerOperand("y", "fp16", (-1, 64)),)
    kinds = {"__myl_CastMulCastMulCastFc_myl0_10": "fp16", "proj.product_myl0_10": "int8"}
    for name, precision in kinds.items():
        layer = EngineLayer(name, "runtime_fusion", codes[:1], codes[1:], sums)
        assert layer.holds_product
        assert layer.precision == precision
    assert EngineLayer("patch_myl0_2", "correlation").holds_product


def test_an_engine_without_details_lists_names(recorded):
    text = json.dumps({"Layers": ["a/MatMul + b/Add", "Reformatting CopyNode for x", "c_myl0_3"]})
    layers = layers_from_inspector(text)
    assert layers[0].onnx_nodes == ("a/MatMul", "b/Add")
    assert layers[0].precision == ""
    assert layers[1].only_moves
    assert layers[2].onnx_nodes == ("c",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Row major linear FP32", "fp32"),
        ("Row major linear FP16 format", "fp16"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("Half", "fp16"),
        ("HALF", "fp16"),
        ("INT8", "int8"),
        ("FP8", "fp8"),
        ("BFloat16", "bf16"),
        ("Float", "fp32"),
        ("Int32", "int32"),
        ("", ""),
    ],
)
def test_spellings_of_types(text, expected):
    assert precision_from_format(text) == expected


def test_a_hash_in_a_kernel_name_is_no_precision():
    layer = EngineLayer("x", tactic="_gemm_mha_v2_0xbf16ac1f16f16b0a")
    assert layer.precision == ""


@pytest.mark.parametrize("text", ["", "[]", '{"Layers": 3}', '{"Layers": [{}]}', '{"Lay'])
def test_damaged_texts_are_refused(text):
    with pytest.raises(DeviceError, match="EV765"):
        layers_from_inspector(text)
