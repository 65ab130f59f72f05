"""For every rule a graph that breaks it, by one change to a graph that keeps all of them."""

from functools import cache

import numpy as np
import pytest
from fused_transformer import FusedTransformer
from onnx import TensorProto, helper
from small_transformer import (
    HEADS,
    TOKENS,
    WIDTH,
    Transformer,
    change,
    copied,
    insert,
    node_named,
    put,
    rounded,
    unrounded,
    without,
)

from edgevit.targets.tensorrt.conformance import RULES, BuildFacts, GraphParity, check_onnx
from edgevit.targets.tensorrt.profiles import PROFILES

FP8, BF16, INT4 = TensorProto.FLOAT8E4M3FN, TensorProto.BFLOAT16, TensorProto.INT4
CASES = []


@cache
def _built(arguments):
    return Transformer(**dict(arguments)).model()


def small(**arguments):
    """A fresh copy of the conforming model."""
    return copied(_built(tuple(arguments.items())))


def breaks(number, level, node, *, target="tensorrt", keep=None, facts=None, tensorrt=None):
    """Enter a maker of a graph that breaks a rule at a node.

    Args:
        keep: Arguments of the model that keeps the rule, `small()` if left out.
        facts, tensorrt: What both are checked with; for facts a pair (breaking, keeping).
    """

    def enter(make):
        case = (number, level, node, make, target, keep or {}, facts, tensorrt)
        CASES.append(pytest.param(*case, id=f"{number}-{make.__name__}"))
        return make

    return enter


def found(model, number, target, facts, tensorrt):
    report = check_onnx(model, PROFILES[target], facts=facts, tensorrt=tensorrt)
    return [(f.level.value, f.node) for f in report.findings if f.rule == number]


# File and operators


@breaks(1, "E", "graph")
def opset_too_new():
    model = small()
    model.opset_import[0].version = 21
    return model


@breaks(1, "E", "graph", tensorrt=("10.9", "10.10"), keep={"opset": 22})
def opset_too_new_for_10_9():
    model = small()
    model.opset_import[0].version = 23
    return model


@breaks(1, "E", "graph")
def fp16_scales_too_early():
    model = small()
    model.opset_import[0].version = 18
    return model


@breaks(1, "W", "graph", keep={"real": np.float32})
def opset_without_layer_norm():
    model = small(real=np.float32)
    model.opset_import[0].version = 16
    return model


@breaks(2, "E", "matmul")
def integer_product():
    model = small()
    put(put(model, "a", np.ones((2, 2), np.int8)), "b", np.ones((2, 2), np.int8))
    model.graph.node.append(helper.make_node("MatMulInteger", ["a", "b"], ["matmul"], "matmul"))
    return model


@breaks(2, "E", "own")
def operator_of_onnxruntime():
    return insert(small(), "QGemm", "own", "proj.in.dq", ["proj.product"], domain="com.microsoft")


@breaks(29, "E", "graph", facts=(BuildFacts(asked="fp16"), BuildFacts(asked="int8")))
def nothing_but_fp32():
    return small(real=np.float32, codes="")


@breaks(29, "W", "graph")
def fp32_without_a_wish():
    return nothing_but_fp32()


@breaks(30, "W", "image")
def open_height():
    model = small()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    return model


@breaks(30, "W", "sizes")
def computed_shape():
    model = small()
    model.graph.node.append(helper.make_node("Shape", ["image"], ["sizes"], "sizes"))
    return model


@breaks(30, "W", "graph")
def two_batches():
    model = small()
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "other"
    return model


@breaks(31, "E", "graph")
def product_that_does_not_fit():
    return put(small(), "head.weight", np.zeros((10, WIDTH + 1), np.float16))


@breaks(31, "W", "softmax")
def names_twice():
    model = small()
    node_named(model, "gelu").name = "softmax"
    return model


@breaks(31, "W", "graph")
def no_names():
    model = small()
    node_named(model, "gelu").name = ""
    return model


@breaks(32, "W", "attend")
def attention_operator():
    model = small()
    inputs = ["q.heads", "q.heads", "v.heads"]
    model.graph.node.append(helper.make_node("Attention", inputs, ["attend"], "attend"))
    return model


