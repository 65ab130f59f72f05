"""What is said of each product, on engines in the inspector's form."""

import json

from edgevit.runner.engines.tensorrt.inspecting import layers_from_inspector
from edgevit.runner.engines.tensorrt.layer_table import product_rows, summary


def layer(name, precision, *, kind="gemm", inputs=("x",), outputs=("y",), nodes=(), tactic=""):
    def operand(item):
        return {"Name": item, "Dimensions": [1, 4], "Format/Datatype": precision}

    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [operand(item) for item in inputs],
        "Outputs": [operand(item) for item in outputs],
        "TacticName": tactic,
        "Metadata": "".join(f"[ONNX Layer: {node}]" for node in nodes),
    }


def product(name, **more):
    row = {"name": name, "module": name.replace("/", "."), "left_bits": 8, "right_bits": 8}
    return {**row, "carrier": "s8 x s8", "kernel": "Q/DQ", **more}


LAYERS = layers_from_inspector(
    json.dumps(
        {
            "Layers": [
                layer("blocks_0/qkv_myl0_1", "Int8", nodes=["blocks.0/qkv"], tactic="gemm_i8i8"),
                layer("cast", "Half", kind="Reformat", outputs=("z",)),
                layer("blocks_0/fc1_myl0_3", "Half", inputs=("z",), nodes=["blocks.0/fc1"]),
                layer("blocks_0/fc2_myl0_4", "Half", inputs=("w",), nodes=["blocks.0/fc2"]),
                layer("blocks_0/fc3", "Int8", nodes=["blocks.0/fc3"], tactic="gemm_f16f16"),
                layer("_gemm_mha_v2_myl0_5", "Half", kind="kgen", nodes=["blocks.0/qk"]),
                layer("weights", "Half", kind="Constant"),
            ]
        }
    )
)
PRODUCTS = [
    product("blocks.0/qkv"),
    product("blocks.0/fc1"),
    product("blocks.0/fc2"),
    product("blocks.0/fc3"),
    product("blocks.0/gone"),
    {"name": "blocks.0/qk", "module": "blocks.0.attn", "kernel": "float32"},
]
TIMES_MS = {
    "blocks_0/qkv_myl0_1": 0.1,
    "cast": 0.02,
    "blocks_0/fc1_myl0_3": 0.2,
    "blocks_0/fc2_myl0_4": 0.3,
    "blocks_0/fc3": 0.4,
    "_gemm_mha_v2_myl0_5": 0.05,
}


def test_each_product_says_what_was_asked_chosen_and_why_not():
    rows = {row.name: row for row in product_rows(PRODUCTS, LAYERS, TIMES_MS)}
    qkv = rows["blocks.0/qkv"]
    assert (qkv.asked_bits, qkv.asked, qkv.chosen, qkv.reason) == ("8 x 8", "int8", "int8", "")
    assert qkv.time_ms == 0.1
    assert qkv.kernel == "gemm_i8i8"
    assert rows["blocks.0/fc1"].reason == "reformat: its input is converted to fp16 first"
    assert "did not fuse" in rows["blocks.0/fc2"].reason
    assert "no kernel: int8 input" in rows["blocks.0/fc3"].reason
    assert rows["blocks.0/gone"].reason.startswith("fused away")
    assert rows["blocks.0/gone"].time_ms is None
    assert (rows["blocks.0/qk"].asked, rows["blocks.0/qk"].reason) == ("float", "")
    assert json.dumps([row.to_dict() for row in rows.values()])


def test_an_engine_in_numbers():
    rows = product_rows(PRODUCTS, LAYERS, TIMES_MS)
    found = summary(rows, LAYERS, TIMES_MS)
    assert (found.kernels, found.moves, found.attention) == (6, 1, 1)  # the constant does not run
    assert (found.asked_low, found.got_low) == (5, 1)
    assert round(found.missed_ms, 3) == 0.9
    assert round(found.total_ms, 3) == 1.07
    assert found.moves_ms == 0.02


def test_without_a_profile_times_are_unknown_and_not_zero():
    rows = product_rows(PRODUCTS, LAYERS)
    found = summary(rows, LAYERS)
    assert {row.time_ms for row in rows} == {None}
    assert found.total_ms is None
    assert found.moves_ms is None


def test_a_linear_layer_is_its_product_and_not_the_addition_of_its_bias():
    """The bias may be fused into the LayerNorm that follows; the recording of BERT shows it."""
    layers = layers_from_inspector(
        json.dumps(
            {
                "Layers": [
                    layer("linear_1_product_myl0_1", "Int8", nodes=["linear_1_product"]),
                    layer("__myl_AddMeanSub_myl0_2", "Half", kind="kgen", nodes=["linear_1"]),
                ]
            }
        )
    )
    (row,) = product_rows([product("linear_1", tensor="linear_1")], layers)
    assert (row.chosen, row.engine_layer) == ("int8", "linear_1_product_myl0_1")


def test_fp8_is_not_taken_for_int8():
    layers = layers_from_inspector(json.dumps({"Layers": [layer("a", "FP8", nodes=["a"])]}))
    (row,) = product_rows([product("a", carrier="f8 x f8")], layers)
    assert (row.asked, row.chosen, row.reason) == ("fp8", "fp8", "")
    (row,) = product_rows([product("a")], layers)
    assert row.reason == "runs in fp8"
