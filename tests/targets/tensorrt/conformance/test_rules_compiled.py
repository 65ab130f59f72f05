"""Faulty graphs that the checker names and NVIDIA's compiler refuses or runs in float."""

from collections import Counter

import numpy as np
import pytest
import test_conformance_rules as broken
from compiler_verdict import verdict
from fused_transformer import BETWEEN, CUTS, FusedTransformer
from onnx import TensorProto
from random_transformers import RandomTransformer, random_transformer
from small_transformer import WIDTH, Transformer, insert, node_named, put

from edgevit.targets.tensorrt.conformance import check_onnx
from edgevit.targets.tensorrt.profiles import PROFILES

pytest.importorskip("tensorrt_rtx")
CARDS = ("SM86", "SM89", "SM120")
FUSED = [
    *({"cut": cut} for cut in CUTS),
    *({"cut": "split", "between": between} for between in BETWEEN[1:]),
    {"attention": True},
]
HONOURED = [
    *({"cut": cut, "behind_bias": False} for cut in CUTS),
    {"per_channel": False},
    {"codes": "fp8"},
    {"cut": "split", "parts": 4},
    {"cut": "split", "doubled": True},
    {"behind_bias": False, "attention": True},
]


def rules_broken(model, target="rtx-ada"):
    return {found.rule for found in check_onnx(model, PROFILES[target]).findings}


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("arguments", FUSED, ids=str)
def test_thirds_cut_behind_the_bias_run_in_float(arguments, card):
    model = FusedTransformer(**arguments).model()
    assert 42 in rules_broken(model)
    assert verdict(model, card).in_float == ("qkv.product",)


@pytest.mark.parametrize("arguments", HONOURED, ids=str)
def test_other_cuts_stay_in_8_bits(arguments):
    model = FusedTransformer(**arguments).model()
    assert 42 not in rules_broken(model)
    assert not verdict(model, "SM89").is_fault


@pytest.mark.parametrize("attention", [False, True])
def test_thirds_cut_before_the_bias_take_fewer_kernels_than_three_products(attention):
    """One kernel adds the three biases and cuts; three products leave three such kernels."""
    sizes = {"blocks": 3, "heads": 4, "head": 32, "attention": attention}
    three = RandomTransformer(cut={}, **sizes).model()
    thirds = {f"b{block}.": "cut_before_bias" for block in range(3)}
    found = [
        verdict(model, "SM89") for model in (RandomTransformer(cut=thirds, **sizes).model(), three)
    ]
    assert not any(one.is_fault for one in found)
    assert found[1].kernels - found[0].kernels == 3 * 2


@pytest.mark.parametrize("card", CARDS)
def test_scales_of_two_types_are_refused(card):
    model = broken.scale_in_fp32_and_a_cast()
    assert 43 in rules_broken(model)
    assert verdict(model, card).refused == "EV753"


FLOAT_BY_OLDER_RULES = {
    7: broken.activation_per_channel,
    8: broken.axis_of_input_channels,
    13: broken.activation_left_in_float,
    15: broken.factors_behind_the_grid,
    20: broken.softmax_output_left_in_float,
}
"""Rules from documents that the compiler bears out: the product multiplies floats."""


@pytest.mark.parametrize("rule", FLOAT_BY_OLDER_RULES)
def test_older_rules_are_borne_out(rule):
    model = FLOAT_BY_OLDER_RULES[rule]()
    assert rule in rules_broken(model)
    assert verdict(model, "SM89").in_float


@pytest.mark.parametrize("make", [broken.odd_heads, broken.few_tokens_in_fp8, broken.computed_mask])
def test_attention_outside_the_limits_is_not_one_kernel(make):
    found = verdict(make(), "SM89")
    assert rules_broken(make()) & {21, 23}
    assert found.unfused == 1


def test_a_single_head_is_one_kernel_from_ada_on():
    assert verdict(broken.one_head(), "SM86").unfused == 1
    assert 21 in rules_broken(broken.one_head(), "rtx-ampere")
    assert not verdict(broken.one_head(), "SM89").is_fault
    assert 21 not in rules_broken(broken.one_head())


REFUSED = (
    broken.integer_product,
    broken.operator_of_onnxruntime,
    broken.zero_point_not_zero,
    broken.scale_zero,
    broken.axis_of_other_length,
    broken.too_few_zero_points,
    broken.scale_of_another_type,
    broken.integer_bias,
    broken.both_kinds_of_codes,
    broken.dropout_in_training,
)


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_errors_of_the_checker_that_the_compiler_refuses(make):
    report = check_onnx(make(), PROFILES["rtx-ada"])
    assert not report.conforms
    assert verdict(make(), "SM89").refused in ("EV752", "EV753")


@pytest.mark.parametrize("rounds_from_half", [True, False])
def test_an_island_of_float32_keeps_its_8_bits(rounds_from_half):
    """As the targets write it: Q in float16 and DQ in float32, or both in float32."""
    model = insert(Transformer().model(), "Cast", "down", "fc2", ["sum2"], to=TensorProto.FLOAT16)
    put(model, "fc2.scale", np.full(WIDTH, 0.002, np.float32))
    put(model, "fc2.bias", np.zeros(WIDTH, np.float32))
    wide = np.float32(np.float16(0.05))
    if rounds_from_half:
        put(model, "wide", wide)
        node_named(model, "fc2.in.dq").input[1] = "wide"
    else:
        put(model, "fc2.in.scale", wide)
        insert(model, "Cast", "up", "gelu", ["fc2.in.q"], to=TensorProto.FLOAT)
    assert not verdict(model, "SM89").is_fault


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("attention", [False, True])
def test_the_conforming_graph_is_honoured(attention, card):
    assert not verdict(Transformer(attention=attention).model(), card).is_fault


def test_checker_and_compiler_agree_on_random_graphs():
    """22 kinds of graphs in turn; docs/check.md says why the checker is stricter in six."""
    seen = Counter()
    checker_alone = set()
    for seed in range(30):
        change, model = random_transformer(seed)
        verdicts = (bool(rules_broken(model)), verdict(model, "SM89").is_fault)
        seen[verdicts] += 1
        if verdicts == (True, False):
            checker_alone.add(change)
    assert seen == {(False, False): 4, (True, True): 20, (True, False): 6}
    assert checker_alone == {"weight_turned", "weight_reshaped", "factor_between", "output_rounded"}