@breaks(32, "W", "gelu")
def gelu_too_early():
    model = small()
    model.opset_import[0].version = 19
    return model


@breaks(33, "E", "drop")
def dropout_in_training():
    model = put(put(small(), "ratio", np.float32(0.1)), "training", np.bool_(True))
    return insert(model, "Dropout", "drop", "gelu", ["fc2.in.q"], "ratio", "training")


@breaks(33, "W", "same2")
def identity_chain():
    model = insert(small(), "Identity", "same1", "gelu", ["fc2.in.q"])
    return insert(model, "Identity", "same2", "same1", ["fc2.in.q"])


@breaks(33, "W", "unused")
def dead_constant():
    return put(small(), "unused", np.zeros(3, np.float32))


@breaks(34, "E", "wide")
def float64_tensor():
    model = insert(small(), "Cast", "wide", "gelu", ["fc2.in.q"], to=TensorProto.DOUBLE)
    return insert(model, "Cast", "narrow", "wide", ["fc2.in.q"], to=TensorProto.FLOAT16)


@breaks(34, "E", "zero")
def large_index():
    return put(small(), "zero", np.int64(1 << 40))


def parity(**changes):
    known = {"num_images": 64, "agreement_percent": 100.0, "cosine": 1.0, "max_error": 0.0}
    return BuildFacts(parity=GraphParity(**{**known, **changes}))


@breaks(35, "W", "graph", facts=(parity(agreement_percent=98.0), parity()))
def other_classes():
    return small()


@breaks(35, "W", "graph", facts=(parity(cosine=0.9), parity()))
def other_logits():
    return small()


@breaks(41, "W", "fused")
def foreign_operator():
    return insert(small(), "FastGelu", "fused", "gelu", ["fc2.in.q"], domain="com.microsoft")


# Scales, zero points, codes


@breaks(3, "E", "proj.in.q")
def zero_point_not_zero():
    return put(small(), "proj.in.zero", np.int8(3))


@breaks(3, "E", "proj.in.dq")
def uint8_codes():
    return put(small(), "proj.in.zero", np.uint8(0))


@breaks(3, "E", "proj.in.q")
def computed_zero_point():
    model = insert(small(), "Cast", "computed", "image", ["image.cast"], to=TensorProto.INT8)
    node_named(model, "proj.in.q").input[2] = "computed"
    return model


@breaks(4, "E", "proj.in.q")
def codes_without_a_type():
    model = small()
    del node_named(model, "proj.in.q").input[2]
    return model


@breaks(5, "E", "proj.in.q")
def computed_scale():
    model = put(small(), "factor", np.float16(2))
    node = helper.make_node("Mul", ["proj.in.scale", "factor"], ["product"], "product")
    model.graph.node.insert(0, node)
    node_named(model, "proj.in.q").input[1] = "product"
    return model


@breaks(6, "E", "proj.in.q")
def scale_zero():
    return put(small(), "proj.in.scale", np.float16(0))


@breaks(6, "E", "proj.in.dq")
def scale_not_finite():
    return put(small(), "proj.in.scale", np.float16(np.inf))


@breaks(6, "W", "proj.in.q")
def scale_subnormal():
    return put(small(), "proj.in.scale", np.float16(1e-6))


@breaks(7, "E", "proj.in.q")
def activation_per_channel():
    model = put(small(), "proj.in.scale", np.full(WIDTH, 0.05, np.float16))
    put(model, "proj.in.zero", np.zeros(WIDTH, np.int8))
    return change(change(model, "proj.in.q", axis=2), "proj.in.dq", axis=2)


@breaks(9, "E", "proj.in.dq")
def codes_per_channel_computed():
    return activation_per_channel()


@breaks(8, "E", "proj.dq")
def axis_not_written():
    return change(small(), "proj.dq", axis=None)


@breaks(8, "E", "proj.dq")
def axis_of_input_channels():
    return change(small(), "proj.dq", axis=0)  # a square weight: only the product tells


@breaks(8, "E", "fc1.dq")
def axis_of_other_length():
    return change(small(), "fc1.dq", axis=0)


@breaks(10, "E", "proj.dq")
def too_few_zero_points():
    return put(small(), "proj.zero", np.zeros(1, np.int8))


@breaks(16, "E", "bias.dq")
def integer_bias():
    model = put(put(small(), "codes", np.ones(WIDTH, np.int32)), "scale", np.float16(0.01))
    node = helper.make_node("DequantizeLinear", ["codes", "scale"], ["bias.dq"], "bias.dq")
    model.graph.node.insert(0, node)
    node_named(model, "proj").input[1] = "bias.dq"
    return model


@breaks(26, "E", "fc2.in.q", target="tensorrt-ada", keep={"codes": "fp8"})
def both_kinds_of_codes():
    return put(small(), "fc2.in.zero", 0.0, FP8)


@breaks(36, "W", "proj.dq")
def lowest_code():
    codes = np.zeros((WIDTH, WIDTH), np.int8)
    codes[3, 4] = -128
    return put(small(), "proj.codes", codes)


@breaks(36, "W", "proj.dq")
def codes_at_the_end():
    return put(small(), "proj.codes", np.full((WIDTH, WIDTH), 127, np.int8))


def test_rule_36_tells_what_helps():
    """The narrow range is for codes of -128; wider ranges are for what is cut off."""
    lowest, cut = (
        check_onnx(make(), PROFILES["tensorrt"]) for make in (lowest_code, codes_at_the_end)
    )
    remedies = [{f.remedy for f in report.findings if f.rule == 36} for report in (lowest, cut)]
    assert ["narrow" in remedy for found in remedies for remedy in found] == [True, False]


@breaks(36, "W", "head.w.q")
def weights_cut_off():
    return rounded(small(), "head.weight", ["head"], "head.w", scale=0.0005)


@breaks(
    36,
    "W",
    "gelu",
    facts=(BuildFacts(clipped={"gelu": 0.02}), BuildFacts(clipped={"gelu": 0.0005})),
)
def activations_cut_off():
    return small()


@breaks(44, "E", "wide")
def nine_dimensions():
    model = small()
    shape = [1] * 8 + [-1]
    model = put(model, "nine", np.array(shape, np.int64))
    model.graph.node.append(helper.make_node("Reshape", ["logits", "nine"], ["wide"], "wide"))
    return model


@breaks(44, "E", "dilated")
def dilated_pool():
    model = small()
    pool = helper.make_node(
        "MaxPool", ["image"], ["dilated"], "dilated", kernel_shape=[2, 2], dilations=[2, 2]
    )
    model.graph.node.append(pool)
    return model


@breaks(44, "E", "resized")
def resized_beside_an_open_batch():
    model = put(small(), "sides", np.array([16, 16], np.int64))
    node = helper.make_node(
        "Resize", ["image", "", "", "sides"], ["resized"], "resized", axes=[2, 3]
    )
    model.graph.node.append(node)
    return model


@breaks(37, "W", "proj.codes")
def constant_with_two_grids():
    model = small()
    grid = ["proj.codes", "proj.scale", "proj.zero"]
    other = helper.make_node("DequantizeLinear", grid, ["other"], "other", axis=0)
    model.graph.node.insert(0, other)
    return model


@breaks(38, "W", "odd")
def odd_four_bits():
    return put(small(), "odd", np.zeros((2, 3)), INT4)


@breaks(39, "W", "blocks")
def blocks_of_rank_4():
    return insert(small(), "QuantizeLinear", "blocks", "scores", [], "proj.in.scale", block_size=16)


@breaks(40, "E", "proj.dq", tensorrt=("8.6", "8.6"), keep={"real": np.float32, "stored": False})
def stored_codes_for_8_6():
    return small()


# Placement


@breaks(11, "E", "proj.in.q")
def scale_of_another_type():
    return put(small(), "proj.in.scale", np.float32(0.05))


@breaks(11, "E", "proj.product")
def weight_of_another_type():
    return put(small(), "proj.scale", np.full(WIDTH, 0.002, np.float32))


@breaks(12, "E", "proj.in.q")
def pair_with_two_scales():
    model = put(small(), "other", np.float16(0.1))
    node_named(model, "proj.in.dq").input[1] = "other"
    return model


@breaks(12, "E", "proj.in.q")
def codes_moved():
    return insert(small(), "Identity", "moved", "proj.in.q", ["proj.in.dq"])


@breaks(12, "E", "proj.in.dq")
def codes_from_elsewhere():
    model = insert(small(), "Cast", "cast", "context.flat", ["proj.in.q"], to=TensorProto.INT8)
    return without(model, "proj.in.q")


@breaks(13, "E", "proj.product")
def activation_left_in_float():
    return unrounded(small(), "proj.in")


@breaks(13, "E", "head")
def weight_left_in_float():
    return rounded(small(), "first", ["head"], "first.in")


@breaks(14, "W", "proj.product")
def weight_transposed():
    return insert(small(), "Transpose", "turned", "proj.dq", ["proj.product"], perm=[1, 0])


@breaks(15, "W", "fc2.product")
def scaled_behind_its_grid():
    model = put(small(), "two", np.float16(2))
    return insert(model, "Mul", "scaled", "fc2.in.dq", ["fc2.product"], "two")


@breaks(15, "W", "fc2.product")
def factors_behind_the_grid():
    model = put(small(), "many", np.linspace(0.5, 2, 2 * WIDTH, dtype=np.float16))
    return insert(model, "Mul", "scaled", "fc2.in.dq", ["fc2.product"], "many")


@breaks(17, "W", "early.q")
def output_rounded_before_gelu():
    return rounded(small(), "fc1", ["gelu"], "early")


@breaks(17, "W", "early.q")
def scores_rounded():
    return rounded(small(), "scores", ["softmax"], "early")


@breaks(18, "W", "norm2")
def norm_input_rounded():
    return rounded(small(), "sum1", ["norm2"], "early")


@breaks(19, "W", "norm1")
def three_grids_on_one_tensor():
    return rounded(without_sharing(small()), "norm1", ["q.product"], "own", scale=0.1)


@breaks(19, "P", "norm1")
def grid_written_twice():
    return rounded(without_sharing(small()), "norm1", ["q.product"], "own")


def without_sharing(model):
    """The query reads LayerNorm's output itself."""
    node_named(model, "q.product").input[0] = "norm1"
    return model


@breaks(24, "W", "mean")
def norm_in_pieces():
    model, extra = put(small(), "last", np.int64([-1])), []
    extra.append(helper.make_node("ReduceMean", ["sum1", "last"], ["mean"], "mean"))
    extra.append(helper.make_node("Sub", ["sum1", "mean"], ["less"], "less"))
    extra.append(helper.make_node("Mul", ["less", "less"], ["square"], "square"))
    extra.append(helper.make_node("ReduceMean", ["square", "last"], ["var"], "var"))
    model.graph.node.extend(extra)
    return model


LARGE, USUAL = BuildFacts(largest={"sum2": 900.0}), BuildFacts(largest={"sum2": 90.0})


@breaks(24, "P", "norm", facts=(LARGE, USUAL))
def norm_of_large_values():
    return small()


# Attention


@breaks(20, "W", "softmax", keep={"attention": True})
def softmax_output_left_in_float():
    return unrounded(small(attention=True), "softmax.out")


@breaks(20, "W", "softmax", keep={"attention": True})
def context_left_in_float():
    return unrounded(small(attention=True), "proj.in")


@breaks(20, "W", "softmax")
def query_alone():
    return rounded(small(), "q.heads", ["scores"], "q.out")


@breaks(21, "W", "softmax", keep={"attention": True})
def odd_heads():
    model = small(attention=True)  # 64 = 8 heads of 8, which no INT8 kernel takes
    for name in "qkv":
        put(model, f"{name}.sizes", np.int64([0, TOKENS, 8, 8]))
    return model


@breaks(21, "W", "softmax", keep={"attention": True})
def one_head():
    model = small(attention=True)
    for name in "qkv":
        put(model, f"{name}.sizes", np.int64([0, TOKENS, 1, WIDTH]))
    return model


@breaks(21, "E", "softmax", keep={"attention": True})
def fp8_attention_without_fp8():
    return small(attention=True, codes="fp8")


@breaks(21, "W", "softmax", keep={"attention": True})
def many_tokens():
    model = small(attention=True)
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 8 * 4 * 150
    put(model, "patch.sizes", np.int64([0, WIDTH, 600 * 4]))
    for name in ("q.sizes", "k.sizes", "v.sizes"):
        put(model, name, np.int64([0, 600 * 4, HEADS, 16]))
    return put(model, "flat.sizes", np.int64([0, 600 * 4, WIDTH]))


@breaks(21, "W", "softmax", target="rtx-ada", keep={"attention": True, "codes": "fp8"})
def few_tokens_in_fp8():
    model = small(attention=True, codes="fp8")
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 32
    put(model, "patch.sizes", np.int64([0, WIDTH, TOKENS // 2]))
    for name in ("q.sizes", "k.sizes", "v.sizes"):
        put(model, name, np.int64([0, TOKENS // 2, HEADS, 16]))
    return put(model, "flat.sizes", np.int64([0, TOKENS // 2, WIDTH]))


@breaks(22, "W", "scaled")
def scores_scaled():
    model = put(small(), "quarter", np.float16(0.25))
    return insert(model, "Mul", "scaled", "scores", ["softmax"], "quarter")


@breaks(23, "W", "masked", keep={"attention": True})
def computed_mask():
    model = insert(small(attention=True), "Neg", "mask", "scores", ["softmax"])
    node_named(model, "softmax").input[0] = "scores"
    return insert(model, "Add", "masked", "scores", ["softmax"], "mask")


# Device


@breaks(25, "E", "norm1.out.q", keep={"codes": "int8"})
def fp8_on_ampere():
    return small(codes="fp8")


@breaks(27, "W", "patch")
def rounded_patch_embedding():
    model = rounded(small(), "image.cast", ["patch"], "image.in")
    return rounded(model, "patch.weight", ["patch"], "patch.w")


@breaks(27, "E", "patch", target="tensorrt-ada", keep={"codes": "fp8"})
def large_kernel_in_fp8():
    model = rounded_patch_embedding()
    return put(put(model, "image.in.zero", 0.0, FP8), "patch.w.zero", 0.0, FP8)


@breaks(28, "W", "head")
def rounded_head():
    return rounded(rounded(small(), "first", ["head"], "first.in"), "head.weight", ["head"], "w")


# What the compiler taught; test_rules_compiled.py has it say so


@breaks(42, "W", "qkv.product")
def cut_behind_the_bias():
    return copied(FusedTransformer().model())


@breaks(43, "E", "proj.product")
def scale_in_fp32_and_a_cast():
    model = put(small(), "proj.scale", np.full(WIDTH, 0.002, np.float32))
    return insert(model, "Cast", "half", "proj.dq", ["proj.product"], to=TensorProto.FLOAT16)


@pytest.mark.parametrize(
    ("number", "level", "node", "make", "target", "keep", "facts", "tensorrt"), CASES
)
def test_rule(number, level, node, make, target, keep, facts, tensorrt):
    bad, good = facts or (None, None)
    assert (level, node) in found(make(), number, target, bad, tensorrt)
    assert found(small(**keep), number, target, good, tensorrt) == []


def test_every_rule_has_a_graph_that_breaks_it():
    assert {case.values[0] for case in CASES} == set(RULES) == {*range(1, 45)}


@pytest.mark.parametrize("target", PROFILES)
@pytest.mark.parametrize("attention", [False, True])
def test_conforming_model_has_no_findings(target, attention):
    report = check_onnx(small(attention=attention), PROFILES[target])
    assert report.findings == ()
    assert set(report.not_run) == {35, 40}


@pytest.mark.parametrize("target", ["tensorrt-ada", "rtx-ada", "jetson-thor"])
def test_conforming_fp8_model_has_no_findings(target):
    assert check_onnx(small(codes="fp8", attention=True), PROFILES[target]).findings == ()
